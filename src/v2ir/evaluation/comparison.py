"""Compare folders of images with the truth: match by stem, measure, keep the rows."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from v2ir.errors import InputError, V2IRError
from v2ir.evaluation import BASELINES, METRICS
from v2ir.evaluation.context import SCENES_FILE, Context, Selection, named_images
from v2ir.evaluation.statistics import Reference
from v2ir.images import read_infrared, read_visible
from v2ir.records import Progress, no_progress

PREDICTION = "prediction"
UNKNOWN_STYLE = "unknown"


@dataclasses.dataclass(frozen=True)
class Case:
    """One image to compare.

    Attributes:
        name: Path of the image below its folder, without the extension.
        style: Name of the camera's look, if it is known.
        truth: The true infrared image.
        predictions: The image of each method, in the order of `Plan.methods`.
        visible: The photograph, if it is known.
    """

    name: str
    style: str | None
    truth: Path
    predictions: tuple[Path, ...]
    visible: Path | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What will be compared, decided from the names of the files alone.

    Attributes:
        methods: Names of the compared methods; the first is the one to be judged.
        cases: Images that every method has.
        failures: (name, reason) of images that cannot take part.
        extra: Predictions that have no truth; they are left out.
        context: What is known about the images.
    """

    methods: tuple[str, ...]
    cases: tuple[Case, ...]
    failures: tuple[tuple[str, str], ...]
    extra: tuple[str, ...]
    context: Context


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
    """

    methods: tuple[str, ...]
    num_judged: int
    rows: tuple[Row, ...]
    failures: tuple[tuple[str, str], ...] = ()
    extra: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    selection: Selection | None = None

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
        return hashlib.sha256("\n".join(self.names).encode()).hexdigest()

    def num_images(self, style: str | None = None) -> int:
        """Return how many images were compared, of one style or in all."""
        return len({row.name for row in self.rows if style in {None, row.style}})

    def mean(self, method: str, metric: str, style: str | None = None) -> float:
        """Return the mean over images of one style, or over all.

        Images for which the metric is not defined do not count; NaN if none is left.
        """
        found = [
            row.scores[metric]
            for row in self.rows
            if row.method == method and style in {None, row.style}
        ]
        known = [value for value in found if not math.isnan(value)]
        return sum(known) / len(known) if known else math.nan


def plan_comparison(
    predictions: Path | Mapping[str, Path], truth: Path, context: Context | None = None
) -> Plan:
    """Match predictions with the truth by stem; nothing is decoded.

    An image takes part when every method has it, so that all rows of a table are means
    over the same images.

    Args:
        predictions: Folder (or one file) with predicted images, or several by name.
        truth: Folder with the true images, one file, or the data set of `context`.
        context: What is known about the images.

    Raises:
        InputError: If a folder is missing or no image takes part.
    """
    context = context or Context()
    folders = {PREDICTION: predictions} if isinstance(predictions, Path) else dict(predictions)
    clash = sorted(set(folders) & set(BASELINES))
    if clash or not folders:
        raise InputError(
            "a method needs a name of its own",
            got=", ".join(clash) or "no method",
            do=f"choose other names than the baselines: {', '.join(BASELINES)}",
        )
    truths, failures = _truths(truth, context)
    images: dict[str, dict[str, Path]] = {}
    for method, folder in folders.items():
        images[method], taken = named_images(folder)
        if folder.is_file() and truth.is_file():
            images[method] = dict.fromkeys(truths, folder)
        failures += taken
    names = sorted(truths if context.selected is None else context.selected)
    cases, missing = _cases(names, truths, images, context)
    if not cases:
        raise InputError(
            f"no image of {', '.join(map(str, folders.values()))} has a partner in {truth}",
            got=f"{len(names)} true images, {sum(map(len, images.values()))} predictions",
            do="images belong together when their paths are equal up to the extension",
        )
    # A prediction whose truth exists but is not selected is nobody's mistake.
    extra = sorted({name for found in images.values() for name in found} - set(truths))
    return Plan(tuple(folders), cases, (*failures, *missing), tuple(extra), context)


def _truths(truth: Path, context: Context) -> tuple[dict[str, Path], list[tuple[str, str]]]:
    """List the true images: those that the data set names, or those of a folder."""
    if context.truth and (truth / SCENES_FILE).is_file():
        return dict(context.truth), []
    return named_images(truth)


def _cases(
    names: Iterable[str],
    truths: Mapping[str, Path],
    images: Mapping[str, Mapping[str, Path]],
    context: Context,
) -> tuple[tuple[Case, ...], list[tuple[str, str]]]:
    cases, missing = [], []
    for name in names:
        absent = [method for method, found in images.items() if name not in found]
        photograph = context.visible.get(name)
        if name not in truths:
            missing.append((name, "selected from the data set, but there is no true image"))
        elif absent:
            missing.append((name, f"no image of: {', '.join(absent)}"))
        elif photograph is None and context.has_baselines:
            missing.append((name, "no photograph to make the baselines from"))
        else:
            paths = tuple(found[name] for found in images.values())
            cases.append(Case(name, context.styles.get(name), truths[name], paths, photograph))
    return tuple(cases), missing


def evaluate(
    plan: Plan,
    reference: Reference | None = None,
    *,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> Evaluation:
    """Measure every case of a plan, and the baselines beside it.

    At most `workers` images are in memory at a time. A case that cannot be read, or whose
    sizes differ, is listed as a failure and the others go on.

    Args:
        plan: What to compare, from `plan_comparison`.
        reference: Statistics of the training set; without it there are no baselines.
        workers: Threads; None means one a core. The numbers do not depend on it.
        progress: Told (done, total) after each case.
    """
    baselines = tuple(BASELINES) if reference and plan.context.has_baselines else ()
    rows: list[Row] = []
    failures = list(plan.failures)
    with ThreadPoolExecutor(workers or _num_cores()) as pool:
        results = pool.map(lambda case: _measured(case, plan.methods, reference), plan.cases)
        for done, (case, result) in enumerate(zip(plan.cases, results, strict=True)):
            if isinstance(result, str):
                failures.append((case.name, result))
            else:
                rows.extend(result)
            progress(done + 1, len(plan.cases))
    return Evaluation(
        methods=(*plan.methods, *baselines),
        num_judged=len(plan.methods),
        rows=tuple(rows),
        failures=tuple(failures),
        extra=plan.extra,
        notes=() if baselines else ("no baselines: neither a data set nor photographs given",),
        selection=plan.context.selection,
    )


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _measured(case: Case, methods: tuple[str, ...], reference: Reference | None) -> list[Row] | str:
    """Return the rows of one case, or why it has none."""
    try:
        # Every metric counts in float64; turned once here, none of them turns it again.
        truth = read_infrared(case.truth).astype(np.float64)
        rows = []
        for method, image in _images(case, methods, reference):
            _check_size(method, image, truth)
            values = image.astype(np.float64)
            scores = {name: metric.function(values, truth) for name, metric in METRICS.items()}
            rows.append(Row(case.name, case.style or UNKNOWN_STYLE, method, scores))
    except V2IRError as error:
        return str(error)
    return rows


def _images(
    case: Case, methods: tuple[str, ...], reference: Reference | None
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (method, HW float image): the predictions, then the baselines, one at a time."""
    for method, path in zip(methods, case.predictions, strict=True):
        yield method, read_infrared(path)
    if reference is None or case.visible is None:
        return
    visible = read_visible(case.visible)
    for name, baseline in BASELINES.items():
        yield name, baseline(visible, reference.of(case.style))


def _check_size(method: str, image: np.ndarray, truth: np.ndarray) -> None:
    if image.shape != truth.shape:
        raise InputError(
            f"{method} has another size than the truth",
            got=f"{image.shape[1]}x{image.shape[0]} against {truth.shape[1]}x{truth.shape[0]} px",
            do="translate at the photograph's own size; nothing is resized here",
        )
