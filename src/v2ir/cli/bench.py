"""The verb `v2ir bench`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from v2ir.cli.console import console, progress_bar
from v2ir.cli.translate import find_device
from v2ir.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from v2ir.bench import BenchSettings, Journal, Section

COMPARISONS = ("instruct-pix2pix",)


def command(
    model: str = typer.Option("mini", help="Bundled model, model folder, or hub name."),
    full_size: bool = typer.Option(
        False, "--full-size", help="Random weights of Stable Diffusion 1.5's size instead."
    ),
    student: str | None = typer.Option(
        None, help="Model distilled from it, for the speeds fast and one-step."
    ),
    size: int = typer.Option(256, help="Side of the photographs in pixels."),
    images: int = typer.Option(8, help="Most photographs in one run of a quick speed."),
    batch: str | None = typer.Option(None, metavar="N,N", help="Batch sizes to compare."),
    speed: str | None = typer.Option(
        None,
        metavar="NAMES",
        help="Speeds, such as exact,one-step; without, all. --scaling takes the last.",
    ),
    precision: str | None = typer.Option(
        None, metavar="NAMES", help="Number formats to compare, such as float32,int8."
    ),
    repeats: int = typer.Option(3, help="Rounds of measurement; everything takes turns."),
    minutes: float = typer.Option(
        4.0, help="Start no further round that would end later than this, in each part."
    ),
    reference_steps: int | None = typer.Option(
        None, help="Run the 100-step lines with N and 2N steps, and scale; the table says so."
    ),
    against: str | None = typer.Option(None, help="Compare with: instruct-pix2pix."),
    stages: bool = typer.Option(False, "--stages", help="Time of each stage of an image."),
    scaling: bool = typer.Option(
        False, "--scaling", help="Batch, size, workers, memory of long runs, resuming."
    ),
    training: bool = typer.Option(
        False, "--training", help="Training steps with and without caches; data preparation."
    ),
    floor: bool = typer.Option(
        False, "--floor", help="The network's arithmetic against the machine's matrix rate."
    ),
    workers: str = typer.Option("1,2", metavar="N,N", help="Worker processes of --scaling."),
    sizes: str = typer.Option("128,256,512", metavar="PX,PX", help="Sides of --scaling."),
    report: Path = typer.Option(Path("bench"), help="Folder of bench.json."),
    again: bool = typer.Option(False, "--again", help="Measure anew what the report holds."),
    device: str = typer.Option("auto", help="auto, cpu, cuda, cuda:1, mps, ..."),
    dry_run: bool = typer.Option(False, help="Say what would be measured, and measure nothing."),
) -> None:
    """Measure speed against the published procedure, in one run, as ratios.

    Without options: each speed of `translate --speed` beside the reference, on drawn
    photographs, in under five minutes. --against, --stages, --scaling, --training and
    --floor measure those instead. What is measured stands in the report at once: the
    same command goes on after an interruption, and other parts join the same report.

    Example: `v2ir bench --stages --speed exact,one-step --report bench`
    """
    if against is not None and against not in COMPARISONS:
        raise UnknownNameError.of("comparison", against, COMPARISONS)
    flags = {
        "stages": stages,
        "instruct-pix2pix": against is not None,
        "floor": floor,
        "scaling": scaling,
        "training": training,
    }
    parts = [name for name, wanted in flags.items() if wanted] or ["speeds"]
    from v2ir.bench import FULL_SIZE, BenchSettings
    from v2ir.bench.workbench import DEFAULT_SPEEDS

    settings = BenchSettings(
        model=FULL_SIZE if full_size else model,
        student=student,
        size=size,
        images=images,
        batch_sizes=_numbers(batch, "--batch"),
        speeds=tuple(speed.split(",")) if speed else DEFAULT_SPEEDS,
        precisions=tuple(precision.split(",")) if precision else (),  # type: ignore[arg-type]
        repeats=repeats,
        reference_steps=reference_steps,
        workers=_numbers(workers, "--workers"),
        sizes=_numbers(sizes, "--sizes"),
        device=find_device(device),
        seconds=60 * minutes,
    )
    if dry_run:
        _say(settings, parts, report)
        return
    _run(settings, parts, report, again=again)


def _run(settings: BenchSettings, parts: Sequence[str], report: Path, *, again: bool) -> None:
    from v2ir.bench import (
        FULL_SIZE,
        PARTS,
        Clock,
        Journal,
        Meter,
        Workbench,
        machine_facts,
    )
    from v2ir.model import load_model

    device = settings.device
    model = None if settings.model == FULL_SIZE else load_model(settings.model, device)
    decides = {**settings.deciding(), "weights": model.hash if model else "random"}
    journal = Journal(report, decides, machine_facts(device), again=again)
    with tempfile.TemporaryDirectory(prefix="v2ir-bench-") as folder:
        bench = Workbench(settings, journal, Meter(Clock(), device), Path(folder), model)
        for name in parts:
            bench.begin()
            with progress_bar(name) as progress:
                sections = PARTS[name](bench, progress)
            for section in sections:
                journal.put(section)
                _print(section)
    _tell_where(journal, report)


def _numbers(text: str | None, option: str) -> tuple[int, ...]:
    """Return the whole numbers of `1,2,8`.

    Raises:
        InputError: If it holds something else.
    """
    if not text:
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(
            f"{option} takes whole numbers", got=repr(text), do="give for instance 1,8"
        ) from error


def _say(settings: BenchSettings, parts: Sequence[str], report: Path) -> None:
    for name in parts:
        what = f" of {', '.join(settings.speeds)}" if name == "speeds" else ""
        console.print(
            f"would measure {name}{what}: {settings.model}, {settings.size} px, "
            f"{settings.device}, into {report}",
            highlight=False,
            soft_wrap=True,
        )


def _print(section: Section) -> None:
    from rich.table import Table

    table = Table(title=f"{section.name}: {section.title}", title_justify="left")
    for place, column in enumerate(section.columns):
        table.add_column(column, justify="left" if place == 0 else "right", no_wrap=place == 0)
    for row in section.rows:
        table.add_row(*(show(cell) for cell in row))
    console.print(table)
    for note in section.notes:
        console.print(note, markup=False, highlight=False)


def show(cell: str | float | int | None) -> str:
    """Return a cell as text; fractions keep three digits."""
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.0f}" if abs(cell) >= 100 else f"{cell:.3g}"
    return str(cell)


def _tell_where(journal: Journal, report: Path) -> None:
    kept = "" if journal.changed else f" (kept as measured at {journal.began}; --again measures)"
    console.print(f"all samples: {report / 'bench.json'}{kept}", highlight=False, soft_wrap=True)
