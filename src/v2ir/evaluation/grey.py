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

from v2ir.evaluation.windows import Layer
from v2ir.images import to_uint8

LEVELS = 256
_STRIP = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Grey:
    """A one-channel image and what is derived from it, made once.

    Attributes:
        pixels: HW uint8, or HW float in [0, 1].
        negative_of: An image whose negative this one is, to the level, if one is known.
    """

    pixels: np.ndarray
    negative_of: Grey | None = None
    _joint: dict[int, tuple[weakref.ref[Grey], np.ndarray]] = dataclasses.field(
        default_factory=dict, repr=False
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
    def is_exact(self) -> bool:
        """Whether every pixel is a level divided by 255, in the image's own precision."""
        if self.pixels.dtype == np.uint8:
            return True
        return bool(np.array_equal(self.levels.astype(self.pixels.dtype) / 255, self.pixels))

    @functools.cached_property
    def is_flat(self) -> bool:
        """Whether all pixels are equal."""
        return bool(self.pixels.min() == self.pixels.max())

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
        if min(self.pixels.shape) < 2 or self.is_flat:
            return np.zeros(self.pixels.shape, np.float32)
        if self.negative_of is not None:
            return self.negative_of.edges
        return gradient_magnitude(self.pixels, 1.0 if self.pixels.dtype == np.uint8 else 255.0)

    @functools.cached_property
    def mean_edge(self) -> float:
        """Mean of `edges`."""
        return float(self.edges.sum(axis=1).sum(dtype=np.float64)) / self.edges.size

    @functools.cached_property
    def edge_pattern(self) -> tuple[np.ndarray, float]:
        """`edges` less their mean, flat, and the length of that as a vector."""
        pattern = self.edges.ravel() - np.float32(self.mean_edge)
        return pattern, float(np.vdot(pattern, pattern)) ** 0.5

    def counts_with(self, other: Grey) -> np.ndarray:
        """Return how many pixels have each pair of levels, 256x256 with rows of this image."""
        known, counts = self._joint.get(id(other), (None, None))
        if known is None or counts is None or known() is not other:
            counts = self._counted(other)
            # Two images that kept each other would wait for the collector of cycles.
            self._joint[id(other)] = (weakref.ref(other), counts)
        return counts

    def _counted(self, other: Grey) -> np.ndarray:
        if self.negative_of is not None:
            return self.negative_of.counts_with(other)[::-1]
        if self.is_flat:
            counts = np.zeros((LEVELS, LEVELS), np.int64)
            counts[self.levels.flat[0]] = other.histogram
            return counts
        return joint_counts(self.levels, other.levels)

    def release(self) -> None:
        """Forget the large arrays that can be made again."""
        for name in ("image", "edges", "edge_pattern"):
            self.__dict__.pop(name, None)

    def mean_at(self, places: np.ndarray) -> float:
        """Return the mean in [0, 1] of the pixels with these places in reading order."""
        if self.is_exact:
            return float(self.levels.ravel()[places].mean(dtype=np.float64)) / 255.0
        return float(self.image.ravel()[places].mean(dtype=np.float64))

    def flat_layer(self, *, with_negative: bool = False) -> Layer:
        """Return the layer of a flat image, which needs no pixels."""
        level = 255.0 * float(self.image.flat[0])
        negated = 255.0 - level if with_negative else None
        return Layer(np.zeros((0, 0), np.float32), level, negated, is_flat=True)

    def layer(self, *, with_negative: bool = False) -> Layer:
        """Return the image in levels as float32, less a level near its mean."""
        offset = float(round(255.0 * self.mean))
        if self.is_exact:
            values = self.levels.astype(np.float32)
        else:
            values = (self.image * 255.0).astype(np.float32)
        values -= np.float32(offset)
        return Layer(values, offset, 255.0 - offset if with_negative else None)


def is_negative(image: Grey, other: Grey) -> bool:
    """Return whether two images of 8 bits add up to 255 everywhere."""
    if not (image.is_exact and other.is_exact):
        return False
    if not np.array_equal(image.histogram, other.histogram[::-1]):
        return False
    return bool(np.array_equal(image.levels, 255 - other.levels))


def joint_counts(levels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return how many pixels have each pair of levels, 256x256; both HW uint8."""
    pairs = np.empty((levels.size,), np.uint16)
    np.left_shift(levels.ravel(), 8, out=pairs, dtype=np.uint16)
    pairs |= others.ravel()
    return np.bincount(pairs, minlength=LEVELS * LEVELS).reshape(LEVELS, LEVELS)


def gradient_magnitude(values: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Return `scale` times the length of the gradient, HW float32; sides of at least 2 px.

    Central differences inside and one-sided ones at the borders, as in `numpy.gradient`,
    here in strips of rows that stay in the cache.
    """
    height, width = values.shape
    found = np.empty((height, width), np.float32)
    for top in range(0, height, _STRIP):
        end = min(top + _STRIP, height)
        # One more pixel on each side; outside the image the straight line goes on.
        first, last = max(top - 1, 0), min(end + 1, height)
        block = np.empty((end - top + 2, width + 2), np.float32)
        block[first - top + 1 : last - top + 1, 1:-1] = values[first:last]
        inner = block[:, 1:-1]
        if top == 0:
            inner[0] = 2 * inner[1] - inner[2]
        if end == height:
            inner[-1] = 2 * inner[-2] - inner[-3]
        rows = block[1:-1]
        rows[:, 0] = 2 * rows[:, 1] - rows[:, 2]
        rows[:, -1] = 2 * rows[:, -2] - rows[:, -3]
        down = inner[2:] - inner[:-2]
        right = rows[:, 2:] - rows[:, :-2]
        down *= down
        right *= right
        down += right
        np.sqrt(down, out=found[top:end])
    found *= np.float32(scale / 2)
    return found
