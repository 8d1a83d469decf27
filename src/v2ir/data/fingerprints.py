"""Perceptual hashes of images, and the groups of near-duplicates among many."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
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
    prints: Sequence[Fingerprint | None], within: int = NEAR_DISTANCE
) -> Iterator[np.ndarray]:
    """Yield the near-duplicates among many fingerprints, by their positions.

    All pairs are compared, in blocks of 512 rows, so that 100,000 images take minutes
    and some hundred megabytes. An image that is almost uniform, or that has no
    fingerprint, has no near-duplicates.

    Yields:
        (n, 3) int64 arrays of i, j and distance with i < j, one for each block.
    """
    places = np.array([i for i, p in enumerate(prints) if p and p.is_telling], dtype=np.int64)
    told = (prints[i] for i in places)
    words = np.array([_words(p.bits) for p in told if p], dtype=np.uint64).reshape(-1, _WORDS)
    for start in range(0, len(words), _BLOCK):
        block, rest = words[start : start + _BLOCK], words[start:]
        differing = np.zeros((len(block), len(rest)), dtype=np.uint16)
        for word in range(_WORDS):
            differing += np.bitwise_count(block[:, word, None] ^ rest[None, :, word])
        rows, columns = np.nonzero(differing <= within)
        rows, columns = rows[columns > rows], columns[columns > rows]
        found = (places[start + rows], places[start + columns], differing[rows, columns])
        yield np.stack(found, axis=1).astype(np.int64)


def _words(bits: int) -> np.ndarray:
    return np.frombuffer(bits.to_bytes(_WORDS * 8, "big"), dtype=np.uint64)


def joined(number: int, blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Return the groups that pairs make of 0..number-1.

    Args:
        number: How many items there are.
        blocks: (n, 2 or more) integer arrays; the first two columns are items to join.

    Returns:
        For each item the lowest member of its group, (number,) int64.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    lowest = np.arange(number)
    for block in blocks:
        if len(block):
            ends = lowest[block[:, 0]], lowest[block[:, 1]]
            graph = coo_array((np.ones(len(block), dtype=bool), ends), shape=(number, number))
            parts = connected_components(graph, directed=False)[1]
            first = np.unique(parts, return_index=True)[1]
            lowest = first[parts[lowest]]
    return lowest
