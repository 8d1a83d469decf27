"""A one-channel image and everything that several scores need of it, made once.

Images of 8 bits are kept as levels: then errors and correlations are exact sums over a
table of how many pixels have each pair of levels, which is counted once a pair.
"""

from __future__ import annotations

import dataclasses
import functools
import weakref

import numpy as np
from PIL import Image

from v2ir.evaluation.compiled import gradient_lengths, gradient_mean, sums_of_levels
from v2ir.evaluation.levels import LEVELS, LevelTable, joint_counts
from v2ir.evaluation.windows import Layer
from v2ir.images import to_uint8


@dataclasses.dataclass(frozen=True, eq=False)
class Grey:
    """A one-channel image and what is derived from it, made once.

    Attributes:
        pixels: HW uint8, or HW float in [0, 1].
        negative_of: An image whose negative this one is, to the level, if one is known.
    """

    pixels: np.ndarray
    negative_of: Grey | None = None
    _tables: weakref.WeakKeyDictionary[Grey, LevelTable] = dataclasses.field(
        default_factory=weakref.WeakKeyDictionary, repr=False
    )

    @functools.cached_property
    def image(self) -> np.ndarray:
        """HW float in [0, 1]."""
        if self.pixels.dtype != np.uint8:
            return self.pixels
        return self.pixels.astype(np.float32) / np.float32(255.0)

    @functools.cached_property
    def levels(self) -> np.ndarray:
        """HW uint8; rounded where the image has more than 8 bits."""
        return self.pixels if self.pixels.dtype == np.uint8 else to_uint8(self.pixels)

    @functools.cached_property
    def unrounded(self) -> np.ndarray:
        """HW in levels, from 0 to 255 and not rounded to them: uint8 if all are, or float32."""
        return self.levels if self.is_exact else (self.image * 255.0).astype(np.float32)

    @functools.cached_property
    def is_exact(self) -> bool:
        """Whether every pixel is a level divided by 255, in the image's own precision."""
        if self.pixels.dtype == np.uint8:
            return True
        return bool(np.array_equal(self.levels.astype(self.pixels.dtype) / 255, self.pixels))

    @functools.cached_property
    def is_flat(self) -> bool:
        """Whether all pixels are equal."""
        first = self.pixels[:1]  # nearly always enough to tell that it is not
        return all(bool(part.min() == part.max()) for part in (first, self.pixels))

    @functools.cached_property
    def values(self) -> np.ndarray | None:
        """Value in [0, 1] of each of the 256 levels; None if the levels do not tell it."""
        if self.is_exact:
            return np.arange(LEVELS) / 255.0
        return np.full(LEVELS, float(self.pixels.flat[0])) if self.is_flat else None

    @functools.cached_property
    def histogram(self) -> np.ndarray:
        """How many pixels have each of the 256 levels."""
        return np.asarray(Image.fromarray(self.levels).histogram(), dtype=np.int64)

    @functools.cached_property
    def mean(self) -> float:
        """Mean in [0, 1] of the levels."""
        return float(self.histogram @ np.arange(LEVELS)) / self.levels.size / 255.0

    @functools.cached_property
    def deviation(self) -> float:
        """Standard deviation in [0, 1] of the levels; 0 for a flat image."""
        if self.is_flat:
            return 0.0
        gaps = np.arange(LEVELS) / 255.0 - self.mean
        return float(self.histogram @ (gaps * gaps) / self.levels.size) ** 0.5

    @functools.cached_property
    def edges(self) -> np.ndarray:
        """Gradient magnitude in levels a pixel, HW float32; 0 where a side is 1 px."""
        if self._has_no_edges:
            return np.zeros(self.pixels.shape, np.float32)
        if self.negative_of is not None:
            return self.negative_of.edges
        return gradient_magnitude(self.unrounded)

    @functools.cached_property
    def mean_edge(self) -> float:
        """Mean of `edges`, which need not be kept for it."""
        if self._has_no_edges:
            return 0.0
        if self.negative_of is not None:
            return self.negative_of.mean_edge
        if "edges" in self.__dict__:
            return float(self.edges.sum(axis=1).sum(dtype=np.float64)) / self.edges.size
        return mean_gradient(self.unrounded)

    @property
    def _has_no_edges(self) -> bool:
        return min(self.pixels.shape) < 2 or self.is_flat

    @functools.cached_property
    def edge_pattern(self) -> tuple[np.ndarray, float]:
        """`edges` less their mean, and the length of that as a vector."""
        pattern = self.edges - np.float32(self.mean_edge)
        return pattern, float(np.vecdot(pattern, pattern).sum(dtype=np.float64)) ** 0.5

    def table_with(self, other: Grey) -> LevelTable:
        """Return how many pixels have each pair of levels, with rows of this image."""
        table = self._tables.get(other)
        if table is None:
            table = self._tables[other] = LevelTable(self._counted(other))
            # The histograms of both fall out of it.
            self.__dict__.setdefault("histogram", table.rows.astype(np.int64))
            other.__dict__.setdefault("histogram", table.columns.astype(np.int64))
        return table

    def _counted(self, other: Grey) -> np.ndarray:
        if self.negative_of is not None:
            return self.negative_of.table_with(other).counts[::-1]
        if self.is_flat:
            counts = np.zeros((LEVELS, LEVELS), np.int64)
            counts[self.levels.flat[0]] = other.histogram
            return counts
        return joint_counts(self.levels, other.levels)

    def release(self) -> None:
        """Forget the large arrays that can be made again."""
        for name in ("image", "unrounded", "edges", "edge_pattern"):
            self.__dict__.pop(name, None)

    def mean_gap(self, mask: np.ndarray, other: np.ndarray, numbers: tuple[int, int]) -> float:
        """Return the mean in [0, 1] where a mask is set less that where another is.

        Args:
            mask: HW bool.
            other: The same shape.
            numbers: How many pixels each sets, at least one.
        """
        if self.is_exact:
            sums = sums_of_levels(self.levels, mask.view(np.uint8), other.view(np.uint8))
            return float(sums[0] / numbers[0] - sums[1] / numbers[1]) / 255.0
        inside, outside = (float(self.image[m].mean(dtype=np.float64)) for m in (mask, other))
        return inside - outside

    def layer(self, *, with_negative: bool = False) -> Layer:
        """Return the image in levels."""
        return Layer(self.unrounded, 255.0 if with_negative else None)


def is_negative(image: Grey, other: Grey) -> bool:
    """Return whether two images of 8 bits add up to 255 everywhere."""
    if not (image.is_exact and other.is_exact):
        return False
    if not np.array_equal(image.histogram, other.histogram[::-1]):
        return False
    return bool(np.array_equal(image.levels, 255 - other.levels))


def gradient_magnitude(values: np.ndarray) -> np.ndarray:
    """Return the length of the gradient, HW float32; sides of at least 2 px.

    Central differences inside and one-sided ones at the borders, as in `numpy.gradient`.
    """
    found = np.empty(values.shape, np.float32)
    gradient_lengths(_readable(values), found)
    return found


def mean_gradient(values: np.ndarray) -> float:
    """Return the mean of `gradient_magnitude` without keeping it."""
    return float(gradient_mean(_readable(values)))


def _readable(values: np.ndarray) -> np.ndarray:
    return values if values.dtype == np.uint8 else values.astype(np.float32, copy=False)
