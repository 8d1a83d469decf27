"""Means over the Gaussian windows of the structural similarity.

Everything is counted in the type of the images, float64 for the definition and float32 for speed;
images of 8 bits in float32.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from v2ir.evaluation.compiled import halve
from v2ir.evaluation.compiled_similarity import WINDOW, similarity_means

SSIM_WINDOW = WINDOW
SSIM_SIGMA = 1.5
SSIM_K1, SSIM_K2 = 0.01, 0.03
RADIUS = SSIM_WINDOW // 2


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """An image as the similarities read it.

    Attributes:
        values: HW uint8, float32 or float64.
        negative: The negative image is `negative - values`; None where it is not asked for.
    """

    values: np.ndarray
    negative: float | None = None

    def halved(self) -> Layer:
        """Return the means of 2x2 pixels; an odd last row or column is left out."""
        height, width = self.values.shape
        found = np.empty((height // 2, width // 2), _counted_in(self.values.dtype))
        halve(self.values, found)
        return dataclasses.replace(self, values=found)


@dataclasses.dataclass(frozen=True)
class Similarity:
    """Means over all windows.

    Attributes:
        whole: Mean of the structural similarity.
        contrast: Mean of its contrast and structure term alone.
    """

    whole: float
    contrast: float


def similarity(
    truth: Layer, judged: Layer, data_range: float = 1.0
) -> tuple[Similarity, Similarity | None]:
    """Return the similarity of an image, and of its negative, to the truth.

    Source: Wang, Bovik, Sheikh and Simoncelli, 2004, equation 13.

    Args:
        truth: Both sides at least the window's 11 px.
        judged: An image of the same shape.
        data_range: Range of the values, from which the two constants are made.

    Returns:
        The similarity and, where the image has a `negative`, that of its negative.
    """
    read = np.result_type(truth.values, judged.values)
    dtype = _counted_in(read)
    light, texture = (dtype.type(2 * (k * data_range) ** 2) for k in (SSIM_K1, SSIM_K2))
    found = np.empty(4)
    similarity_means(
        np.ascontiguousarray(truth.values, read),
        np.ascontiguousarray(judged.values, read),
        _weights(dtype),
        (light, texture),
        dtype.type(judged.negative or 0.0),
        found,
    )
    plain, negative = (Similarity(*pair) for pair in found.reshape(2, 2).tolist())
    return plain, None if judged.negative is None else negative


def _counted_in(dtype: np.dtype) -> np.dtype:
    """Return the type of sums over values of a type."""
    return np.dtype(np.float32) if dtype == np.uint8 else dtype


@functools.cache
def _weights(dtype: np.dtype) -> np.ndarray:
    """Return the outer five weights of the window and the middle one."""
    weights = np.exp(-0.5 * np.square(np.arange(-RADIUS, RADIUS + 1) / SSIM_SIGMA))
    return (weights / weights.sum())[: RADIUS + 1].astype(dtype)
