"""Perceptual hashes of images, and the groups of near-duplicates among many."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from v2ir.images import read_thumbnail

# Measured on real data; see docs/data.md.
NEAR_DISTANCE = 64
"""Two images whose hashes differ in at most this many of 256 bits are near-duplicates."""

NEIGHBOUR_DISTANCE = 96
"""The same for two successive frames of one sequence, where a chance hit is unlikely."""

LEAST_CONTRAST = 4.0 / 255.0
"""Images whose thumbnail's standard deviation is below this have no usable hash."""

_SIDE = 64
_LOW = 16
_WORDS = _LOW * _LOW // 64
_BLOCK = 512


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """What is kept of an image to recognise its near-duplicates.

    Attributes:
        bits: 256-bit perceptual hash.
        contrast: Standard deviation of the 64x64 luminance thumbnail, in [0, 0.5].
    """

    bits: int
    contrast: float

    @property
    def is_telling(self) -> bool:
        """Whether there is enough in the image for the hash to mean anything."""
        return self.contrast >= LEAST_CONTRAST


def fingerprint(path: Path) -> Fingerprint:
    """Read an image file to its end and return its fingerprint.

    Raises:
        ImageReadError: If the file is missing, is not an image or is cut off.
    """
    return fingerprint_of(read_thumbnail(path, _SIDE, _SIDE))


def fingerprint_of(thumbnail: np.ndarray) -> Fingerprint:
    """Return the fingerprint of a 64x64 luminance thumbnail (float, [0, 1]).

    The hash is one bit for each of the 16x16 lowest cosine frequencies: whether the
    coefficient is above the median of the 255 that are not the mean. It does not change
    with brightness or contrast, and little with compression, noise and scale.

    Source: C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions,
    2010, section 3.2.1, there with 8x8 frequencies of 32x32 pixels.
    """
    cosines = _cosines(thumbnail.shape[0])
    low = cosines @ thumbnail.astype(np.float64) @ cosines.T
    above = low > np.median(low.ravel()[1:])
    above[0, 0] = False
    packed = np.packbits(above.ravel())
    return Fingerprint(int.from_bytes(packed.tobytes(), "big"), float(thumbnail.std()))


@functools.cache
def _cosines(side: int) -> np.ndarray:
    """Return the 16 lowest basis vectors of the cosine transform (DCT-II) of a length."""
    frequency, place = np.ogrid[:_LOW, :side]
    return np.cos(np.pi * frequency * (2 * place + 1) / (2 * side))


def distance(one: Fingerprint, other: Fingerprint) -> int:
    """Return in how many of the 256 bits two hashes differ."""
    return (one.bits ^ other.bits).bit_count()


def near_pairs(
    prints: Iterable[Fingerprint], within: int = NEAR_DISTANCE
) -> Iterator[tuple[int, int, int]]:
    """Yield (i, j, distance) with i < j of all near-duplicates, by their positions.

    All pairs are compared, in blocks of 512 rows, so that 100,000 images take a minute
    and some megabytes. Images that are almost uniform have no near-duplicates.
    """
    listed = list(prints)
    places = np.flatnonzero([item.is_telling for item in listed])
    words = np.array(
        [np.frombuffer(listed[i].bits.to_bytes(_WORDS * 8, "big"), np.uint64) for i in places],
        dtype=np.uint64,
    ).reshape(-1, _WORDS)
    for start in range(0, len(words), _BLOCK):
        block, rest = words[start : start + _BLOCK], words[start:]
        differing = np.zeros((len(block), len(rest)), dtype=np.uint16)
        for word in range(_WORDS):
            differing += np.bitwise_count(block[:, word, None] ^ rest[None, :, word])
        for row, column in np.argwhere(differing <= within):
            if column > row:
                first, second = places[start + row], places[start + column]
                yield int(first), int(second), int(differing[row, column])


class Groups:
    """Disjoint sets over 0..n-1: items that were joined, directly or not, are one group."""

    def __init__(self, number: int) -> None:
        self._parents = list(range(number))

    def first(self, item: int) -> int:
        """Return the lowest member of the group of `item`."""
        while self._parents[item] != item:
            self._parents[item] = self._parents[self._parents[item]]
            item = self._parents[item]
        return item

    def join(self, one: int, other: int) -> None:
        """Make one group of the groups of two items."""
        low, high = sorted((self.first(one), self.first(other)))
        self._parents[high] = low
