"""A training step with the thermal-mask loss against one without, in one run.

    python benchmarks/thermal_loss.py DATA [--model mini] [--batch 8] [--crop 256] [--rounds 5]
        [--shares 0.25 1.0]

DATA is an indexed data set with pairs; thermal masks that are missing are made in the step, as
in training.
All kinds of step see the same samples and take turns; the table shows the mean milliseconds of
processor time for composing the batch, for the forward and for the backward pass, and the ratio
to the step without the loss. Means, since the number of decoded samples is drawn anew in every
step. The step leaves out the optimiser and counts the batch, which training composes in a thread
ahead, so the ratio is one from above where a core is free.
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

from v2ir.model import Model, load_model
from v2ir.records import no_progress
from v2ir.training import Stage
from v2ir.training.cache import Caches, LatentCache, TextCache
from v2ir.training.objectives import Draw
from v2ir.training.objectives.denoising import Denoising
from v2ir.training.scenes import scenes_of, training_scenes

PARTS = ("batch", "forward", "backward", "step")
Clock = dict[str, float]


def timed(clock: Clock, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call the function and add its seconds to a part of the clock and to the step."""
    began = time.process_time()
    result = function(*arguments)
    seconds = time.process_time() - began
    clock[name] += seconds
    clock["step"] += seconds
    return result


def objective(model: Model, folder: Path, stage: Stage) -> Denoising:
    """Return the objective of a stage with the caches in a folder."""
    encode, embed = model.encode, lambda prompt: model.embed_prompts([prompt])[0]
    caches = Caches(LatentCache(folder, encode, "x"), TextCache(folder / "text", embed, "x"))
    made = Denoising(model, stage, caches)
    for module in made.modules.values():
        module.requires_grad_(True)
    return made


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.25, 1.0])
    given = parser.parse_args()
    torch.set_flush_denormal(True)
    model = load_model(given.model)
    base = Stage(name="s", steps=1, batch_size=given.batch, variants=2, crop=given.crop)
    stages = {"without": base}
    for share in given.shares:
        update = {"thermal": 50.0, "thermal_share": share}
        stages[f"share {share:g}"] = base.model_copy(update=update)
    scenes = scenes_of(base, training_scenes(given.data))[: given.batch]
    seconds: dict[str, list[Clock]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        objectives = {kind: objective(model, Path(folder), s) for kind, s in stages.items()}
        objectives["without"].prepare(scenes, no_progress)
        for turn in range(-1, given.rounds):
            for kind, made in objectives.items():
                draws = [
                    Draw(n, np.random.default_rng([max(turn, 0), n])) for n in range(len(scenes))
                ]
                clock: Clock = defaultdict(float)
                batch = timed(clock, "batch", made.batch, scenes, draws)
                loss = timed(clock, "forward", made.loss, batch)
                timed(clock, "backward", loss.backward)
                if turn >= 0:  # The first turn warms up.
                    seconds[kind].append(clock)
    print(f"{'':12}" + "".join(f"{part + ' ms':>13}" for part in PARTS) + f"{'ratio':>9}")
    means = {
        kind: {part: 1000 * statistics.fmean(clock[part] for clock in clocks) for part in PARTS}
        for kind, clocks in seconds.items()
    }
    for kind, row in means.items():
        values = "".join(f"{row[part]:13.0f}" for part in PARTS)
        print(f"{kind:12}{values}{row['step'] / means['without']['step']:9.2f}")


if __name__ == "__main__":
    main()
