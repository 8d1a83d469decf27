"""Images of any size on the detector's canvas, with their boxes, and what they teach."""

from __future__ import annotations

import dataclasses

import numpy as np

from v2ir.evaluation.boxes import Box
from v2ir.images import resize
from v2ir.proof.network import LARGEST_STRIDE, STRIDE

LEAST_SIDE = 3.0
_SCALES = (0.75, 1.4)
_GAINS, _SHIFTS, _GAMMAS = (0.6, 1.4), (-0.15, 0.15), (0.6, 1.6)


@dataclasses.dataclass(frozen=True, eq=False)
class Placed:
    """An image on the canvas.

    Attributes:
        pixels: HW float32 in [0, 1], 0.5 where the image does not reach.
        boxes: Its objects in canvas pixels.
        scale: Canvas pixels an image pixel.
    """

    pixels: np.ndarray
    boxes: tuple[Box, ...]
    scale: float


def canvas_shape(size: int) -> tuple[int, int]:
    """Return (height, width) of a canvas of about 4:5, both multiples of 32."""
    return max(1, round(size * 0.8 / LARGEST_STRIDE)) * LARGEST_STRIDE, size


def fitted(image: np.ndarray, boxes: tuple[Box, ...], shape: tuple[int, int]) -> Placed:
    """Fit an image, HW uint8, into the upper left corner of the canvas without cutting it."""
    scale = min(shape[0] / image.shape[0], shape[1] / image.shape[1])
    return _placed(image, boxes, shape, scale, 0, 0)


def varied(
    image: np.ndarray, boxes: tuple[Box, ...], shape: tuple[int, int], rng: np.random.Generator
) -> Placed:
    """Scale, shift, mirror and re-tone an image as training wants it.

    Args:
        image: HW uint8.
        boxes: Its objects.
        shape: (height, width) of the canvas.
        rng: Draws everything.
    """
    fit = min(shape[0] / image.shape[0], shape[1] / image.shape[1])
    scale = fit * float(np.exp(rng.uniform(*np.log(_SCALES))))
    slack = [shape[a] - round(image.shape[a] * scale) for a in (0, 1)]
    top, left = (int(rng.integers(min(s, 0), max(s, 0) + 1)) for s in slack)
    placed = _placed(image, boxes, shape, scale, top, left)
    gain, shift, gamma = (rng.uniform(*span) for span in (_GAINS, _SHIFTS, _GAMMAS))
    pixels = ((placed.pixels**gamma - 0.5) * gain + 0.5 + shift).clip(0, 1).astype(np.float32)
    placed = dataclasses.replace(placed, pixels=pixels)
    return mirrored(placed) if rng.random() < 0.5 else placed


def mirrored(placed: Placed) -> Placed:
    """Return the canvas with left and right exchanged."""
    width = placed.pixels.shape[1]
    boxes = (
        dataclasses.replace(b, left=width - b.right, right=width - b.left) for b in placed.boxes
    )
    return Placed(placed.pixels[:, ::-1].copy(), tuple(boxes), placed.scale)


def _placed(
    image: np.ndarray,
    boxes: tuple[Box, ...],
    shape: tuple[int, int],
    scale: float,
    top: int,
    left: int,
) -> Placed:
    height, width = (max(1, round(length * scale)) for length in image.shape)
    small = resize(image, width, height)
    canvas = np.full(shape, 0.5, np.float32)
    inside = small[max(-top, 0) :, max(-left, 0) :][
        : shape[0] - max(top, 0), : shape[1] - max(left, 0)
    ]
    at = np.s_[
        max(top, 0) : max(top, 0) + inside.shape[0], max(left, 0) : max(left, 0) + inside.shape[1]
    ]
    canvas[at] = inside / np.float32(255)
    moved = (_moved(box, scale, top, left, shape) for box in boxes)
    return Placed(canvas, tuple(box for box in moved if box is not None), scale)


def _moved(box: Box, scale: float, top: int, left: int, shape: tuple[int, int]) -> Box | None:
    """Return a box on the canvas; None where less than half of it or too little is left."""
    edges = [box.left * scale + left, box.right * scale + left]
    edges += [box.top * scale + top, box.bottom * scale + top]
    x = np.clip(edges[:2], 0, shape[1])
    y = np.clip(edges[2:], 0, shape[0])
    width, height = float(x[1] - x[0]), float(y[1] - y[0])
    whole = (edges[1] - edges[0]) * (edges[3] - edges[2])
    if min(width, height) < LEAST_SIDE or width * height < whole / 2:
        return None
    return Box(box.label, float(x[0]), float(y[0]), float(x[1]), float(y[1]), box.score)


@dataclasses.dataclass(frozen=True, eq=False)
class Lesson:
    """What the detector should answer for one canvas.

    Attributes:
        peaks: CxHxW float32 at a quarter of the size: 1 at each object's centre, falling off.
        places: Mx2 rows and columns of the cells that tell a box.
        distances: Mx4 distances from those cells' centres to the edges, in canvas pixels.
    """

    peaks: np.ndarray
    places: np.ndarray
    distances: np.ndarray


def lesson_of(placed: Placed, classes: tuple[str, ...]) -> Lesson:
    """Return the targets: a Gaussian a sixth as wide as the object, and up to 3x3 cells."""
    height, width = (length // STRIDE for length in placed.pixels.shape)
    peaks = np.zeros((len(classes), height, width), np.float32)
    rows, columns = np.arange(height)[:, None], np.arange(width)[None, :]
    places: dict[tuple[int, int], list[float]] = {}
    # Small objects last, so that they keep the cells they share with large ones.
    for box in sorted(placed.boxes, key=lambda b: -(b.right - b.left) * (b.bottom - b.top)):
        y = min(int((box.top + box.bottom) / 2 / STRIDE), height - 1)
        x = min(int((box.left + box.right) / 2 / STRIDE), width - 1)
        spread = [max(s / STRIDE / 6, 0.6) for s in (box.bottom - box.top, box.right - box.left)]
        bump = np.exp(-0.5 * (((rows - y) / spread[0]) ** 2 + ((columns - x) / spread[1]) ** 2))
        label = peaks[classes.index(box.label)]
        np.maximum(label, bump, out=label)
        for row, column in _cells(box, y, x, height, width):
            cx, cy = (column + 0.5) * STRIDE, (row + 0.5) * STRIDE
            places[row, column] = [cx - box.left, cy - box.top, box.right - cx, box.bottom - cy]
    found = np.array(list(places), np.int64).reshape(-1, 2)
    return Lesson(peaks, found, np.array(list(places.values()), np.float32).reshape(-1, 4))


def _cells(box: Box, y: int, x: int, height: int, width: int) -> list[tuple[int, int]]:
    """List the cells around the centre whose centres lie inside the box; the centre always."""
    found = []
    for row in range(max(y - 1, 0), min(y + 2, height)):
        for column in range(max(x - 1, 0), min(x + 2, width)):
            is_inside = (
                box.left < (column + 0.5) * STRIDE < box.right
                and box.top < (row + 0.5) * STRIDE < box.bottom
            )
            if is_inside:
                found.append((row, column))
    return found
