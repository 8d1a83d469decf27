"""What costs nothing and must be beaten: recoloured photographs and a constant image.

None of them sees the truth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from PIL import Image

from v2ir.evaluation.statistics import LEVELS, TrainingStatistics


@dataclasses.dataclass(frozen=True)
class Baseline:
    """One row of the registry.

    Attributes:
        function: From the photograph's luma (HW uint8) and the statistics of the training
            set's infrared images to an infrared image, HW uint8 or HW float32 in [0, 1].
    """

    function: Callable[[np.ndarray, TrainingStatistics], np.ndarray]

    def __call__(self, visible: np.ndarray, reference: TrainingStatistics) -> np.ndarray:
        """Return the infrared image, HW float32 in [0, 1], of HWC uint8 RGB."""
        pixels = self.function(luma_levels(visible), reference)
        return pixels.astype(np.float32) / np.float32(255) if pixels.dtype == np.uint8 else pixels


def luma_levels(visible: np.ndarray) -> np.ndarray:
    """Return the luma (ITU-R BT.601) of HWC uint8 RGB as HW uint8."""
    return np.asarray(Image.fromarray(visible).convert("L"))


def grey(luma: np.ndarray, reference: TrainingStatistics) -> np.ndarray:
    """Return the luma of the photograph."""
    return luma


def inverted_grey(luma: np.ndarray, reference: TrainingStatistics) -> np.ndarray:
    """Return the negative of the photograph's luma."""
    return 255 - luma


def matched_grey(luma: np.ndarray, reference: TrainingStatistics) -> np.ndarray:
    """Return the luma with its histogram matched to the training set's."""
    return match_histogram(luma, reference.histogram)


def inverted_matched_grey(luma: np.ndarray, reference: TrainingStatistics) -> np.ndarray:
    """Return the negative of the luma with its histogram matched to the training set's."""
    return match_histogram(255 - luma, reference.histogram)


def constant(luma: np.ndarray, reference: TrainingStatistics) -> np.ndarray:
    """Return an image that is the training set's mean everywhere."""
    return np.full(luma.shape, reference.mean, dtype=np.float32)


def match_histogram(levels: np.ndarray, histogram: tuple[int, ...]) -> np.ndarray:
    """Give an image the distribution of a histogram, keeping the order of its pixels.

    Pixels are ranked by value, equal ones in reading order, and the pixel of rank i out
    of n gets the histogram's quantile at (i + 1/2) / n. Each level thus takes the share
    of pixels that it has in the histogram, to the pixel, however many pixels are equal
    (a burnt-out night sky is not turned into one grey, as a table of levels would).

    Args:
        levels: HW uint8.
        histogram: 256 counts, not all zero.

    Returns:
        HW uint8.
    """
    shares = np.cumsum(np.asarray(histogram, dtype=np.float64))
    ends = np.floor(shares / shares[-1] * levels.size + 0.5).astype(np.int64)
    sorted_levels = np.repeat(np.arange(LEVELS, dtype=np.uint8), np.diff(ends, prepend=0))
    matched = np.empty(levels.size, dtype=np.uint8)
    matched[np.argsort(levels, axis=None, kind="stable")] = sorted_levels
    return matched.reshape(levels.shape)
