"""Many masks of one image become one map; folders of masks as SAM's own script writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from v2ir.errors import DataError, UnknownNameError
from v2ir.images import read_map, resize

Masks = Iterable[np.ndarray]
"""Masks of one image, each HW bool."""

_HALF = 127


def union(masks: Masks, image: np.ndarray) -> np.ndarray:
    """Return HW uint8: 255 where any mask covers the pixel, 0 elsewhere.

    Source: DiffV2IR, section 3.2 and the released code.
    """
    covered = np.zeros(image.shape[:2], dtype=bool)
    for mask in masks:
        np.logical_or(covered, mask, out=covered)
    return np.where(covered, 255, 0).astype(np.uint8)


def boundaries(masks: Masks, image: np.ndarray) -> np.ndarray:
    """Return HW uint8: 255 inside regions, 0 on the borders between them and where none is.

    The union hides where masks touch or overlap; here a line of two pixels stays.
    """
    labels = label_regions(masks, image.shape[:2])
    border = np.zeros(labels.shape, dtype=bool)
    for axis in (0, 1):
        one, other = np.moveaxis(labels, axis, 0)[:-1], np.moveaxis(labels, axis, 0)[1:]
        lines = np.moveaxis(border, axis, 0)
        lines[:-1] |= one != other
        lines[1:] |= one != other
    return np.where((labels > 0) & ~border, 255, 0).astype(np.uint8)


def flat_regions(masks: Masks, image: np.ndarray) -> np.ndarray:
    """Return HWC uint8 RGB: each region in its mean colour of the image, black elsewhere.

    A region's own mean colour needs no palette and no order, so that the same thing looks
    alike in every map.
    """
    labels = label_regions(masks, image.shape[:2])
    flat = labels.ravel()
    number = np.bincount(flat)
    means = [
        np.bincount(flat, weights=channel.ravel()) / np.maximum(number, 1)
        for channel in np.moveaxis(image, -1, 0)
    ]
    # Black means "no region"; a black region is one grey level above it.
    colours = np.maximum(np.stack(means, axis=-1).round(), 1).astype(np.uint8)
    colours[0] = 0
    return colours[labels]


def label_regions(masks: Masks, shape: tuple[int, int]) -> np.ndarray:
    """Return HW integers: the number of the smallest mask that covers a pixel, else 0.

    Small masks lie over large ones, as a window lies over its wall. Of masks of one size
    the later lies above.
    """
    stack = [np.asarray(mask, dtype=bool) for mask in masks]
    labels = np.zeros(shape, dtype=np.int64)
    areas = np.array([int(mask.sum()) for mask in stack])
    for number, index in enumerate(np.argsort(-areas, kind="stable"), start=1):
        labels[stack[index]] = number
    return labels


RENDERINGS: dict[str, Callable[[Masks, np.ndarray], np.ndarray]] = {
    "union": union,
    "boundaries": boundaries,
    "regions": flat_regions,
}


def find_rendering(name: str) -> Callable[[Masks, np.ndarray], np.ndarray]:
    """Return the rendering called `name`.

    Raises:
        UnknownNameError: If there is none.
    """
    if name not in RENDERINGS:
        raise UnknownNameError.of("rendering of maps", name, RENDERINGS)
    return RENDERINGS[name]


def mask_paths(folder: Path) -> list[Path]:
    """Return the masks of a folder, `0.png`, `1.png`, ... in the order of their numbers."""
    numbered = [path for path in folder.glob("*.png") if path.stem.isdecimal()]
    return sorted(numbered, key=lambda path: int(path.stem))


def is_mask_folder(folder: Path) -> bool:
    """Whether a folder holds the single masks of one image."""
    return folder.is_dir() and (folder / "0.png").is_file()


def read_masks(folder: Path) -> Iterator[np.ndarray]:
    """Yield the masks of a folder as HW bool; above half is inside.

    Raises:
        ImageReadError: If one of them cannot be read.
    """
    for path in mask_paths(folder):
        mask = read_map(path)
        yield (mask if mask.ndim == 2 else mask.max(axis=-1)) > _HALF


def merge_masks(
    folder: Path, rendering: str = "union", image: np.ndarray | None = None
) -> np.ndarray:
    """Merge the single masks of one image, as SAM's own script writes them, into its map.

    Args:
        folder: Holds `0.png`, `1.png`, ... and perhaps `metadata.csv`, which is not needed.
        rendering: Name of `RENDERINGS`.
        image: The visible image, HWC uint8 RGB; only the rendering `regions` looks at it.

    Returns:
        The map, of the masks' size.

    Raises:
        DataError: If there are no masks, or their sizes differ.
        ImageReadError: If a mask cannot be read.
        UnknownNameError: If the rendering is unknown.
    """
    draw = find_rendering(rendering)
    masks = read_masks(folder)
    first = next(masks, None)
    if first is None:
        raise DataError(f"{folder} holds no masks", do="give a folder with 0.png, 1.png, ...")
    if image is None and rendering == "regions":
        raise DataError(f"{folder}: flat colours need the visible image", do="give it, too")
    shown = np.zeros((*first.shape, 3), np.uint8) if image is None else image
    shown = resize(shown, first.shape[1], first.shape[0], "area")

    def checked() -> Iterator[np.ndarray]:
        yield first
        for mask in masks:
            if mask.shape != first.shape:
                raise DataError(
                    f"the masks of {folder} differ in size", got=f"{mask.shape}, {first.shape}"
                )
            yield mask

    return draw(checked(), shown)


def suppress(boxes: np.ndarray, scores: np.ndarray, most_overlap: float) -> np.ndarray:
    """Keep the best of boxes that overlap much: greedy non-maximum suppression.

    Args:
        boxes: (N, 4) left, top, right, bottom in pixels.
        scores: (N,) the higher the better; of equal ones the earlier wins.
        most_overlap: Largest intersection over union of two boxes that both stay.

    Returns:
        Indices of the kept boxes, the best first.
    """
    left, top, right, bottom = np.asarray(boxes, dtype=np.float64).reshape(-1, 4).T
    area = (right - left) * (bottom - top)
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    kept = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(int(best))
        width = np.minimum(right[best], right[rest]) - np.maximum(left[best], left[rest])
        height = np.minimum(bottom[best], bottom[rest]) - np.maximum(top[best], top[rest])
        shared = width.clip(0) * height.clip(0)
        whole = area[best] + area[rest] - shared
        order = rest[~(shared > most_overlap * whole)]
    return np.array(kept, dtype=np.int64)


def mask_boxes(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Return (N, 4) left, top, right, bottom of HW bool masks, ends included; 0 if empty."""
    boxes = np.zeros((len(masks), 4), dtype=np.int64)
    for index, mask in enumerate(masks):
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        if columns.size:
            boxes[index] = columns[0], rows[0], columns[-1], rows[-1]
    return boxes
