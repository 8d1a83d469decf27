"""Measures of what infrared images are for: hot things, their order, and true heat.

Each takes the judged image and the facts of its scene and gives one number, NaN where a
fact that it needs is not known or the measure is not defined. Ranks and distributions
are counted on 256 grey levels, which is exact for 8-bit images.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np

from v2ir.evaluation.grey import LEVELS, Grey
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

    @functools.cached_property
    def hot(self) -> np.ndarray | None:
        """Mask of the hot regions of the truth; None where there are none to speak of."""
        if self.truth is None:
            return None
        mask = hot_regions(self.truth)
        return mask if mask.mean() >= LEAST_HOT_SHARE else None

    @functools.cached_property
    def hot_places(self) -> np.ndarray:
        """Places of the hot pixels in reading order; empty where there are none to speak of."""
        return np.flatnonzero(self.hot) if self.hot is not None else np.empty(0, np.intp)

    @functools.cached_property
    def ring_places(self) -> np.ndarray:
        """Places of what lies around the hot regions, up to 8 px away."""
        if self.hot is None:
            return np.empty(0, np.intp)
        return np.flatnonzero(grown(self.hot, RING_PIXELS) & ~self.hot)

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
    is_warmer = truth.image > box_mean(truth.image, side) + LEAST_WARMER
    hot: np.ndarray = is_warmer & (truth.levels > otsu_threshold(truth.histogram))
    return hot


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


def grown(mask: np.ndarray, radius: int) -> np.ndarray:
    """Return where a square of `radius` pixels around the place meets the mask, HW bool."""
    mask = mask.copy()
    for found in (mask, mask.T):
        reach = 0
        while reach < radius:
            # What reaches this far on both sides may be moved by twice that and one pixel.
            step = min(2 * reach + 1, radius - reach)
            before = found.copy(order="K")
            found[step:] |= before[:-step]
            found[:-step] |= before[step:]
            reach += step
    return mask


def hot_error(prediction: Grey, facts: Facts) -> float:
    """Return the mean absolute error inside the hot regions of the truth."""
    number = len(facts.hot_places)
    return _hot_sum(prediction, facts) / number if number else math.nan


def cold_error(prediction: Grey, facts: Facts) -> float:
    """Return the mean absolute error outside the hot regions of the truth."""
    if facts.truth is None or not len(facts.hot_places):
        return math.nan
    number = facts.truth.pixels.size - len(facts.hot_places)
    if not number:
        return math.nan
    return (absolute_error(prediction, facts.truth) - _hot_sum(prediction, facts)) / number


def _hot_sum(prediction: Grey, facts: Facts) -> float:
    assert facts.truth is not None
    return _difference(prediction, facts.truth, facts.hot_places)


def _difference(image: Grey, other: Grey, places: np.ndarray | slice) -> float:
    """Return the sum of absolute differences at some places."""
    if image.is_exact and other.is_exact:
        first, second = (x.levels.ravel()[places].astype(np.int16) for x in (image, other))
        return float(np.abs(first - second).sum(dtype=np.int64)) / 255.0
    difference = image.image.ravel()[places] - other.image.ravel()[places]
    return float(np.abs(difference).sum(dtype=np.float64))


def absolute_error(image: Grey, other: Grey) -> float:
    """Return the sum of absolute differences over all pixels."""
    if image.is_exact and other.is_exact:
        levels = np.arange(LEVELS)
        gaps = np.abs(levels[:, None] - levels)
        return float(np.vdot(image.counts_with(other), gaps)) / 255.0
    return _difference(image, other, slice(None))


def hot_contrast(prediction: Grey, facts: Facts) -> float:
    """Return how far hot regions stand out of their surroundings, over the truth's.

    The mean inside minus the mean within 8 px around; 1 is right, 0 means that the hot
    things have vanished, below 0 they are darker than what is around them.
    """
    above = contrast_of(prediction, facts)
    return above / facts.true_contrast if facts.true_contrast > 1e-6 else math.nan


def contrast_of(image: Grey, facts: Facts) -> float:
    """Return the mean of the hot regions minus that around them; NaN where there are none."""
    if not len(facts.hot_places) or not len(facts.ring_places):
        return math.nan
    return image.mean_at(facts.hot_places) - image.mean_at(facts.ring_places)


def rank_correlation(prediction: Grey, facts: Facts) -> float:
    """Return Spearman's rank correlation with the truth: is the hotter thing brighter?

    Blind to any rising tone curve; equal levels take their mean rank; NaN where one of
    the two is constant.
    """
    if facts.truth is None:
        return math.nan
    counts = prediction.counts_with(facts.truth)
    return table_correlation(counts, _mid_ranks(counts.sum(1)), _mid_ranks(counts.sum(0)))


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
    is_flat = length * other <= 1e-9 * 255**2 * first.size
    return math.nan if is_flat else float(np.vdot(first, second)) / (length * other)


def grey_correlation(prediction: Grey, facts: Facts) -> float:
    """Return the correlation with the photograph's luma; negated, that with its negative.

    1 is the grey photograph, -1 the inverted one. The truth's own value is right.
    """
    if facts.visible is None:
        return math.nan
    counts = prediction.counts_with(facts.visible)
    levels = np.arange(LEVELS, dtype=np.float64)
    return table_correlation(counts, levels, levels)


def recolouring(prediction: Grey, facts: Facts) -> float:
    """Return the share of the image's variance that the photograph's luma explains.

    The correlation ratio: the variance of the mean of each luma level over the whole
    variance. 1 means that some tone curve, rising, falling or neither, turns the grey
    photograph into this image: it is only recoloured. The truth's own value is right.

    Source: Pearson, 1905.
    """
    if facts.visible is None:
        return math.nan
    counts = prediction.counts_with(facts.visible).astype(np.float64)
    levels = np.arange(LEVELS)
    of_luma = counts.sum(0)
    mean = float(levels @ counts.sum(1)) / of_luma.sum()
    whole = float(np.square(levels - mean) @ counts.sum(1))
    means = (levels @ counts) / np.maximum(of_luma, 1.0)
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


def _mid_ranks(counts: np.ndarray) -> np.ndarray:
    ranks: np.ndarray = np.cumsum(counts) - (counts - 1) / 2.0
    return ranks


def table_correlation(counts: np.ndarray, values: np.ndarray, others: np.ndarray) -> float:
    """Return Pearson's correlation of a table of counts whose rows and columns have values."""
    total = counts.sum()
    rows, columns = counts.sum(1), counts.sum(0)
    counts = counts.astype(np.float64)  # products of whole numbers have no fast path
    values = values - values @ rows / total
    others = others - others @ columns / total
    spread = float(np.square(values) @ rows) * float(np.square(others) @ columns)
    return float(values @ counts @ others) / math.sqrt(spread) if spread > 1e-9 else math.nan
