"""Where an image's time goes: decode, caption, map, encode, denoise, decode latents, write."""

from __future__ import annotations

import contextlib
import functools
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from v2ir.bench.journal import Cell, Section
from v2ir.bench.machine import Meter, synchronize
from v2ir.bench.timing import Task
from v2ir.bench.workbench import Workbench
from v2ir.files import hash_file
from v2ir.images import read_visible, write_infrared
from v2ir.model import Model
from v2ir.records import Progress
from v2ir.sampling import Job, Translator
from v2ir.sampling.geometry import scaled, undo

STAGES = (
    "decode",
    "caption",
    "map",
    "embed text",
    "encode",
    "denoise",
    "decode latents",
    "write",
)
_OF_THE_MODEL = {
    "embed_prompts": "embed text",
    "encode": "encode",
    "encode_visible": "encode",
    "decode": "decode latents",
}


class StageClock:
    """Adds up seconds by stage; the time of a stage within another counts for itself alone.

    Attributes:
        seconds: Seconds by stage.
    """

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner: list[float] = []

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as a part of a stage."""
        synchronize(self.meter.device)
        began = self.meter.clock.wall()
        self._inner.append(0.0)
        try:
            yield
        finally:
            synchronize(self.meter.device)
            spent = self.meter.clock.wall() - began
            self.seconds[name] += spent - self._inner.pop()
            if self._inner:
                self._inner[-1] += spent

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed as a stage."""

        def timed(*arguments: Any, **named: Any) -> Any:
            with self.stage(name):
                return function(*arguments, **named)

        return timed

    @contextlib.contextmanager
    def of_model(self, model: Model) -> Iterator[None]:
        """Time the model's autoencoder and text encoder while the block runs."""
        for method, name in _OF_THE_MODEL.items():
            setattr(model, method, self.around(name, getattr(model, method)))
        try:
            yield
        finally:
            for method in _OF_THE_MODEL:
                delattr(model, method)  # the class's own method shows again


def measure_stages(bench: Workbench, progress: Progress) -> tuple[Section, ...]:
    """Take apart the time of an image at each speed, one image and one stage after the other."""
    speeds = bench.settings.speeds
    tasks = [_task(bench, name) for name in speeds]
    bench.compare(tasks, progress)
    found = [bench.journal.samples(task.name) for task in tasks]
    columns = tuple(
        {
            stage: statistics.median((each.parts or {}).get(stage, 0.0) for each in samples)
            for stage in STAGES
        }
        if samples
        else dict.fromkeys(STAGES, 0.0)
        for samples in found
    )
    rows: list[tuple[Cell, ...]] = [
        (stage, *(1000 * column[stage] for column in columns)) for stage in STAGES
    ]
    rows.append(("all", *(1000 * sum(column.values()) for column in columns)))
    section = Section(
        "stages",
        f"ms an image, {bench.settings.model}, {bench.settings.size} px, {bench.settings.device}",
        ("stage", *speeds),
        tuple(rows),
        (
            "One image and one stage at a time; a translation does decode, caption, map and write "
            "beside the network where there are cores for it.",
        ),
    )
    return (section,)


def _task(bench: Workbench, speed: str) -> Task:
    name = f"stages/{speed}"
    out = bench.output(name)
    job = bench.jobs(1, out)[0]

    @functools.cache
    def translator(**changes: Any) -> Translator:
        return bench.translator(speed=speed, batch_size=1, **changes)

    def run(**changes: Any) -> dict[str, float]:
        return time_stages(bench, translator(**changes), job)

    def before() -> None:
        bench.clear(out)
        translator().model.forget_prompts()

    def warm_up() -> None:
        before()
        run(steps=1)

    return Task(name, run, warm_up=warm_up, before=before)


def time_stages(bench: Workbench, translator: Translator, job: Job) -> dict[str, float]:
    """Translate one photograph and return the seconds of each of `STAGES`."""
    clock, annotators = StageClock(bench.meter), bench.annotators
    with clock.stage("decode"):
        photograph = read_visible(job.source)
        geometry = translator.fit(photograph.shape[1], photograph.shape[0])
        shown = scaled(photograph, geometry)
    with clock.stage("caption"):
        caption = annotators.caption(job.name, shown) if translator.takes_captions else None
    with clock.stage("map"):
        found = annotators.segment(job.name, shown) if translator.takes_maps else None
    with clock.stage("decode"):
        image = translator.prepare(
            photograph, key=hash_file(job.source), caption=caption, segmentation=found
        )
    with clock.of_model(translator.model), clock.stage("denoise"):
        pixels = translator.run([image])[0]
    with clock.stage("write"):
        write_infrared(job.output, undo(pixels, geometry))
    return dict(clock.seconds)
