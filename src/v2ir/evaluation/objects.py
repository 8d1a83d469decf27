"""Count the objects that each method keeps, loses and invents; let bad images not pass."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np

from v2ir.errors import InputError, OutputError, V2IRError
from v2ir.evaluation.boxes import Box, BoxSource
from v2ir.evaluation.cases import Case, Knowledge, Plan, images_of, read_photograph, read_truth
from v2ir.evaluation.comparison import UNKNOWN_STYLE
from v2ir.evaluation.cores import num_cores
from v2ir.evaluation.faithfulness import (
    MatchRule,
    ObjectCounts,
    Objects,
    match_objects,
    object_contrast,
    total_objects,
)
from v2ir.images import read_visible, to_uint8
from v2ir.records import Progress, no_progress

Against = Literal["truth", "visible"]
AGAINST: tuple[Against, ...] = ("truth", "visible")


@dataclasses.dataclass(frozen=True)
class Detection:
    """Where the objects of each image come from, and what they are compared with.

    Attributes:
        detector: Tells the objects of every image that `own` does not name.
        own: Boxes from elsewhere by method, or by `truth` or `visible`.
        rule: When two boxes are the same object.
        against: Whether the reference is the true infrared image or the photograph.
    """

    detector: BoxSource | None = None
    own: Mapping[str, BoxSource] = dataclasses.field(default_factory=dict)
    rule: MatchRule = dataclasses.field(default_factory=MatchRule)
    against: Against = "truth"

    def __post_init__(self) -> None:
        if self.of(self.against) is None:
            raise InputError(
                "nothing tells the objects of the reference",
                got=f"boxes of {', '.join(self.own) or 'nothing'}",
                do=f"give --detector FILE or --boxes {self.against}=FILE",
            )

    def of(self, method: str) -> BoxSource | None:
        """Return what tells the objects of a method's images, or of the reference."""
        return self.own.get(method, self.detector)


@dataclasses.dataclass(frozen=True)
class ObjectRow:
    """The objects of one image by one method.

    Attributes:
        name: Name of the image.
        style: Name of the camera's look, `unknown` if it is not known.
        method: Name of the method or baseline.
        objects: What was kept, lost and invented.
        contrast: How far the reference's objects stand out of their surroundings, over the
            truth; NaN without objects or without a true image.
    """

    name: str
    style: str
    method: str
    objects: Objects
    contrast: float


@dataclasses.dataclass(frozen=True)
class ObjectReport:
    """The objects of all images by all methods.

    Attributes:
        against: Whether the reference was the true infrared image or the photograph.
        source: Name of what told the reference's objects.
        version: Its version.
        rule: When two boxes were the same object.
        rows: One an image and method.
        failures: (name, reason) of images that could not be looked at.
    """

    against: Against
    source: str
    version: str
    rule: MatchRule
    rows: tuple[ObjectRow, ...]
    failures: tuple[tuple[str, str], ...] = ()

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods, in the order of the rows."""
        return tuple(dict.fromkeys(row.method for row in self.rows))

    def objects(self, method: str) -> list[Objects]:
        """Return the objects of each image of a method."""
        return [row.objects for row in self.rows if row.method == method]

    def total(self, method: str) -> ObjectCounts:
        """Return the sums over images and classes."""
        return total_objects(self.objects(method))

    def contrast(self, method: str) -> float:
        """Return the mean contrast of objects over the images where it is defined."""
        found = [row.contrast for row in self.rows if row.method == method]
        known = [value for value in found if not math.isnan(value)]
        return sum(known) / len(known) if known else math.nan

    def below(self, method: str, threshold: float) -> list[tuple[str, float]]:
        """Return (name, faithfulness) of a method's images below the threshold, worst first.

        Images where neither side has an object pass.
        """
        rows = [(row.name, row.objects.faithfulness) for row in self.rows if row.method == method]
        return sorted((r for r in rows if r[1] < threshold), key=lambda r: (r[1], r[0]))


def evaluate_objects(
    plan: Plan,
    detection: Detection,
    knowledge: Knowledge | None = None,
    *,
    names: Collection[str] | None = None,
    with_truth: bool = True,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> ObjectReport:
    """Look for objects in every image of a plan and in its reference.

    Args:
        plan: What to compare.
        detection: Where the objects come from.
        knowledge: What the baselines are made from.
        names: Only these images; None means all.
        with_truth: Whether `Case.truth` is an infrared image; without it that file is the
            photograph, as where no true image exists.
        workers: Threads; None means one a core.
        progress: Told (done, total) after each case.
    """
    cases = [case for case in plan.cases if names is None or case.name in names]

    def look(case: Case) -> list[ObjectRow] | str:
        try:
            return list(_looked(plan, case, detection, knowledge or Knowledge(), with_truth))
        except V2IRError as error:
            return str(error)

    rows: list[ObjectRow] = []
    failures: list[tuple[str, str]] = []
    with ThreadPoolExecutor(workers or num_cores()) as pool:
        for done, (case, found) in enumerate(zip(cases, pool.map(look, cases), strict=True)):
            if isinstance(found, str):
                failures.append((case.name, found))
            else:
                rows += found
            progress(done + 1, len(cases))
    source = detection.of(detection.against)
    assert source is not None  # the record refuses to be made without one
    return ObjectReport(
        against=detection.against,
        source=source.name,
        version=source.version,
        rule=detection.rule,
        rows=tuple(rows),
        failures=tuple(failures),
    )


def _looked(
    plan: Plan, case: Case, detection: Detection, knowledge: Knowledge, with_truth: bool
) -> Iterator[ObjectRow]:
    truth = read_truth(plan, case) if with_truth else None
    photograph = read_photograph(plan, case)
    if truth is None:
        photograph = plan.protocol.prepared(read_visible(case.truth))
    reference = _reference_boxes(case, detection, truth, photograph)
    counting = [box for box in reference if box.score >= detection.rule.score]
    shape = truth.shape if truth is not None else photograph.shape[:2]  # type: ignore[union-attr]
    for method, image in images_of(plan, case, knowledge, shape, photograph):
        source = detection.of(method)
        if source is None:
            continue
        objects = match_objects(reference, source.boxes(case.name, to_uint8(image)), detection.rule)
        contrast = math.nan if truth is None else object_contrast(image, truth, counting)
        yield ObjectRow(case.name, case.style or UNKNOWN_STYLE, method, objects, contrast)


def _reference_boxes(
    case: Case, detection: Detection, truth: np.ndarray | None, photograph: np.ndarray | None
) -> tuple[Box, ...]:
    source = detection.of(detection.against)
    image = photograph if detection.against == "visible" else truth
    if source is None or image is None:
        raise InputError(
            f"{case.name} has no {detection.against} image to compare objects with",
            do="give --data, or --visible, or compare with the other one",
        )
    return source.boxes(case.name, image if image.ndim == 3 else to_uint8(image))


def quarantine(folder: Path, paths: Mapping[str, Path], names: Collection[str]) -> list[Path]:
    """Move images and their sidecars into another folder, keeping their names.

    Args:
        folder: Where to.
        paths: Image by name.
        names: Which of them to move.

    Returns:
        The new places of the images.

    Raises:
        OutputError: If something of that name is there already, or cannot be moved.
    """
    moved = []
    for name in sorted(names):
        image = paths[name]
        target = folder / f"{name}{image.suffix}"
        sidecar = image.with_suffix(".json")
        if target.exists():
            raise OutputError(f"{target} exists already", do="empty the quarantine folder first")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if sidecar.is_file():
                shutil.move(sidecar, target.with_suffix(".json"))
            shutil.move(image, target)
        except OSError as error:
            raise OutputError(f"cannot move {image} to {target}", got=str(error)) from error
        moved.append(target)
    return moved
