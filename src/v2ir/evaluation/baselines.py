"""What costs nothing and must be beaten: recoloured photographs and a constant image.

Each baseline is `f(visible, reference)`: from the visible image (HWC uint8 RGB) and the
statistics of the training set's infrared images to an infrared image (HW float32 in
[0, 1]). None of them sees the truth.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from v2ir.evaluation.statistics import LEVELS, TrainingStatistics

Baseline = Callable[[np.ndarray, TrainingStatistics], np.ndarray]


def _grey_levels(visible: np.ndarray) -> np.ndarray:
    """Return the luma (ITU-R BT.601) of HWC uint8 RGB as HW uint8."""
    return np.asarray(Image.fromarray(visible).convert("L"))


def luma(visible: np.ndarray) -> np.ndarray:
    """Return the luma (ITU-R BT.601) of HWC uint8 RGB as HW float32 in [0, 1]."""
    return _unit(_grey_levels(visible))


def _unit(levels: np.ndarray) -> np.ndarray:
    return levels.astype(np.float32) / np.float32(255.0)


def grey(visible: np.ndarray, reference: TrainingStatistics) -> np.ndarray:
    """Return the luma of the photograph."""
    return luma(visible)


def inverted_grey(visible: np.ndarray, reference: TrainingStatistics) -> np.ndarray:
    """Return the negative of the photograph's luma."""
    return _unit(255 - _grey_levels(visible))


def matched_grey(visible: np.ndarray, reference: TrainingStatistics) -> np.ndarray:
    """Return the luma with its histogram matched to the training set's."""
    return _unit(match_histogram(_grey_levels(visible), reference.histogram))


def inverted_matched_grey(visible: np.ndarray, reference: TrainingStatistics) -> np.ndarray:
    """Return the negative of the luma with its histogram matched to the training set's."""
    return _unit(match_histogram(255 - _grey_levels(visible), reference.histogram))


def constant(visible: np.ndarray, reference: TrainingStatistics) -> np.ndarray:
    """Return an image that is the training set's mean everywhere."""
    return np.full(visible.shape[:2], reference.mean, dtype=np.float32)


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
