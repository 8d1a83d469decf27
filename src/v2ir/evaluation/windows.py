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
from numpy.lib.stride_tricks import sliding_window_view as _overlapping

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_K1, SSIM_K2 = 0.01, 0.03
RADIUS = SSIM_WINDOW // 2
_STRIP, _ROWS, _COLUMNS = 64, 8, 16


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

    What the truth alone needs is filtered once. With v = p - t the similarity of a window
    is [1 - (mean v)^2 / (mean_p^2 + mean_t^2 + C1)] [1 - var v / (var_p + var_t + C2)],
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
    for top in range(0, rows, _STRIP):
        strip = slice(top, top + _STRIP + 2 * RADIUS)
        windows = _TruthWindows.of(truth, strip, constants)
        for layer, (plain, negative) in zip(judged, found, strict=True):
            windows.add(layer, strip, plain, negative)
    for mean in (mean for pair in found for mean in pair if mean is not None):
        mean.whole /= rows * columns
        mean.contrast /= rows * columns
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class _TruthWindows:
    """What the truth alone gives in a strip of rows.

    Attributes:
        values: hxw, the strip less the truth's offset.
        squares: hxw, their squares.
        centred: Mean of the values in each window, (h-10)*(w-10).
        mean: The same of the image itself.
        mean_square: Square of `mean`, with the first constant added.
        constant: The second constant.
    """

    values: np.ndarray
    squares: np.ndarray
    centred: np.ndarray
    mean: np.ndarray
    mean_square: np.ndarray
    constant: float

    @classmethod
    def of(cls, truth: Layer, strip: slice, constants: tuple[float, float]) -> _TruthWindows:
        values = truth.values[strip]
        centred = windowed(values[None])[0]
        mean = centred + truth.offset
        squares = mean * mean
        squares += constants[0]
        return cls(values, values * values, centred, mean, squares, constants[1])

    def add(
        self, layer: Layer, strip: slice, plain: Similarity, negative: Similarity | None
    ) -> None:
        """Add the sums over the strip's windows to those of an image and of its negative."""
        mean, cross, squares = self._filtered(layer, strip)
        product = mean * self.centred
        cross -= product
        cross *= 2.0
        squares -= mean * mean
        squares -= self.centred * self.centred
        squares += self.constant  # the two variances, and the constant
        self._add(plain, mean + layer.offset, self.constant + cross, squares)
        if negative is not None and layer.negated_offset is not None:
            self._add(negative, layer.negated_offset - mean, self.constant - cross, squares)

    def _filtered(self, layer: Layer, strip: slice) -> np.ndarray:
        """Return the windows' means of p, p t and p p + t t, 3x((h-10)*(w-10))."""
        if layer.is_flat:
            squares = windowed(self.squares[None])
            return np.concatenate([np.zeros_like(squares), np.zeros_like(squares), squares])
        fields = np.empty((3, *self.values.shape), self.values.dtype)
        fields[0] = layer.values[strip]
        np.multiply(fields[0], self.values, out=fields[1])
        np.multiply(fields[0], fields[0], out=fields[2])
        fields[2] += self.squares
        return windowed(fields)

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
    number, height, width = fields.shape
    rows, columns = height - 2 * RADIUS, width - 2 * RADIUS
    down = np.empty((number, rows, width), fields.dtype)
    whole = rows - rows % _ROWS
    if whole:
        views = _overlapping(fields, _ROWS + 2 * RADIUS, axis=1)[:, ::_ROWS].swapaxes(2, 3)
        blocks = down[:, :whole].reshape(number, -1, _ROWS, width)
        np.matmul(_band(_ROWS, fields.dtype), views, out=blocks)
    if whole < rows:
        np.matmul(_band(rows - whole, fields.dtype), fields[:, whole:], out=down[:, whole:])
    found = np.empty((number, rows * columns), fields.dtype)
    whole = columns - columns % _COLUMNS
    if whole:
        views = _overlapping(down, _COLUMNS + 2 * RADIUS, axis=2)[:, :, ::_COLUMNS].swapaxes(1, 2)
        blocks = found[:, : rows * whole].reshape(number, -1, rows, _COLUMNS)
        np.matmul(views, _across(_COLUMNS, fields.dtype), out=blocks)
    if whole < columns:
        blocks = found[:, rows * whole :].reshape(number, rows, columns - whole)
        np.matmul(down[:, :, whole:], _across(columns - whole, fields.dtype), out=blocks)
    return found


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
