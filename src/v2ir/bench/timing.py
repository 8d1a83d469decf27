"""Clocks, and tasks that take turns, so that a slow minute of the machine hits all alike."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

from v2ir.bench.journal import Journal, Sample
from v2ir.records import Progress, no_progress


class Clock:
    """The machine's clocks; tests put their own in its place."""

    def wall(self) -> float:
        """Return seconds of real time since some moment."""
        return time.perf_counter()

    def processor(self) -> float:
        """Return the seconds of processor time that this process has used."""
        return time.process_time()


@dataclasses.dataclass(frozen=True)
class Task:
    """A piece of work whose time is of interest.

    Attributes:
        name: Name of its samples in the journal.
        run: The work; what it needs is loaded before.
        images: Number of images that one run of it makes.
        warm_up: Done once, untimed, before the first run: the first touch of everything.
        before: Done, untimed, before every run, such as emptying a folder.
    """

    name: str
    run: Callable[[], object]
    images: int = 1
    warm_up: Callable[[], object] | None = None
    before: Callable[[], object] | None = None


def interleave(
    tasks: Sequence[Task],
    repeats: int,
    journal: Journal,
    measure: Callable[[Callable[[], object], int], Sample],
    enough: Callable[[float], bool] = lambda round_seconds: False,
    progress: Progress = no_progress,
) -> None:
    """Measure tasks in rounds; each round starts with another task.

    What the journal holds of an interrupted run is not measured again, and every sample
    is in the journal as soon as it is there.

    Args:
        tasks: The work to compare.
        repeats: Number of rounds.
        journal: Keeps the samples.
        measure: Runs a task that makes so many images and returns its sample.
        enough: Asked after each complete round, with its seconds, whether to stop early.
        progress: Told (done, total) after each sample.
    """
    warm: set[str] = set()
    for turn in range(repeats):
        place = turn % len(tasks)
        spent = 0.0
        for done, task in enumerate([*tasks[place:], *tasks[:place]], start=1):
            if len(journal.samples(task.name)) <= turn:
                _prepare(task, warm)
                sample = measure(task.run, task.images)
                journal.add(task.name, sample)
                spent += sample.wall
            progress(turn * len(tasks) + done, repeats * len(tasks))
        if turn + 1 < repeats and spent and enough(spent):
            return


def _prepare(task: Task, warm: set[str]) -> None:
    if task.warm_up and task.name not in warm:
        warm.add(task.name)
        task.warm_up()
    if task.before:
        task.before()


def median_seconds(samples: Sequence[Sample]) -> float:
    """Return the median seconds of real time an image."""
    return statistics.median(sample.wall / sample.images for sample in samples)


def paired_ratio(
    slow: Sequence[Sample], fast: Sequence[Sample], what: str = "wall"
) -> float | None:
    """Return the median over the rounds of slow / fast seconds an image.

    Args:
        slow: Samples of the one, in the order of the rounds.
        fast: Samples of the other.
        what: `wall` or `processor`.

    Returns:
        The ratio, or None where there is no round with both.
    """
    ratios = list(_ratios(slow, fast, what))
    return statistics.median(ratios) if ratios else None


def least_ratio(
    slow: Sequence[Sample], fast: Sequence[Sample], what: str = "processor"
) -> float | None:
    """Return the least seconds an image of the one over the least of the other.

    What others do on the machine takes caches and turns away, which only ever adds time. So
    the least of some rounds is the nearest to a quiet machine.

    Args:
        slow: Samples of the one, in any order.
        fast: Samples of the other.
        what: `wall` or `processor`.

    Returns:
        The ratio, or None where one has no samples or took no time.
    """
    if not slow or not fast:
        return None
    above, below = (min(getattr(one, what) / one.images for one in each) for each in (slow, fast))
    return above / below if below > 0 else None


def _ratios(slow: Sequence[Sample], fast: Sequence[Sample], what: str) -> Iterator[float]:
    for one, other in zip(slow, fast, strict=False):
        above, below = (getattr(each, what) / each.images for each in (one, other))
        if below > 0:
            yield above / below


def at_steps(
    few: Sequence[Sample], more: Sequence[Sample], steps: int, wanted: int
) -> list[Sample]:
    """Return what `wanted` steps take, by the line through `steps` and 2 x `steps`.

    Time is a fixed part and one that is linear in the steps; round by round the two
    measured points give both.

    Args:
        few: Samples with `steps` steps.
        more: Samples with twice as many.
        steps: The smaller number of steps.
        wanted: The number of steps that is asked for.
    """
    return [
        dataclasses.replace(
            second,
            wall=_on_line(first.wall, second.wall, steps, wanted),
            processor=_on_line(first.processor, second.processor, steps, wanted),
        )
        for first, second in zip(few, more, strict=False)
    ]


def _on_line(few: float, more: float, steps: int, wanted: int) -> float:
    return more + (more - few) / steps * (wanted - 2 * steps)
