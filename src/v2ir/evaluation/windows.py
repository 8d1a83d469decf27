"""Means over the Gaussian windows of the structural similarity, for many images at once.

The weights stand in banded matrices, so that the filter is a stack of small matrix
products: more multiplications than a sliding sum, and many times faster. Strips of rows
stay in the cache. Everything is counted in the type of the images: float64 for the
definition, float32 for speed; `Layer` takes an offset away first, so that float32 keeps
the small variances of flat areas.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_K1, SSIM_K2 = 0.01, 0.03
RADIUS = SSIM_WINDOW // 2
_ROWS, _COLUMNS = 8, 16
_STRIP_PIXELS = 160_000


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """An image less a number near its mean.

    Attributes:
        values: HW float; the image is `values + offset`.
        offset: What was taken away.
        negated_offset: Offset of the negative image, `negated_offset - values`; None where
            the negative is not asked for.
        is_flat: Whether the image is `offset` everywhere; `values` are not looked at then.
    """

    values: np.ndarray
    offset: float = 0.0
    negated_offset: float | None = None
    is_flat: bool = False

    def halved(self) -> Layer:
        """Return the means of 2x2 pixels; an odd last row or column is left out."""
        if self.is_flat:
            return self
        height, width = self.values.shape
        even = self.values[: height // 2 * 2, : width // 2 * 2]
        rows = even[0::2] + even[1::2]
        halved = rows[:, 0::2] + rows[:, 1::2]
        halved *= 0.25
        return dataclasses.replace(self, values=halved)


@dataclasses.dataclass
class Similarity:
    """Means over all windows.

    Attributes:
        whole: Mean of the structural similarity.
        contrast: Mean of its contrast and structure term alone.
    """

    whole: float = 0.0
    contrast: float = 0.0


def similarities(
    truth: Layer, judged: Sequence[Layer], data_range: float = 1.0
) -> list[tuple[Similarity, Similarity | None]]:
    """Return the similarities of several images, and of their negatives, to one truth.

    What the truth alone needs is filtered once. With g = p - t the similarity of a window
    is [1 - (mean g)^2 / (mean_p^2 + mean_t^2 + C1)] [(2 cov + C2) / (var_p + var_t + C2)],
    the same as equation 13; a negative shares all but two signs.

    Source: Wang, Bovik, Sheikh and Simoncelli, 2004, equation 13.

    Args:
        truth: Both sides at least the window's 11 px.
        judged: Images of the same shape and type.
        data_range: Range of the values, from which the two constants are made.

    Returns:
        A pair an image: of it and, where it has a `negated_offset`, of its negative.
    """
    constants = ((SSIM_K1 * data_range) ** 2, (SSIM_K2 * data_range) ** 2)
    found = [
        (Similarity(), None if layer.negated_offset is None else Similarity()) for layer in judged
    ]
    rows, columns = (length - 2 * RADIUS for length in truth.values.shape)
    # A strip's fields together fill about half of a core's cache.
    height = max(_ROWS, _STRIP_PIXELS // (truth.values.shape[1] * (1 + 3 * len(judged))))
    for top in range(0, rows, height):
        _add_strip(truth, judged, slice(top, top + height + 2 * RADIUS), constants, found)
    for mean in (mean for pair in found for mean in pair if mean is not None):
        mean.whole /= rows * columns
        mean.contrast /= rows * columns
    return found


def _add_strip(
    truth: Layer,
    judged: Sequence[Layer],
    strip: slice,
    constants: tuple[float, float],
    found: Sequence[tuple[Similarity, Similarity | None]],
) -> None:
    """Add the sums over the windows of a strip of rows."""
    filtered = windowed(_fields(truth, judged, strip))
    windows = _TruthWindows.of(filtered[0], truth.offset, constants)
    place = 1
    for layer, (plain, negative) in zip(judged, found, strict=True):
        end = place + (1 if layer.is_flat else 3)
        windows.add(layer, filtered[place:end], plain, negative)
        place = end


def _fields(truth: Layer, judged: Sequence[Layer], strip: slice) -> np.ndarray:
    """Return what has to be filtered: t, then p p + t t, p, p t of each image; flat: t t."""
    t = truth.values[strip]
    number = 1 + sum(1 if layer.is_flat else 3 for layer in judged)
    fields = np.empty((number, *t.shape), t.dtype)
    fields[0] = t
    squares = t * t
    place = 1
    for layer in judged:
        if layer.is_flat:
            fields[place] = squares
            place += 1
        else:
            p = fields[place + 1]
            p[:] = layer.values[strip]
            np.multiply(p, p, out=fields[place])
            fields[place] += squares
            np.multiply(p, t, out=fields[place + 2])
            place += 3
    return fields


@dataclasses.dataclass(frozen=True, eq=False)
class _TruthWindows:
    """What the truth alone gives in the windows of a strip of rows; one number a window.

    Attributes:
        centred: Mean of the truth less its offset.
        mean: Mean of the truth.
        mean_square: Square of `mean`, with the first constant added.
        constant: The second constant.
    """

    centred: np.ndarray
    mean: np.ndarray
    mean_square: np.ndarray
    constant: float

    @classmethod
    def of(
        cls, centred: np.ndarray, offset: float, constants: tuple[float, float]
    ) -> _TruthWindows:
        mean = centred + offset
        mean_square = mean * mean
        mean_square += constants[0]
        return cls(centred, mean, mean_square, constants[1])

    def add(
        self, layer: Layer, filtered: np.ndarray, plain: Similarity, negative: Similarity | None
    ) -> None:
        """Add the sums over the windows to those of an image and of its negative."""
        mean, cross = (np.zeros_like(self.mean),) * 2 if layer.is_flat else filtered[1:]
        covariance = cross - mean * self.centred
        covariance *= 2.0
        variances = filtered[0]
        variances -= mean * mean
        variances -= self.centred * self.centred
        variances += self.constant
        self._add(plain, mean + layer.offset, self.constant + covariance, variances)
        if negative is not None and layer.negated_offset is not None:
            self._add(negative, layer.negated_offset - mean, self.constant - covariance, variances)

    def _add(
        self, found: Similarity, mean: np.ndarray, above: np.ndarray, below: np.ndarray
    ) -> None:
        """Add up contrast = above / below, and that times the term of the means."""
        above /= below
        found.contrast += float(above.sum())
        gap = mean - self.mean
        gap *= gap
        mean *= mean
        mean += self.mean_square
        gap /= mean
        gap *= above
        found.whole += float(above.sum()) - float(gap.sum())


def windowed(fields: np.ndarray) -> np.ndarray:
    """Return the Gaussian-weighted means of the windows inside.

    Args:
        fields: KxHxW float, both sides at least 11.

    Returns:
        Kx((H-10)*(W-10)), the windows of each field in an order that is the same for all:
        blocks of columns, then the columns left over.
    """
    fields = np.ascontiguousarray(fields)
    number, height, width = fields.shape
    rows, columns = height - 2 * RADIUS, width - 2 * RADIUS
    down = np.empty((number, rows, width), fields.dtype)
    whole = rows - rows % _ROWS
    if whole:
        views = _overlapping(fields, (number, whole // _ROWS, _ROWS + 2 * RADIUS, width), 1, _ROWS)
        blocks = down[:, :whole].reshape(number, -1, _ROWS, width)
        np.matmul(_band(_ROWS, fields.dtype), views, out=blocks)
    if whole < rows:
        np.matmul(_band(rows - whole, fields.dtype), fields[:, whole:], out=down[:, whole:])
    found = np.empty((number, rows * columns), fields.dtype)
    whole = columns - columns % _COLUMNS
    if whole:
        shape = (number, whole // _COLUMNS, rows, _COLUMNS + 2 * RADIUS)
        views = _overlapping(down, shape, 2, _COLUMNS)
        blocks = found[:, : rows * whole].reshape(number, -1, rows, _COLUMNS)
        np.matmul(views, _across(_COLUMNS, fields.dtype), out=blocks)
    if whole < columns:
        rest = found[:, rows * whole :].reshape(number, rows, columns - whole)
        np.matmul(down[:, :, whole:], _across(columns - whole, fields.dtype), out=rest)
    return found


def _overlapping(fields: np.ndarray, shape: tuple[int, ...], axis: int, step: int) -> np.ndarray:
    """View KxHxW as KxBxhxw: blocks that lie `step` apart along an axis and overlap.

    The constructor does it in a fraction of the time of numpy's own window views, which
    are made hundreds of times an image here; it refuses what leaves the buffer.
    """
    first, *rest = fields.strides
    strides = (first, step * fields.strides[axis], *rest)
    return np.ndarray(shape, fields.dtype, fields.data, 0, strides)


@functools.cache
def _band(length: int, dtype: np.dtype) -> np.ndarray:
    weights = np.exp(-0.5 * np.square(np.arange(-RADIUS, RADIUS + 1) / SSIM_SIGMA))
    weights /= weights.sum()
    band = np.zeros((length, length + 2 * RADIUS), dtype)
    for row in range(length):
        band[row, row : row + SSIM_WINDOW] = weights
    return band


@functools.cache
def _across(length: int, dtype: np.dtype) -> np.ndarray:
    return np.ascontiguousarray(_band(length, dtype).T)
