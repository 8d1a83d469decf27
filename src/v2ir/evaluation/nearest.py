"""The nearest training image: what a model that only remembers would answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from v2ir.errors import DataError, V2IRError
from v2ir.evaluation.statistics import TrainingImage
from v2ir.images import read_infrared, read_thumbnail, resize
from v2ir.records import Progress, no_progress

NEAREST = "nearest training image"
THUMBNAIL = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Gallery:
    """Small photographs of the training set, to find the one that is most like another.

    Attributes:
        paths: Infrared images.
        thumbnails: Nx256 float32, the luma of their photographs at 16x16, each brought to
            mean 0 and standard deviation 1, so that the content counts and not the light.
        places: Rows of the images of each known style.
    """

    paths: tuple[Path, ...]
    thumbnails: np.ndarray
    places: Mapping[str, np.ndarray]

    def nearest(self, visible: Path, style: str | None) -> Path:
        """Return the infrared image whose photograph is nearest, of the same style if known.

        Raises:
            ImageReadError: If the photograph cannot be read.
        """
        rows = self.places.get(style) if style is not None else None
        rows = np.arange(len(self.paths)) if rows is None else rows
        distances = np.square(self.thumbnails[rows] - _thumbnail(visible)).sum(axis=1)
        return self.paths[rows[int(np.argmin(distances))]]

    def image(self, visible: Path, style: str | None, shape: tuple[int, ...]) -> np.ndarray:
        """Return the nearest infrared image at the size of `shape`, HW float32 in [0, 1]."""
        found = read_infrared(self.nearest(visible, style))
        return resize(found, shape[1], shape[0]).clip(0.0, 1.0)


def build_gallery(
    images: Sequence[TrainingImage], progress: Progress = no_progress
) -> tuple[Gallery, list[tuple[str, str]]]:
    """Read the photographs of a training set as thumbnails.

    Args:
        images: The training images; those without a photograph are left out.
        progress: Told (done, total) after each image.

    Returns:
        The gallery, and (file, reason) of each photograph that cannot be read.

    Raises:
        DataError: If no photograph can be read.
    """
    known = [image for image in images if image.visible is not None]
    failures: list[tuple[str, str]] = []
    kept: list[TrainingImage] = []
    rows: list[np.ndarray] = []
    with ThreadPoolExecutor() as pool:
        for done, (image, found) in enumerate(zip(known, pool.map(_read, known), strict=True)):
            progress(done + 1, len(known))
            if isinstance(found, str):
                failures.append((str(image.visible), found))
            else:
                kept.append(image)
                rows.append(found)
    if not rows:
        raise DataError("no training photograph can be read", got=f"{len(known)} photographs")
    styles = {image.style for image in kept if image.style is not None}
    places = {
        style: np.array([i for i, image in enumerate(kept) if image.style == style])
        for style in sorted(styles)
    }
    return Gallery(tuple(image.path for image in kept), np.stack(rows), places), failures


def _read(image: TrainingImage) -> np.ndarray | str:
    try:
        return _thumbnail(image.visible)  # type: ignore[arg-type]  # filtered above
    except V2IRError as error:
        return str(error)


def _thumbnail(path: Path) -> np.ndarray:
    small = read_thumbnail(path, THUMBNAIL, THUMBNAIL).ravel()
    spread = small.std()
    centred: np.ndarray = (small - small.mean()) / (spread if spread > 1e-6 else 1.0)
    return centred
