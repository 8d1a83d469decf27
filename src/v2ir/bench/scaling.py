"""How throughput grows with batch, size and workers, and what a long run costs."""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from v2ir.bench.journal import Cell, Section
from v2ir.bench.machine import Clock, num_cores
from v2ir.bench.speeds import MEGABYTE
from v2ir.bench.timing import Task, median_seconds
from v2ir.bench.workbench import FULL_SIZE, BenchSettings, Workbench
from v2ir.files import image_paths
from v2ir.model import load_model
from v2ir.records import Progress
from v2ir.sampling import Annotators, Job, TranslateSettings, Translator
from v2ir.sampling.translate import translate_jobs

BATCH_SIZES = (1, 2, 4, 8)
LENGTHS = (4, 16, 64)


def measure_scaling(bench: Workbench, progress: Progress) -> tuple[Section, ...]:
    """Measure throughput by batch, size and workers, memory by length, and resuming."""
    speed = bench.settings.speeds[-1]
    batches = _by_batch(bench, speed)
    sizes = _by_size(bench, speed)
    workers = _by_workers(bench, speed)
    groups = {"batch": batches, "size in px": sizes, "workers": workers}
    bench.compare([task for tasks in groups.values() for task in tasks.values()], progress)
    rows = [row for name, tasks in groups.items() for row in _rows(bench, name, tasks)]
    section = Section(
        "scaling",
        f"{bench.settings.model} at the speed {speed}, {bench.settings.device}",
        ("what", "value", "runs", "images/s", "of the first", "peak MB"),
        tuple(rows),
        (
            f"Batches and workers at {bench.settings.size} px. A worker is a process with the "
            f"model and a share of the {num_cores()} cores; its start is not counted, nor is its "
            "memory.",
        ),
    )
    return (section, _long_runs(bench, speed))


def _by_batch(bench: Workbench, speed: str) -> dict[int, Task]:
    batches = bench.settings.batch_sizes or BATCH_SIZES
    number = max(batches)
    return {
        batch: bench.translation(
            f"scaling/{speed}, batch {batch}", number, speed=speed, batch_size=batch
        )
        for batch in batches
    }


def _by_size(bench: Workbench, speed: str) -> dict[int, Task]:
    return {
        size: bench.translation(
            f"scaling/{speed}, {size} px", 2, speed=speed, batch_size=1, resolution=size
        )
        for size in bench.settings.sizes
    }


def _by_workers(bench: Workbench, speed: str) -> dict[int, Task]:
    if bench.settings.model == FULL_SIZE:
        return {}  # each worker would need its own 4 GB of random weights
    tasks = {}
    for number in bench.settings.workers:
        name = f"scaling/{speed}, {number} workers"
        out = bench.output(name)
        images = 2 * bench.settings.images

        def run(number: int = number, out: Path = out, images: int = images) -> dict[str, float]:
            return {"s": time_workers(bench, speed, number, bench.jobs(images, out))}

        tasks[number] = Task(name, run, images, before=lambda out=out: bench.clear(out))  # type: ignore[misc]
    return tasks


def _rows(bench: Workbench, name: str, tasks: dict[int, Task]) -> Iterator[tuple[Cell, ...]]:
    first: float | None = None
    for value, task in tasks.items():
        samples = bench.journal.samples(task.name)
        timed = [sample.parts["s"] / sample.images for sample in samples if sample.parts]
        rate = 1 / (statistics.median(timed) if timed else median_seconds(samples))
        first = first or rate
        peaks = [sample.peak for sample in samples if sample.peak]
        peak = None if timed or not peaks else max(peaks) / MEGABYTE
        yield (name, value, len(samples), rate, rate / first, peak)


def time_workers(bench: Workbench, speed: str, number: int, jobs: Sequence[Job]) -> float:
    """Return the seconds in which worker processes together translate the jobs.

    The clock runs from when all have loaded their model to when the last has finished; neither
    starting nor ending a process is in it. Processes of a machine share that clock.
    """
    context = multiprocessing.get_context("spawn")
    gate = context.Barrier(number + 1)
    threads = max(1, num_cores() // number)
    shares = [list(jobs[place::number]) for place in range(number)]
    ends = [context.Value("d") for _ in shares]
    workers = [
        context.Process(target=_work, args=(bench.settings, speed, share, threads, gate, end))
        for share, end in zip(shares, ends, strict=True)
    ]
    for worker in workers:
        worker.start()
    gate.wait(timeout=600)
    began = bench.meter.clock.wall()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise RuntimeError("a worker of the bench failed; its own message stands above")
    return max(end.value for end in ends) - began


def _work(
    settings: BenchSettings, speed: str, jobs: list[Job], threads: int, gate: Any, end: Any
) -> None:
    """Load, translate one image outside the clock, wait for the others, do a share."""
    import torch

    from v2ir.annotation import make_captioner, make_segmenter

    torch.set_num_threads(threads)
    model = load_model(settings.model, settings.device)
    card = model.card
    annotators = Annotators(
        captioner=make_captioner(card.captioner) if card.captioner else None,
        segmenter=make_segmenter(card.segmenter) if card.segmenter else None,
    )
    translator = Translator(
        model, TranslateSettings(speed=speed, resolution=settings.size, seed=settings.seed)
    )
    translate_jobs(jobs[:1], translator, annotators)
    for job in jobs[:1]:
        job.sidecar.unlink()
    gate.wait(timeout=600)
    translate_jobs(jobs, translator, annotators)
    end.value = Clock().wall()


def _long_runs(bench: Workbench, speed: str) -> Section:
    """Measure the peak memory of short and long runs, and going over a finished folder."""
    rows: list[tuple[Cell, ...]] = []
    side = min(bench.settings.sizes)
    for number in LENGTHS:
        task = _long_run(bench, speed, number, side)
        if not bench.journal.samples(task.name) and task.warm_up:
            task.warm_up()
        sample = bench.once(task.name, task.run, number)
        seconds = sample.parts or {}
        each = (1000 * seconds[name] / number for name in ("made", "finished", "listed"))
        rows.append((number, sample.peak / MEGABYTE if sample.peak else None, *each))
    return Section(
        "long runs",
        f"{bench.settings.model} at the speed {speed}, {side} px, {bench.settings.device}",
        ("images", "peak MB", "ms to make one", "ms if it is finished", "ms to list it"),
        tuple(rows),
        (
            "Finished: the same command again, which hashes each input and compares its sidecar. "
            "Listed: finding the inputs and looking whether their outputs exist.",
        ),
    )


def _long_run(bench: Workbench, speed: str, number: int, side: int) -> Task:
    name = f"scaling/{speed}, {number} images of {side} px"
    task = bench.translation(name, number, speed=speed, batch_size=1, resolution=side)
    jobs = bench.jobs(number, bench.output(name), side)

    def run() -> dict[str, float]:
        bench.clear(bench.output(name))
        return {
            "made": bench.meter(task.run).wall,
            "finished": bench.meter(task.run).wall,
            "listed": bench.meter(lambda: _list(jobs)).wall,
        }

    return Task(name, run, number, warm_up=task.warm_up)


def _list(jobs: Sequence[Job]) -> list[Path]:
    """Return the inputs whose outputs do not exist."""
    inputs = image_paths(jobs[0].source.parent)[: len(jobs)]
    missing = {job.source for job in jobs if not (job.output.is_file() and job.sidecar.is_file())}
    return [path for path in inputs if path in missing]
