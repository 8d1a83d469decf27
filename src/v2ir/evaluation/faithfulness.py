"""Objects kept, lost and invented: what a label that is carried over stands or falls with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from v2ir.errors import InputError
from v2ir.evaluation.boxes import Box, overlaps


@dataclasses.dataclass(frozen=True)
class MatchRule:
    """When two boxes are the same object.

    An object counts as there when it is found with `score`. It is enough that the other
    image shows it with half of that: a detector's doubt about one of two equal things is
    no loss.

    Attributes:
        overlap: Least intersection over union.
        score: Least confidence of an object that counts.
    """

    overlap: float = 0.5
    score: float = 0.4

    def __post_init__(self) -> None:
        if not (0 < self.overlap <= 1 and 0 < self.score <= 1):
            raise InputError(
                "overlap and score lie above 0 and up to 1", got=f"{self.overlap}, {self.score}"
            )

    @property
    def doubt(self) -> float:
        """Least confidence of an object that may stand for one that counts."""
        return self.score / 2


@dataclasses.dataclass(frozen=True)
class Objects:
    """The objects of one image against those of its reference.

    Attributes:
        kept: (reference, found) of the same object, where that of the reference counts.
        lost: Objects of the reference that count and were not found.
        invented: Found objects that count and that the reference has not.
    """

    kept: tuple[tuple[Box, Box], ...] = ()
    lost: tuple[Box, ...] = ()
    invented: tuple[Box, ...] = ()

    @property
    def faithfulness(self) -> float:
        """Kept over kept, lost and invented, in [0, 1]; NaN where there are none at all."""
        total = len(self.kept) + len(self.lost) + len(self.invented)
        return len(self.kept) / total if total else math.nan


@dataclasses.dataclass(frozen=True)
class ObjectCounts:
    """Sums over images.

    Attributes:
        kept: Objects of the reference that were found.
        lost: Objects of the reference that were not.
        invented: Objects that the reference has not.
    """

    kept: int = 0
    lost: int = 0
    invented: int = 0

    @property
    def kept_share(self) -> float:
        """Kept over kept and lost; NaN without such objects."""
        return self.kept / (self.kept + self.lost) if self.kept + self.lost else math.nan

    @property
    def invented_share(self) -> float:
        """Invented over kept and invented; NaN without such objects."""
        found = self.kept + self.invented
        return self.invented / found if found else math.nan


def match_objects(reference: Sequence[Box], found: Sequence[Box], rule: MatchRule) -> Objects:
    """Pair the boxes of one class that overlap, those that overlap most first.

    Every object of the reference that counts is either kept or lost, so that the shares
    of all methods have one denominator. An object that only the judged image shows surely
    and the reference doubtfully is neither kept nor invented. Swapping the two sides swaps
    what is lost and what is invented.
    """
    first, second = _candidates(reference, rule), _candidates(found, rule)
    shared = overlaps(first, second)
    pairs = sorted(
        (-shared[i, j], i, j)
        for i, j in zip(*np.nonzero(shared >= rule.overlap), strict=True)
        if first[i].label == second[j].label and max(first[i].score, second[j].score) >= rule.score
    )
    taken: dict[int, int] = {}
    for _, i, j in pairs:
        if i not in taken and j not in taken.values():
            taken[i] = j
    return Objects(
        kept=tuple(
            (first[i], second[j]) for i, j in sorted(taken.items()) if first[i].score >= rule.score
        ),
        lost=_unmatched(first, set(taken), rule),
        invented=_unmatched(second, set(taken.values()), rule),
    )


def _candidates(boxes: Sequence[Box], rule: MatchRule) -> list[Box]:
    # A fixed order, so that the boxes' own order never decides between equal overlaps.
    return sorted(
        (box for box in boxes if box.score >= rule.doubt),
        key=lambda box: (box.label, box.left, box.top, box.right, box.bottom),
    )


def _unmatched(boxes: Sequence[Box], taken: set[int], rule: MatchRule) -> tuple[Box, ...]:
    left = (box for index, box in enumerate(boxes) if index not in taken)
    return tuple(box for box in left if box.score >= rule.score)


def count_objects(results: Sequence[Objects]) -> Mapping[str, ObjectCounts]:
    """Return the sums over images by class, sorted by class."""
    sums: dict[str, list[int]] = {}
    for result in results:
        sides = (tuple(box for box, _ in result.kept), result.lost, result.invented)
        for place, boxes in enumerate(sides):
            for box in boxes:
                sums.setdefault(box.label, [0, 0, 0])[place] += 1
    return {label: ObjectCounts(*sums[label]) for label in sorted(sums)}


def total_objects(results: Sequence[Objects]) -> ObjectCounts:
    """Return the sums over images and classes."""
    return ObjectCounts(
        sum(len(result.kept) for result in results),
        sum(len(result.lost) for result in results),
        sum(len(result.invented) for result in results),
    )


def object_contrast(image: np.ndarray, truth: np.ndarray, boxes: Sequence[Box]) -> float:
    """Return how far objects stand out of their surroundings, over the truth's.

    Mean inside a box minus the mean of the frame around it that is half the box wide,
    summed over the boxes with the sign that the truth gives each: 1 is right, 0 means that
    the objects cannot be told from what is around them, negative that hot and cold are
    exchanged.

    Args:
        image: The judged image, HW float in [0, 1].
        truth: The true image, the same shape.
        boxes: Objects of the truth.

    Returns:
        The ratio, NaN without boxes that stand out in the truth.
    """
    found = [(_standing_out(image, box), _standing_out(truth, box)) for box in boxes]
    known = [(a, b) for a, b in found if not math.isnan(b)]
    below = sum(abs(b) for _, b in known)
    above = sum(math.copysign(1.0, b) * a for a, b in known)
    return above / below if below > 1e-6 else math.nan


def _standing_out(image: np.ndarray, box: Box) -> float:
    wide, high = (box.right - box.left) / 2, (box.bottom - box.top) / 2
    frame = Box("", box.left - wide, box.top - high, box.right + wide, box.bottom + high)
    inner, outer = _cut(image, box), _cut(image, frame)
    around = outer.size - inner.size
    if not inner.size or around <= 0:
        return math.nan
    inside = float(inner.sum(dtype=np.float64))
    outside = float(outer.sum(dtype=np.float64)) - inside
    return inside / inner.size - outside / around


def _cut(image: np.ndarray, box: Box) -> np.ndarray:
    rows = slice(max(0, round(box.top)), max(0, round(box.bottom)))
    return image[rows, max(0, round(box.left)) : max(0, round(box.right))]
