"""Measure the images of a plan and keep the rows."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from v2ir.errors import V2IRError
from v2ir.evaluation import MEASURES
from v2ir.evaluation.baselines import luma_levels
from v2ir.evaluation.cases import (
    TRUTH,
    Case,
    Knowledge,
    Plan,
    greys_of,
    read_grey,
    read_photograph,
)
from v2ir.evaluation.context import Selection
from v2ir.evaluation.cores import worker_threads
from v2ir.evaluation.grey import Grey
from v2ir.evaluation.infrared import Facts
from v2ir.evaluation.protocols import Protocol
from v2ir.evaluation.protocols.record import hash_of_names
from v2ir.evaluation.scoring import score
from v2ir.records import Progress, no_progress

UNKNOWN_STYLE = "unknown"
DARK_LUMA = 0.25
DARK, BRIGHT = "dark photograph", "bright photograph"


@dataclasses.dataclass(frozen=True)
class Row:
    """The numbers of one image by one method.

    Attributes:
        name: Name of the image.
        style: Name of the camera's look, `unknown` if it is not known.
        method: Name of the method or baseline.
        scores: Value of each metric; NaN where it is not defined.
    """

    name: str
    style: str
    method: str
    scores: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of a comparison; every method and baseline has the same images.

    Attributes:
        methods: Names of the methods, then of the baselines.
        num_judged: How many of `methods` are no baselines.
        rows: One row an image and method, by image in order of names.
        failures: (name, reason) of images that could not be compared.
        extra: Predictions without a truth.
        notes: What a reader of the numbers should know.
        selection: What was selected from a data set, if there was one.
        protocol: What the numbers were measured under.
        truths: One row an image with what the true image itself has, for the scores that
            are good near to it.
        groups: Scene group by name of image; images of one group are no independent samples.
        slices: Names of the images of each condition that was told apart.
        histograms: Grey levels of each method and of the truth over all images, 256 counts.
    """

    methods: tuple[str, ...]
    num_judged: int
    rows: tuple[Row, ...]
    failures: tuple[tuple[str, str], ...] = ()
    extra: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    selection: Selection | None = None
    protocol: Protocol | None = None
    truths: tuple[Row, ...] = ()
    groups: Mapping[str, str] = dataclasses.field(default_factory=dict)
    slices: Mapping[str, frozenset[str]] = dataclasses.field(default_factory=dict)
    histograms: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    @property
    def styles(self) -> tuple[str, ...]:
        """Names of the styles that occur, sorted."""
        return tuple(sorted({row.style for row in self.rows}))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the compared images, sorted."""
        return tuple(sorted({row.name for row in self.rows}))

    @property
    def names_hash(self) -> str:
        """SHA-256 of the names: two results with another hash have other images."""
        return hash_of_names(frozenset(self.names))

    def num_images(self, style: str | None = None) -> int:
        """Return how many images were compared, of one style or in all."""
        return len({row.name for row in self.rows if style in {None, row.style}})

    def values(self, method: str, metric: str) -> dict[str, float]:
        """Return the score of each image by name, NaN where it is not defined.

        Args:
            method: Name of a method or baseline, or `truth`.
            metric: Name of the score.
        """
        rows = self.truths if method == TRUTH else self.rows
        return {row.name: row.scores[metric] for row in rows if row.method == method}

    def mean(
        self,
        method: str,
        metric: str,
        style: str | None = None,
        names: Collection[str] | None = None,
    ) -> float:
        """Return the mean over images of one style or of some names, or over all.

        Images for which the metric is not defined do not count; NaN if none is left.
        """
        rows = self.truths if method == TRUTH else self.rows
        known = [
            value
            for row in rows
            if row.method == method
            and style in {None, row.style}
            and (names is None or row.name in names)
            and not math.isnan(value := row.scores.get(metric, math.nan))
        ]
        return sum(known) / len(known) if known else math.nan


@dataclasses.dataclass(frozen=True)
class _Measured:
    """What one case gives: rows, the truth's own row, its condition, grey levels by method."""

    rows: tuple[Row, ...]
    truth: Row
    condition: str | None
    histograms: Mapping[str, np.ndarray]


def evaluate(
    plan: Plan,
    knowledge: Knowledge | None = None,
    *,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> Evaluation:
    """Measure every case of a plan, and the baselines beside it.

    At most `workers` cases are in memory at a time. A case that cannot be read, or whose
    sizes differ, is listed as a failure and the others go on.

    Args:
        plan: What to compare, from `plan_comparison`.
        knowledge: What the baselines are made from; without it there are none.
        workers: Threads; None means one a core. The numbers do not depend on it.
        progress: Told (done, total) after each case.
    """
    knowledge = knowledge or Knowledge()
    measured: dict[str, _Measured] = {}
    failures = list(plan.failures)
    with worker_threads(workers) as pool:
        results = pool.map(functools.partial(_measured, plan, knowledge), plan.cases)
        for done, (case, result) in enumerate(zip(plan.cases, results, strict=True)):
            if isinstance(result, str):
                failures.append((case.name, result))
            else:
                measured[case.name] = result
            progress(done + 1, len(plan.cases))
    return _gathered(plan, knowledge, measured, failures)


def _gathered(
    plan: Plan,
    knowledge: Knowledge,
    measured: Mapping[str, _Measured],
    failures: Sequence[tuple[str, str]],
) -> Evaluation:
    baselines = knowledge.baselines(plan.context)
    notes = () if baselines else ("no baselines: neither a data set nor photographs given",)
    conditions = {name: result.condition for name, result in measured.items()}
    slices = {
        condition: frozenset(name for name, found in conditions.items() if found == condition)
        for condition in sorted({found for found in conditions.values() if found})
    }
    sums: dict[str, np.ndarray] = {}
    for result in measured.values():
        for method, counts in result.histograms.items():
            sums[method] = sums.get(method, 0) + counts
    return Evaluation(
        methods=(*plan.methods, *baselines),
        num_judged=len(plan.methods),
        rows=tuple(row for result in measured.values() for row in result.rows),
        failures=tuple(failures),
        extra=plan.extra,
        notes=notes,
        selection=plan.context.selection,
        protocol=plan.protocol,
        truths=tuple(result.truth for result in measured.values()),
        groups={case.name: case.group for case in plan.cases if case.name in measured},
        slices=slices if len(slices) > 1 else {},
        histograms={method: tuple(counts.tolist()) for method, counts in sums.items()},
    )


def _measured(plan: Plan, knowledge: Knowledge, case: Case) -> _Measured | str:
    """Return what one case gives, or why it gives nothing."""
    style = case.style or UNKNOWN_STYLE
    try:
        truth = read_grey(plan, case.truth)
        photograph = read_photograph(plan, case)
        visible = None if photograph is None else Grey(luma_levels(photograph))
        statistics = knowledge.statistics(case.style)
        fits = visible is not None and visible.pixels.shape == truth.pixels.shape
        histogram = statistics.histogram if statistics else None
        facts = Facts(truth, visible if fits else None, histogram)
        images = list(greys_of(plan, case, knowledge, truth.pixels.shape, visible))
        scores = score([image for _, image in images], truth, facts)
    except V2IRError as error:
        return str(error)
    rows = [Row(case.name, style, m, found) for (m, _), found in zip(images, scores, strict=True)]
    histograms = {TRUTH: truth.histogram, **{m: image.histogram for m, image in images}}
    own = {
        name: measure.function(truth, facts) if measure.better == "nearest truth" else math.nan
        for name, measure in MEASURES.items()
    }
    condition = None if visible is None else (DARK if visible.mean < DARK_LUMA else BRIGHT)
    return _Measured(tuple(rows), Row(case.name, style, TRUTH, own), condition, histograms)
