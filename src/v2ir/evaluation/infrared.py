"""Measures of what infrared images are for: hot things, their order, and true heat.

Each takes the judged image and the facts of its scene and gives one number, NaN where a
fact that it needs is not known or the measure is not defined. Ranks and distributions
are counted on 256 grey levels, which is exact for 8-bit images.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import weakref
from collections.abc import Callable

import numpy as np

from v2ir.evaluation.compiled import around, stand_out, sum_of_gaps
from v2ir.evaluation.grey import Grey
from v2ir.evaluation.levels import LEVELS
from v2ir.evaluation.metrics import Rule

LEAST_WARMER = 0.05
LEAST_HOT_SHARE = 5e-4
RING_PIXELS = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Facts:
    """What is known about the scene of a judged image.

    Attributes:
        truth: The true infrared image, if there is one.
        visible: Luma of the photograph, if there is one.
        histogram: Grey levels of the training images of the camera's style, 256 counts.
    """

    truth: Grey | None = None
    visible: Grey | None = None
    histogram: tuple[int, ...] | None = None
    _hot_sums: weakref.WeakKeyDictionary[Grey, float] = dataclasses.field(
        default_factory=weakref.WeakKeyDictionary, repr=False
    )

    @property
    def hot(self) -> np.ndarray | None:
        """Mask of the hot regions of the truth; None where there are none to speak of."""
        return self._hot[0]

    @property
    def num_hot(self) -> int:
        """Number of hot pixels; 0 where there are none to speak of."""
        return self._hot[1]

    @functools.cached_property
    def _hot(self) -> tuple[np.ndarray | None, int]:
        if self.truth is None:
            return None, 0
        mask = hot_regions(self.truth)
        number = int(np.count_nonzero(mask))
        return (mask, number) if number >= LEAST_HOT_SHARE * mask.size else (None, 0)

    @functools.cached_property
    def ring(self) -> np.ndarray | None:
        """Mask of what lies around the hot regions, up to 8 px away; None without them."""
        return None if self.hot is None else surroundings(self.hot, RING_PIXELS)

    @functools.cached_property
    def num_ring(self) -> int:
        """Number of pixels of `ring`."""
        return 0 if self.ring is None else int(np.count_nonzero(self.ring))

    @functools.cached_property
    def true_contrast(self) -> float:
        """How far the truth's hot regions stand out of what is around them; NaN if unknown."""
        return math.nan if self.truth is None else contrast_of(self.truth, self)


@dataclasses.dataclass(frozen=True)
class Measure(Rule):
    """One row of the registry.

    Attributes:
        function: Takes the judged image and the facts of its scene; gives one number.
    """

    function: Callable[[Grey, Facts], float]


def hot_regions(truth: Grey) -> np.ndarray:
    """Return where an infrared image is hot, HW bool.

    A pixel is hot when it is above Otsu's threshold of the image and at least 0.05 above
    the mean of the square around it whose side is half the image's shorter side: the
    threshold alone takes the whole warm ground, the surroundings alone every grain.
    """
    side = max(3, min(truth.pixels.shape) // 2) | 1
    threshold = otsu_threshold(truth.histogram)
    if truth.is_exact and side <= min(truth.pixels.shape):
        # In whole numbers nothing is rounded: level - sum / number > 0.05 * 255.
        return above_square(truth.levels, side, math.floor(255 * LEAST_WARMER * side**2), threshold)
    above: np.ndarray = truth.image > box_mean(truth.image, side) + LEAST_WARMER
    return above & (truth.levels > threshold)


def otsu_threshold(histogram: np.ndarray) -> int:
    """Return the level up to which pixels are dark, by Otsu's criterion.

    The level that makes the variance between the two classes largest, the lowest of equal
    ones; 255 where all pixels are equal.

    Source: Otsu, 1979, equation 18.
    """
    counts = histogram.astype(np.float64)
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * np.arange(LEVELS))
    both = (below > 0) & (above > 0)
    if not both.any():
        return LEVELS - 1
    gap = np.zeros(LEVELS)
    gap[both] = sums[both] / below[both] - (sums[-1] - sums[both]) / above[both]
    return int(np.argmax(below * above * gap * gap))


def box_mean(values: np.ndarray, side: int) -> np.ndarray:
    """Return the mean of the square of odd `side` around each pixel; borders are mirrored."""
    from scipy.ndimage import uniform_filter

    means: np.ndarray = uniform_filter(values, side, mode="reflect")
    return means


def above_square(levels: np.ndarray, side: int, margin: int, threshold: int) -> np.ndarray:
    """Return where `side`^2 times a level is more than `margin` above its square's sum, HW bool.

    Args:
        levels: HW uint8, both sides at least `side`.
        side: Odd side of the square around a pixel; borders are mirrored.
        margin: See above.
        threshold: The level is to be above this, too.
    """
    dtype = np.int32 if 255 * side**2 <= np.iinfo(np.int32).max else np.int64
    sums = np.empty(levels.shape[1] + side, dtype)
    found = np.empty(levels.shape, np.bool_)
    stand_out(levels, side, margin, threshold, sums, found)
    return found


def surroundings(mask: np.ndarray, radius: int) -> np.ndarray:
    """Return where a square of `radius` pixels around the place meets the mask, outside it.

    Args:
        mask: HW bool.
        radius: In pixels, from 1 to 100.
    """
    found = np.empty_like(mask)
    around(mask.view(np.uint8), radius, found)
    return found


def hot_error(prediction: Grey, facts: Facts) -> float:
    """Return the mean absolute error inside the hot regions of the truth."""
    return _hot_sum(prediction, facts) / facts.num_hot if facts.num_hot else math.nan


def cold_error(prediction: Grey, facts: Facts) -> float:
    """Return the mean absolute error outside the hot regions of the truth."""
    if facts.truth is None or not facts.num_hot:
        return math.nan
    number = facts.truth.pixels.size - facts.num_hot
    if not number:
        return math.nan
    return (absolute_error(prediction, facts.truth) - _hot_sum(prediction, facts)) / number


def _hot_sum(prediction: Grey, facts: Facts) -> float:
    assert facts.truth is not None
    found = facts._hot_sums.get(prediction)
    if found is None:
        found = _difference(prediction, facts.truth, facts.hot)
        facts._hot_sums[prediction] = found
    return found


def _difference(image: Grey, other: Grey, mask: np.ndarray | None = None) -> float:
    """Return the sum of absolute differences where a mask is set, or everywhere."""
    if mask is not None and image.is_exact and other.is_exact:
        return float(sum_of_gaps(image.levels, other.levels, mask.view(np.uint8))) / 255.0
    difference = np.abs(image.image - other.image)
    return float((difference if mask is None else difference[mask]).sum(dtype=np.float64))


def absolute_error(image: Grey, other: Grey) -> float:
    """Return the sum of absolute differences over all pixels."""
    if image.is_exact and other.is_exact:
        return image.table_with(other).absolute_error / 255.0
    return _difference(image, other)


def hot_contrast(prediction: Grey, facts: Facts) -> float:
    """Return how far hot regions stand out of their surroundings, over the truth's.

    The mean inside minus the mean within 8 px around; 1 is right, 0 means that the hot
    things have vanished, below 0 they are darker than what is around them.
    """
    above = contrast_of(prediction, facts)
    return above / facts.true_contrast if facts.true_contrast > 1e-6 else math.nan


def contrast_of(image: Grey, facts: Facts) -> float:
    """Return the mean of the hot regions minus that around them; NaN where there are none."""
    if facts.hot is None or facts.ring is None or not facts.num_ring:
        return math.nan
    return image.mean_gap(facts.hot, facts.ring, (facts.num_hot, facts.num_ring))


def rank_correlation(prediction: Grey, facts: Facts) -> float:
    """Return Spearman's rank correlation with the truth: is the hotter thing brighter?

    Blind to any rising tone curve; equal levels take their mean rank; NaN where one of
    the two is constant.
    """
    if facts.truth is None:
        return math.nan
    return prediction.table_with(facts.truth).rank_correlation()


def edge_agreement(prediction: Grey, facts: Facts) -> float:
    """Return the correlation of gradient magnitudes with those of the photograph.

    A recoloured photograph has 1. What the true image has is right: heat has edges that
    light has not, and the other way round.
    """
    if facts.visible is None:
        return math.nan
    first, length = prediction.edge_pattern
    second, other = facts.visible.edge_pattern
    # In levels: 255 times the gradient of the image in [0, 1].
    if length * other <= 1e-9 * 255**2 * first.size:
        return math.nan
    return float(np.vecdot(first, second).sum(dtype=np.float64)) / (length * other)


def grey_correlation(prediction: Grey, facts: Facts) -> float:
    """Return the correlation with the photograph's luma; negated, that with its negative.

    1 is the grey photograph, -1 the inverted one. The truth's own value is right.
    """
    if facts.visible is None:
        return math.nan
    levels = np.arange(LEVELS, dtype=np.float64)
    return prediction.table_with(facts.visible).correlation(levels, levels)


def recolouring(prediction: Grey, facts: Facts) -> float:
    """Return the share of the image's variance that the photograph's luma explains.

    The correlation ratio: the variance of the mean of each luma level over the whole
    variance. 1 means that some tone curve, rising, falling or neither, turns the grey
    photograph into this image: it is only recoloured. The truth's own value is right.

    Source: Pearson, 1905.
    """
    if facts.visible is None:
        return math.nan
    table = prediction.table_with(facts.visible)
    levels, of_luma = np.arange(LEVELS, dtype=np.float64), table.columns
    mean = float(levels @ table.rows) / of_luma.sum()
    whole = float(np.square(levels - mean) @ table.rows)
    means = np.vecdot(table.weights.T, levels) / np.maximum(of_luma, 1.0)
    return float(np.square(means - mean) @ of_luma) / whole if whole > 0 else math.nan


def style_distance(prediction: Grey, facts: Facts) -> float:
    """Return the Wasserstein-1 distance of the grey levels to the camera's training images.

    In grey levels, 0 to 255: how far the average pixel has to move. One image never has
    the distribution of a whole set; the truth's own value is right.
    """
    if facts.histogram is None:
        return math.nan
    return histogram_distance(prediction.histogram, np.asarray(facts.histogram))


def histogram_distance(counts: np.ndarray, others: np.ndarray) -> float:
    """Return the Wasserstein-1 distance of two histograms of equal bins, in bins."""
    first, second = (np.cumsum(values, dtype=np.float64) for values in (counts, others))
    return float(np.abs(first / first[-1] - second / second[-1]).sum())
