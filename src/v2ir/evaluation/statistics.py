"""Grey values of the training set's infrared images, which the baselines may know."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from v2ir.errors import DataError, V2IRError
from v2ir.files import read_json
from v2ir.images import read_infrared, to_uint8
from v2ir.records import Progress, no_progress

LEVELS = 256


@dataclasses.dataclass(frozen=True)
class TrainingImage:
    """One infrared image of the training set.

    Attributes:
        path: The file.
        style: Name of the camera's look, if it is known.
        key: Changes when the file's content changes (a hash, or size and time).
        visible: The photograph of the same scene, if there is one.
    """

    path: Path
    style: str | None
    key: str
    visible: Path | None = None


@dataclasses.dataclass(frozen=True)
class TrainingStatistics:
    """Grey values of many infrared images.

    Attributes:
        num_images: How many images were counted.
        histogram: How many pixels have the 8-bit value 0, 1, ... 255.
    """

    num_images: int
    histogram: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.histogram) != LEVELS or sum(self.histogram) <= 0:
            raise DataError(
                "the training statistics are empty",
                got=f"{self.num_images} images, {len(self.histogram)} bins",
                do="give training images that can be read",
            )

    @property
    def mean(self) -> float:
        """Mean over all pixels of all images in [0, 1], not rounded to a grey level."""
        counts = np.asarray(self.histogram, dtype=np.float64)
        return float(counts @ np.arange(LEVELS) / counts.sum()) / 255.0


@dataclasses.dataclass(frozen=True)
class Reference:
    """Statistics of a training set by style.

    Attributes:
        key: Changes when the training images change.
        overall: Statistics of all images.
        by_style: Statistics of the images of each known style.
    """

    key: str
    overall: TrainingStatistics
    by_style: Mapping[str, TrainingStatistics]

    def of(self, style: str | None) -> TrainingStatistics:
        """Return the statistics of `style`, or of all images where it is not known."""
        return self.overall if style is None else self.by_style.get(style, self.overall)

    def to_json(self) -> dict[str, Any]:
        """Return the reference as a JSON object."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Reference:
        """Build the reference from what `to_json` gave."""
        styles = {name: _statistics(row) for name, row in values["by_style"].items()}
        return cls(values["key"], _statistics(values["overall"]), styles)


def _statistics(row: Mapping[str, Any]) -> TrainingStatistics:
    return TrainingStatistics(row["num_images"], tuple(row["histogram"]))


def key_of(images: Iterable[TrainingImage]) -> str:
    """Return a hash that changes when the training images or their styles change."""
    lines = sorted(f"{image.style}\t{image.key}" for image in images)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def cached_reference(path: Path, images: Sequence[TrainingImage]) -> Reference | None:
    """Return the reference stored at `path` if it was made from exactly these images."""
    try:
        reference = Reference.from_json(read_json(path))
    except (DataError, KeyError, TypeError, AttributeError):
        return None
    return reference if reference.key == key_of(images) else None


def measure_reference(
    images: Sequence[TrainingImage], progress: Progress = no_progress
) -> tuple[Reference, list[tuple[str, str]]]:
    """Count the grey values of training images, by style and over all.

    Args:
        images: The training set's infrared images.
        progress: Told (done, total) after each image.

    Returns:
        The reference, and (file, reason) of each image that cannot be read.

    Raises:
        DataError: If none of the images can be read.
    """
    counts: dict[str | None, np.ndarray] = {}
    numbers: dict[str | None, int] = {}
    failures: list[tuple[str, str]] = []
    with ThreadPoolExecutor() as pool:
        for done, (image, found) in enumerate(zip(images, pool.map(_count, images), strict=True)):
            progress(done + 1, len(images))
            if isinstance(found, str):
                failures.append((str(image.path), found))
                continue
            counts[image.style] = counts.get(image.style, 0) + found
            numbers[image.style] = numbers.get(image.style, 0) + 1
    total = np.sum(list(counts.values()), axis=0) if counts else np.zeros(LEVELS, np.int64)
    overall = TrainingStatistics(sum(numbers.values()), tuple(total.tolist()))
    styles = {
        style: TrainingStatistics(numbers[style], tuple(counts[style].tolist()))
        for style in sorted(style for style in counts if style is not None)
    }
    return Reference(key_of(images), overall, styles), failures


def _count(image: TrainingImage) -> np.ndarray | str:
    try:
        pixels = to_uint8(read_infrared(image.path))
    except V2IRError as error:
        return str(error)
    return np.bincount(pixels.ravel(), minlength=LEVELS)
