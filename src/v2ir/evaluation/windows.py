"""Means over the Gaussian windows of the structural similarity.

The weights stand in banded matrices, so that the filter is a stack of small matrix
products: more multiplications than a sliding sum, and many times faster. Strips of rows
stay in the cache. Everything is counted in the type of the images: float64 for the
definition, float32 for speed. Each strip is taken less a number near its own mean, so that
float32 keeps the small variances of flat areas.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_K1, SSIM_K2 = 0.01, 0.03
RADIUS = SSIM_WINDOW // 2
_COLUMNS = 16
_SAMPLED = slice(4, None, 8)
# OpenBLAS makes larger products with threads of its own. They gain nothing here, and wait in
# a busy loop on a core that the next image needs.
_MOST_MULTIPLICATIONS = 1 << 18
# The four fields of a strip, before and after filtering, fill half of a core's cache.
_STRIP_PIXELS = 20_480


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """An image as the similarities read it.

    Attributes:
        values: HW float, or HW uint8 to be counted in float32.
        flat: Value of all pixels, where it is known that they are equal; `values` are not
            looked at then.
        negative: The negative image is `negative - values`; None where it is not asked for.
    """

    values: np.ndarray
    flat: float | None = None
    negative: float | None = None

    @property
    def dtype(self) -> np.dtype:
        """Type that the values are counted in."""
        return np.dtype(np.float32) if self.values.dtype == np.uint8 else self.values.dtype

    def halved(self) -> Layer:
        """Return the means of 2x2 pixels; an odd last row or column is left out."""
        if self.flat is not None:
            return self
        height, width = self.values.shape
        even = self.values[: height // 2 * 2, : width // 2 * 2]
        if even.dtype == np.uint8:
            # Two neighbours as one number of 16 bits: their sum, whatever the byte order.
            pairs = np.ascontiguousarray(even).view(np.uint16)
            sums = (pairs & 255) + (pairs >> 8)
            halved = (sums[0::2] + sums[1::2]).astype(np.float32)
        else:
            rows = even[0::2] + even[1::2]
            halved = rows[:, 0::2] + rows[:, 1::2]
        halved *= 0.25
        return dataclasses.replace(self, values=halved)


@dataclasses.dataclass
class Similarity:
    """Means over all windows.

    Attributes:
        whole: Mean of the structural similarity; of its contrast term where that alone was
            asked for.
        contrast: Mean of its contrast and structure term alone.
    """

    whole: float = 0.0
    contrast: float = 0.0


def similarity(
    truth: Layer, judged: Layer, data_range: float = 1.0, *, only_contrast: bool = False
) -> tuple[Similarity, Similarity | None]:
    """Return the similarity of an image, and of its negative, to the truth.

    With the sum s = p + t and the difference d = p - t the similarity of a window is
    [1 - 2 d^2 / (d^2 + s^2 + 2 C1)] [1 - 2 var_d / (var_d + var_s + 2 C2)], where d and s
    stand for their means in the first factor: the same as equation 13 with fewer steps.
    A negative image swaps the two roles.

    Source: Wang, Bovik, Sheikh and Simoncelli, 2004, equation 13.

    Args:
        truth: Both sides at least the window's 11 px.
        judged: An image of the same shape and type.
        data_range: Range of the values, from which the two constants are made.
        only_contrast: Leave out the first factor, for scales where it does not count.

    Returns:
        The similarity and, where the image has a `negative`, that of its negative.
    """
    height, width = truth.values.shape
    rows, columns = height - 2 * RADIUS, width - 2 * RADIUS
    found = (Similarity(), None if judged.negative is None else Similarity())
    constants = (2 * (SSIM_K1 * data_range) ** 2, 2 * (SSIM_K2 * data_range) ** 2)
    block = _block_rows(width)
    step = min(rows, max(1, _STRIP_PIXELS // width // block) * block)
    strip: _Strip | None = None
    for top in range(0, rows, step):
        number = min(step, rows - top)
        if strip is None or strip.num_rows != number:
            shape = (number, width)
            strip = _Strip(shape, truth.dtype, constants, judged.flat is not None, only_contrast)
        strip.add(truth, judged, slice(top, top + number + 2 * RADIUS), found)
    for mean in (mean for mean in found if mean is not None):
        # What was added up is what is missing to 1.
        mean.whole = 1.0 - mean.whole / (rows * columns)
        mean.contrast = 1.0 - mean.contrast / (rows * columns)
    return found


class _Strip:
    """Memory for a strip of rows, used again for each strip of equal height.

    Args:
        shape: (rows of windows, width of the image in pixels).
        dtype: Type of the images.
        constants: Twice the two constants of the similarity.
        is_flat: Whether the judged image is flat: then two fields are filtered, not four.
        only_contrast: As of `similarity`.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        dtype: np.dtype,
        constants: tuple[float, float],
        is_flat: bool,
        only_contrast: bool,
    ) -> None:
        self.num_rows, width = shape
        self._constants, self._only_contrast = constants, only_contrast
        number, size = 1 if is_flat else 2, self.num_rows * (width - 2 * RADIUS)
        self._fields = np.empty((number, self.num_rows + 2 * RADIUS, width), dtype)
        self._values = np.empty_like(self._fields[0])
        # Of sum and difference (next axis): the means, and those of their squares.
        self._means = np.empty((2, 2, size), dtype)
        self._filters = [Filter(self._fields, out) for out in self._means[:, :number]]
        self._spare = np.empty((2, size), dtype)
        self._ones = np.ones(width - 2 * RADIUS, dtype)

    def add(
        self,
        truth: Layer,
        judged: Layer,
        rows: slice,
        found: tuple[Similarity, Similarity | None],
    ) -> None:
        """Add the sums over the windows of a strip to those of an image and its negative."""
        offsets = self._fill(truth, judged, rows)
        (total, gap), variances = self._means
        np.multiply(self._means[0], self._means[0], out=self._spare)
        variances -= self._spare
        both, _ = self._spare
        np.add(variances[0], variances[1], out=both)
        both += self._constants[1]
        plain, negative = found
        if negative is None or judged.negative is None:
            variances[1] /= both
        else:
            variances /= both
            swapped = [offset - judged.negative for offset in offsets]
            self._add(negative, variances[0], (total, swapped[0]), (gap, swapped[1]))
        self._add(plain, variances[1], (gap, offsets[1]), (total, offsets[0]))

    def _fill(self, truth: Layer, judged: Layer, rows: slice) -> tuple[float, float]:
        """Set the windows' means of p + t and p - t, less an offset, and of their squares.

        Returns:
            The offsets of p + t and of p - t.
        """
        fields = self._fields
        fields[-1] = truth.values[rows]
        if judged.flat is None:
            self._values[:] = judged.values[rows]
            np.add(self._values, fields[1], out=fields[0])
            np.subtract(self._values, fields[1], out=fields[1])
        # Any number near the mean will do, so a few pixels tell it.
        sample = fields[:, _SAMPLED, _SAMPLED]
        offsets = np.rint(sample.sum(axis=(1, 2)) / sample[0].size)
        fields -= offsets[:, None, None]
        self._filters[0].run()
        np.multiply(fields, fields, out=fields)
        self._filters[1].run()
        if judged.flat is None:
            return float(offsets[0]), float(offsets[1])
        np.negative(self._means[0, 0], out=self._means[0, 1])
        self._means[1, 1] = self._means[1, 0]
        return judged.flat + float(offsets[0]), judged.flat - float(offsets[0])

    def _add(
        self,
        found: Similarity,
        shares: np.ndarray,
        gap: tuple[np.ndarray, float],
        total: tuple[np.ndarray, float],
    ) -> None:
        """Add up what the two factors lack to 1.

        Args:
            found: Where to add.
            shares: Half of what the contrast term lacks.
            gap: Mean of the difference less an offset, and the offset.
            total: The same of the sum.
        """
        lacking = 2.0 * self._sum(shares)
        found.contrast += lacking
        found.whole += lacking
        if self._only_contrast:
            return
        above, below = self._spare
        np.add(*gap, out=above)
        np.add(*total, out=below)
        self._spare *= self._spare
        below += above
        below += self._constants[0]
        above /= below
        found.whole += 2.0 * self._sum(above) - 4.0 * self._sum(above, shares)

    def _sum(self, values: np.ndarray, others: np.ndarray | None = None) -> float:
        """Return the sum of values, or of products; in float64 over the sums of the rows."""
        rows = values.reshape(self.num_rows, -1)
        factors = self._ones if others is None else others.reshape(rows.shape)
        # A few dozen numbers: a list is added up faster than an array, and in float64.
        return float(sum(np.vecdot(rows, factors).tolist()))


class Filter:
    """The Gaussian-weighted means of the windows inside, of the same memory again and again.

    Args:
        fields: KxHxW float in one piece of memory, both sides at least 11.
        out: Kx((H-10)*(W-10)) of the same type: the windows of each field in an order that
            is the same for all: blocks of columns, then the columns left over.
    """

    def __init__(self, fields: np.ndarray, out: np.ndarray) -> None:
        number, height, width = fields.shape
        rows, columns = height - 2 * RADIUS, width - 2 * RADIUS
        down = np.empty((number, rows, width), fields.dtype)
        self._products = [
            *_down_products(fields, down, _block_rows(width)),
            *_across_products(down, out, columns - columns % _COLUMNS),
        ]

    def run(self) -> None:
        """Fill `out` from what `fields` hold now."""
        for left, right, out in self._products:
            np.matmul(left, right, out=out)


Products = list[tuple[np.ndarray, np.ndarray, np.ndarray]]


def _block_rows(width: int) -> int:
    """Return how many rows one product may make."""
    return next((n for n in (8, 4, 2) if n * (n + 2 * RADIUS) * width <= _MOST_MULTIPLICATIONS), 1)


def _down_products(fields: np.ndarray, out: np.ndarray, block: int) -> Products:
    """Return the products over columns: blocks of rows, and the rows left over."""
    number, rows, width = out.shape
    found: Products = []
    whole = rows - rows % block
    if whole:
        shape = (number, whole // block, block + 2 * RADIUS, width)
        blocks = out[:, :whole].reshape(number, -1, block, width)
        views = _overlapping(fields, shape, 1, block)
        found.append((_band(block, fields.dtype), views, blocks))
    if whole < rows:
        found.append((_band(rows - whole, fields.dtype), fields[:, whole:], out[:, whole:]))
    return found


def _across_products(fields: np.ndarray, out: np.ndarray, whole: int) -> Products:
    """Return the products over rows: blocks of columns, `whole` in all, and those left."""
    number, rows, width = fields.shape
    columns = width - 2 * RADIUS
    found: Products = []
    if whole:
        shape = (number, whole // _COLUMNS, rows, _COLUMNS + 2 * RADIUS)
        blocks = out[:, : rows * whole].reshape(number, -1, rows, _COLUMNS)
        views = _overlapping(fields, shape, 2, _COLUMNS)
        found.append((views, _across(_COLUMNS, fields.dtype), blocks))
    if whole < columns:
        rest = out[:, rows * whole :].reshape(number, rows, columns - whole)
        found.append((fields[:, :, whole:], _across(columns - whole, fields.dtype), rest))
    return found


def _overlapping(fields: np.ndarray, shape: tuple[int, ...], axis: int, step: int) -> np.ndarray:
    """View KxHxW as KxBxhxw: blocks that lie `step` apart along an axis and overlap.

    The constructor does it in a fraction of the time of numpy's own window views; it
    refuses what leaves the buffer.
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
