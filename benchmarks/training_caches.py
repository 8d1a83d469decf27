"""A training step with everything cached against one that computes it all, in one run.

    python benchmarks/training_caches.py DATA [--model mini] [--batch 4] [--rounds 3]

DATA is an indexed data set with visible images. Both kinds of step see the same samples;
rounds take turns, and the table shows the median milliseconds of each part and the ratio.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from v2ir.annotation import make_captioner, make_segmenter
from v2ir.model import Model, load_model
from v2ir.records import no_progress
from v2ir.training import Stage
from v2ir.training.cache import Caches, LatentCache, TextCache
from v2ir.training.objectives import Draw
from v2ir.training.objectives.denoising import Denoising
from v2ir.training.objectives.objective import read_part
from v2ir.training.scenes import scenes_of, training_scenes

Clock = dict[str, float]


def timed(clock: Clock, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, which adds its seconds to a part of the clock."""

    def run(*arguments: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            clock[name] += time.perf_counter() - began

    return run


class Forgetful(LatentCache):
    """A cache that keeps nothing."""

    def get_or_make(self, what: str, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Compute the entry."""
        return make().half().float()


def objective(model: Model, folder: Path, stage: Stage, clock: Clock, cached: bool) -> Denoising:
    """Return the objective with or without its cache."""
    kind = LatentCache if cached else Forgetful
    encode = timed(clock, "autoencoder", lambda x: model.encode(x))
    embed = timed(clock, "text encoder", lambda prompt: model.embed_prompts([prompt])[0])
    made = Denoising(
        model, stage, Caches(kind(folder, encode, "x"), TextCache(folder / "text", embed, "x"))
    )
    for module in made.modules.values():
        module.requires_grad_(True)
    return made


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_flush_denormal(True)
    model = load_model(given.model)
    stage = Stage(name="pairs", steps=1, batch_size=given.batch, variants=2)
    scenes = scenes_of(stage, training_scenes(given.data))[: given.batch]
    captioner, segmenter = make_captioner("statistics"), make_segmenter("regions")
    seconds: dict[bool, list[Clock]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as folder:
        for kept in (True, False):
            objective(model, Path(folder), stage, defaultdict(float), kept).prepare(
                scenes, no_progress
            )
        for turn in range(given.rounds):
            for kept in (True, False):
                clock: Clock = defaultdict(float)
                made = objective(model, Path(folder), stage, clock, kept)
                draws = [Draw(n, np.random.default_rng([turn, n])) for n in range(len(scenes))]
                began = time.perf_counter()
                if not kept:
                    pixels = [read_part(item, "visible") for item in scenes]
                    timed(clock, "captioner", captioner.caption)(pixels)
                    timed(clock, "segmenter", segmenter.segment)(pixels)
                    model.forget_prompts()
                    timed(clock, "text encoder", model.embed)([str(turn)] * len(scenes))
                batch = timed(clock, "batch", made.batch)(scenes, draws)
                loss = timed(clock, "forward", made.loss)(batch)
                timed(clock, "backward", loss.backward)()
                clock["step"] = time.perf_counter() - began
                seconds[kept].append(clock)
    parts = ("captioner", "segmenter", "text encoder", "autoencoder", "forward", "backward", "step")
    print(f"{'part':14} {'cached ms':>10} {'computed ms':>12}")
    rows = {}
    for part in parts:
        with_, without = (
            1000 * statistics.median(clock[part] for clock in seconds[kept])
            for kept in (True, False)
        )
        rows[part] = (with_, without)
        print(f"{part:14} {with_:10.1f} {without:12.1f}")
    print(f"a step without caches takes {rows['step'][1] / rows['step'][0]:.2f} times as long")


if __name__ == "__main__":
    main()
