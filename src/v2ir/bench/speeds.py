"""Each speed beside the published procedure, in one run on the same weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from v2ir.bench.journal import Cell, Sample, Section
from v2ir.bench.reference import GUIDANCE, STEPS, PublishedProcedure
from v2ir.bench.timing import Task, at_steps, least_ratio, median_seconds, paired_ratio
from v2ir.bench.workbench import FULL_SIZE, BenchSettings, Workbench
from v2ir.model import Conditions
from v2ir.records import Progress
from v2ir.sampling import GuidedDenoiser, Translator, solve
from v2ir.sampling.speeds import Precision

MEGABYTE = 2**20
# The published sampler, which the reference is and `exact` computes for less.
LONG = frozenset({"exact", "reference"})
COLUMNS = (
    "speed",
    "batch",
    "steps",
    "evaluations",
    "images",
    "runs",
    "s/image",
    "ratio",
    "CPU ratio",
    "least CPU",
    "peak MB",
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table to be measured.

    Attributes:
        speed: Row of `SPEEDS`, or `reference`, and the number format where one was asked for.
        tasks: One task, or two with n and 2 n steps.
        steps: Steps of the procedure.
        evaluations: Network evaluations an image.
        batch: Batch size, or None for the speed's own.
    """

    speed: str
    tasks: tuple[Task, ...]
    steps: int
    evaluations: int
    batch: int | None = None


def measure_speeds(bench: Workbench, progress: Progress) -> tuple[Section, ...]:
    """Measure the reference and each speed in interleaved rounds.

    Raises:
        InputError: If the model cannot do a speed, or does not take the three conditions.
    """
    rows = [_reference_row(bench)]
    settings = bench.settings
    for batch in settings.batch_sizes or (None,):
        for precision in settings.precisions or (None,):
            rows += [_row(bench, name, batch, precision) for name in settings.speeds]
    bench.compare([task for row in rows for task in row.tasks], progress)
    return (_section(bench, rows),)


def _reference_row(bench: Workbench) -> Row:
    limit = bench.settings.reference_steps
    tasks = tuple(_published(bench, steps) for steps in _steps_to_run(STEPS, limit))
    return Row("reference", tasks, STEPS, 4 * STEPS, batch=1)


def most_images(settings: BenchSettings) -> int:
    """Return the most photographs of one run of a quick speed.

    At full size an image takes many seconds, of which those of the first are no others than
    those of the eighth.
    """
    return min(settings.images, 2) if settings.model == FULL_SIZE else settings.images


def _published(bench: Workbench, steps: int) -> Task:
    name = f"speeds/reference, {steps} steps"
    out = bench.output(name)

    def procedure(number: int) -> PublishedProcedure:
        captioner, segmenter = bench.annotators.captioner, bench.annotators.segmenter
        settings = bench.settings
        return PublishedProcedure(
            bench.model, captioner, segmenter, settings.size, number, settings.seed
        )

    paths = bench.photographs(1)

    def warm_up() -> None:
        bench.clear(out)
        procedure(1)(paths, out)

    return Task(
        name,
        lambda: procedure(steps)(paths, out),
        warm_up=warm_up,
        before=lambda: bench.clear(out),
    )


def _row(bench: Workbench, name: str, batch: int | None, precision: Precision | None) -> Row:
    """Return the line of a speed; the long ones at the published guidance scales."""
    settings, long = bench.settings, name in LONG
    changes: dict[str, Any] = {"speed": name, "batch_size": batch, "precision": precision}
    if long:
        # A model's own scales may let all but one evaluation cancel, which would flatter.
        changes["guidance"] = GUIDANCE
    translator = bench.translator(**changes)
    steps, size = translator.steps, translator.batch_size
    evaluations = count_evaluations(translator)
    images = max(size, min(most_images(settings), 400 // evaluations))
    title = f"speeds/{name}" + (f", batch {batch}" if batch else "")
    title += f", {precision}" if precision else ""
    tasks = tuple(
        bench.translation(f"{title}, {few} steps", images, **changes, steps=few)
        if long
        else bench.translation(title, images, **changes)
        for few in _steps_to_run(steps, settings.reference_steps if long else None)
    )
    label = f"{name}, {precision}" if precision else name
    return Row(label, tasks, steps, evaluations, size)


class _Silent:
    """A denoiser that costs nothing.

    Attributes:
        takes_scales: Whether it stands for a network with guidance folded in.
    """

    def __init__(self, takes_scales: bool) -> None:
        self.takes_scales = takes_scales

    def __call__(self, noisy: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        return torch.zeros_like(noisy)


def count_evaluations(translator: Translator) -> int:
    """Return how many rows the network is evaluated on for one image."""
    model, card = translator.model, translator.model.card
    guided = GuidedDenoiser(
        _Silent(card.guidance_range is not None),
        translator.guidance,
        model.schedule.num_timesteps,
        cancelling=translator.plan.speed.cancelling,
    )
    blank = torch.zeros(1, card.channels, 2, 2)
    text = torch.zeros(1, 1, 1)
    named = {"visible": blank, "segmentation": blank, "text": text}
    present = {name: value for name, value in named.items() if name in card.conditions}
    solve(
        guided,
        blank,
        Conditions(**present, null_text=text),
        config=model.scheduler.config,
        solver=translator.solver,
        steps=translator.steps,
        generators=[torch.Generator()],
    )
    return guided.evaluations


def _steps_to_run(steps: int, limit: int | None) -> tuple[int, ...]:
    """Return the numbers of steps that are run for what takes `steps`."""
    return (steps,) if limit is None or 2 * limit >= steps else (limit, 2 * limit)


def _samples(bench: Workbench, row: Row) -> list[Sample]:
    """Return the samples of a line; scaled to all steps where fewer were run."""
    return _scaled(bench, row, [bench.journal.samples(task.name) for task in row.tasks])


def _scaled(bench: Workbench, row: Row, found: Sequence[list[Sample]]) -> list[Sample]:
    if len(found) == 1:
        return found[0]
    limit = bench.settings.reference_steps
    assert limit is not None
    return at_steps(found[0], found[1], limit, row.steps)


def _section(bench: Workbench, rows: Sequence[Row]) -> Section:
    cells = tuple(_cells(bench, row, rows[0]) for row in rows)
    settings = bench.settings
    title = f"{settings.model}, {settings.size} px, {settings.device}"
    notes = [
        "Every line goes from photograph files to infrared files, captions and maps included. "
        "evaluations: of the network, an image. images: in a run. ratio: how many times the images "
        "a second of the reference; CPU ratio: how many times less processor time. Both are "
        "medians over rounds, in which the lines took turns. least CPU: the same of each line's "
        "quickest round; on a busy machine trust this one.",
        f"reference: {STEPS} ancestral Euler steps, four evaluations each, batch 1, float32, one "
        "image after the other, at the published scales 7.5, 1.5, 1.5; exact at the same scales.",
    ]
    if any(len(row.tasks) > 1 for row in rows):
        few = settings.reference_steps
        assert few is not None
        notes.append(
            f"SCALED: lines of {STEPS} steps were run with {few} and {2 * few} steps; their times "
            f"are those of {STEPS} on the line through both points."
        )
    return Section("speeds", title, COLUMNS, cells, tuple(notes))


def _least(bench: Workbench, row: Row) -> list[Sample]:
    """Return the line's quickest sample; scaled from the quickest of each number of steps."""
    found = [bench.journal.samples(task.name) for task in row.tasks]
    if not all(found):
        return []
    quickest = [[min(each, key=lambda sample: sample.processor)] for each in found]
    return _scaled(bench, row, quickest)


def _cells(bench: Workbench, row: Row, reference_row: Row) -> tuple[Cell, ...]:
    samples, reference = _samples(bench, row), _samples(bench, reference_row)
    peaks = [sample.peak for sample in samples if sample.peak is not None]
    return (
        row.speed,
        row.batch,
        row.steps,
        row.evaluations,
        row.tasks[0].images,
        len(samples),
        median_seconds(samples) if samples else None,
        paired_ratio(reference, samples),
        paired_ratio(reference, samples, "processor"),
        least_ratio(_least(bench, reference_row), _least(bench, row)),
        max(peaks) / MEGABYTE if peaks else None,
    )
