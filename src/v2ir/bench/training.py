"""Training steps with everything cached against steps that compute it all, and preparation."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from v2ir.annotation import annotate, make_captioner, make_segmenter
from v2ir.bench.journal import Cell, Sample, Section
from v2ir.bench.machine import Meter
from v2ir.bench.pictures import write_pairs
from v2ir.bench.timing import Task, median_seconds, paired_ratio
from v2ir.bench.workbench import Workbench
from v2ir.data import SplitRule, index
from v2ir.files import read_jsonl, write_jsonl
from v2ir.model import Model
from v2ir.model.networks import encode_mode
from v2ir.records import Progress, no_progress
from v2ir.training import Stage
from v2ir.training.cache import Caches, LatentCache, TextCache
from v2ir.training.objectives import Draw
from v2ir.training.objectives.denoising import Denoising
from v2ir.training.objectives.objective import read_part
from v2ir.training.scenes import TrainingScene, scenes_of, training_scenes
from v2ir.training.train import no_denormals

PARTS = ("captioner", "segmenter", "text encoder", "autoencoder", "batch", "forward", "backward")
PREPARATIONS = ("index", "captions", "maps", "latents")
BATCH_SIZE = 4


class Forgetful(LatentCache):
    """A cache that keeps nothing."""

    def get_or_make(self, what: str, make: Callable[[], Tensor]) -> Tensor:
        """Compute the entry."""
        return make().half().float()


class TrainingSteps:
    """Forward and backward passes of the denoising objective on one batch of scenes.

    Attributes:
        model: The model; its weights get gradients and do not change.
        scenes: The scenes of the batch.
        folder: Where the caches are.
        meter: Gives the clock.
        turn: Counts the steps, so that each draws anew.
    """

    def __init__(
        self, model: Model, scenes: Sequence[TrainingScene], folder: Path, meter: Meter
    ) -> None:
        self.model = model
        self.scenes = list(scenes)
        self.folder = folder
        self.meter = meter
        self.turn = 0
        self._stage = Stage(name="pairs", steps=1, batch_size=len(self.scenes), variants=2)
        card = model.card
        self._captioner = make_captioner(card.captioner or "statistics")
        self._segmenter = make_segmenter(card.segmenter or "regions")

    def prepare(self) -> None:
        """Fill the caches."""
        self._objective(defaultdict(float), cached=True).prepare(self.scenes, no_progress)

    def step(self, *, cached: bool) -> dict[str, float]:
        """Do one pass there and back and return its seconds by part.

        Args:
            cached: Take latents, captions, maps and embeddings from the caches; otherwise
                compute all of them, as the released training code does.
        """
        self.turn += 1
        clock: dict[str, float] = defaultdict(float)
        made = self._objective(clock, cached=cached)
        draws = [Draw(n, np.random.default_rng([self.turn, n])) for n in range(len(self.scenes))]
        if not cached:
            self._annotate(clock)
        batch = self._timed(clock, "batch", made.batch)(self.scenes, draws)
        loss = self._timed(clock, "forward", made.loss)(batch)
        self._timed(clock, "backward", loss.backward)()
        for module in made.modules.values():
            module.zero_grad(set_to_none=True)
            module.requires_grad_(False)
        return dict(clock)

    def _annotate(self, clock: dict[str, float]) -> None:
        pixels = [read_part(item, "visible") for item in self.scenes]
        self._timed(clock, "captioner", self._captioner.caption)(pixels)
        self._timed(clock, "segmenter", self._segmenter.segment)(pixels)
        self.model.forget_prompts()
        prompts = [str(self.turn)] * len(self.scenes)
        self._timed(clock, "text encoder", self.model.embed)(prompts)

    def _objective(self, clock: dict[str, float], *, cached: bool) -> Denoising:
        model = self.model
        kind = LatentCache if cached else Forgetful

        def as_training(images: Tensor) -> Tensor:
            return encode_mode(model.autoencoder, images.to(model.device))

        encode = self._timed(clock, "autoencoder", as_training)
        embed = self._timed(clock, "text encoder", lambda prompt: model.embed_prompts([prompt])[0])
        latents = kind(self.folder, encode, "bench")
        visible = None
        if model.image_encoder is not None:
            seen = self._timed(clock, "autoencoder", model.visible_latents)
            visible = kind(self.folder, seen, "bench with features")
        caches = Caches(latents, TextCache(self.folder / "text", embed, "bench"), visible)
        made = Denoising(model, self._stage, caches)
        for module in made.modules.values():
            module.requires_grad_(True)
        return made

    def _timed(
        self, clock: dict[str, float], name: str, function: Callable[..., Any]
    ) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            began = self.meter.clock.wall()
            try:
                return function(*arguments)
            finally:
                clock[name] += self.meter.clock.wall() - began

        return run


def measure_training(bench: Workbench, progress: Progress) -> tuple[Section, ...]:
    """Measure the preparation of a drawn data set, then training steps on it in turns."""
    preparation = _preparation(bench)
    data = bench.folder / "pairs"
    if not (data / "scenes.jsonl").exists():  # prepared in the run that was interrupted
        prepare_data(bench, data)
    scenes = scenes_of(Stage(name="pairs", steps=1), training_scenes(data))[:BATCH_SIZE]
    steps = TrainingSteps(bench.model, scenes, bench.folder / "latents", bench.meter)
    steps.prepare()
    tasks = [
        Task(
            f"training/{name}",
            lambda kept=kept: steps.step(cached=kept),  # type: ignore[misc]
            len(scenes),
            warm_up=lambda kept=kept: steps.step(cached=kept),  # type: ignore[misc]
        )
        for name, kept in (("cached", True), ("computed", False))
    ]
    with no_denormals():
        bench.compare(tasks, progress)
    cached, computed = (bench.journal.samples(task.name) for task in tasks)
    return (preparation, _section(bench, cached, computed))


def _section(bench: Workbench, cached: Sequence[Sample], computed: Sequence[Sample]) -> Section:
    rows: list[tuple[Cell, ...]] = [
        (part, median_part(cached, part), median_part(computed, part)) for part in PARTS
    ]
    both = [median_seconds(samples) for samples in (cached, computed)]
    rows.append(("images a s", *(1 / seconds for seconds in both)))
    ratio = paired_ratio(computed, cached)
    return Section(
        "training",
        f"{bench.settings.model}, batch {BATCH_SIZE}, 256 px crops, {bench.settings.device}",
        ("ms of a pass, by part", "with caches", "without"),
        tuple(rows),
        (
            f"With caches {ratio:.2f} times the images a second. `batch` holds the autoencoder's "
            "time. Without: captions, maps, latents and embeddings are computed in every pass.",
        ),
    )


def median_part(samples: Sequence[Sample], part: str) -> float:
    """Return the median milliseconds of a part of a step; 0 where it did not occur."""
    return 1000 * statistics.median((each.parts or {}).get(part, 0.0) for each in samples)


def _preparation(bench: Workbench) -> Section:
    number = bench.settings.images
    sample = bench.once(
        f"preparation/{number} pairs", lambda: prepare_data(bench, bench.folder / "pairs"), number
    )
    seconds = sample.parts or {}
    rows = tuple((name, 1000 * seconds[name] / number) for name in PREPARATIONS)
    return Section(
        "preparation",
        f"{number} pairs of {bench.settings.size} px, {bench.settings.device}",
        ("pass", "ms a pair"),
        rows,
        ("Done once for a data set. latents: all parts of two variants of each scene.",),
    )


def prepare_data(bench: Workbench, data: Path) -> dict[str, float]:
    """Draw a data set, index and annotate it and encode it; return the seconds by pass."""
    card, meter = bench.model.card, bench.meter
    write_pairs(data, max(bench.settings.images, BATCH_SIZE), bench.settings.size)
    seconds = {"index": meter(lambda: index(data, split=SplitRule(by="random"))).wall}
    # All for training: what is measured needs no test scenes.
    rows = [{**row, "split": "train"} for row in read_jsonl(data / "scenes.jsonl")]
    write_jsonl(data / "scenes.jsonl", rows)
    captioner = make_captioner(card.captioner or "statistics")
    segmenter = make_segmenter(card.segmenter or "regions")
    seconds["captions"] = meter(lambda: annotate(data, captioner=captioner, segmenter=None)).wall
    seconds["maps"] = meter(lambda: annotate(data, captioner=None, segmenter=segmenter)).wall
    steps = TrainingSteps(bench.model, training_scenes(data), data / "cache", meter)
    seconds["latents"] = meter(steps.prepare).wall
    return seconds
