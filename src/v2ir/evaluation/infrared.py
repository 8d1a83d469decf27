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

from v2ir.evaluation.metrics import Rule
from v2ir.images import to_uint8

LEVELS = 256
LEAST_WARMER = 0.05
LEAST_HOT_SHARE = 5e-4
RING_PIXELS = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Grey:
    """A one-channel image and what is derived from it, made once.

    Attributes:
        image: HW float in [0, 1].
    """

    image: np.ndarray

    @functools.cached_property
    def levels(self) -> np.ndarray:
        """HW uint8."""
        return to_uint8(self.image)

    @functools.cached_property
    def histogram(self) -> np.ndarray:
        """How many pixels have each of the 256 levels."""
        return np.bincount(self.levels.ravel(), minlength=LEVELS)

    @functools.cached_property
    def edges(self) -> np.ndarray:
        """Gradient magnitude of the image, HW float32; None of it where a side is 1 px."""
        if min(self.image.shape) < 2:
            return np.zeros(self.image.shape, np.float32)
        down, right = np.gradient(self.image.astype(np.float32))
        magnitude: np.ndarray = np.sqrt(down * down + right * right)
        return magnitude


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
    def ring(self) -> np.ndarray | None:
        """Mask of what lies around the hot regions, up to 8 px away."""
        if self.hot is None:
            return None
        from scipy.ndimage import maximum_filter

        near: np.ndarray = maximum_filter(self.hot, 2 * RING_PIXELS + 1)
        return near & ~self.hot


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
    side = max(3, min(truth.image.shape) // 2) | 1
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


def hot_error(prediction: Grey, facts: Facts) -> float:
    """Return the mean absolute error inside the hot regions of the truth."""
    return _error(prediction, facts, inside=True)


def cold_error(prediction: Grey, facts: Facts) -> float:
    """Return the mean absolute error outside the hot regions of the truth."""
    return _error(prediction, facts, inside=False)


def _error(prediction: Grey, facts: Facts, *, inside: bool) -> float:
    if facts.truth is None or facts.hot is None:
        return math.nan
    where = facts.hot if inside else ~facts.hot
    if not where.any():
        return math.nan
    error = np.abs(prediction.image[where] - facts.truth.image[where])
    return float(error.mean(dtype=np.float64))


def hot_contrast(prediction: Grey, facts: Facts) -> float:
    """Return how far hot regions stand out of their surroundings, over the truth's.

    The mean inside minus the mean within 8 px around; 1 is right, 0 means that the hot
    things have vanished, below 0 they are darker than what is around them.
    """
    if facts.truth is None or facts.hot is None or facts.ring is None or not facts.ring.any():
        return math.nan

    def contrast(image: np.ndarray) -> float:
        return float(image[facts.hot].mean(dtype=float) - image[facts.ring].mean(dtype=float))

    below = contrast(facts.truth.image)
    return contrast(prediction.image) / below if below > 1e-6 else math.nan


def rank_correlation(prediction: Grey, facts: Facts) -> float:
    """Return Spearman's rank correlation with the truth: is the hotter thing brighter?

    Blind to any rising tone curve; equal levels take their mean rank; NaN where one of
    the two is constant.
    """
    if facts.truth is None:
        return math.nan
    counts = joint_counts(prediction.levels, facts.truth.levels)
    return _correlation(counts, _mid_ranks(counts.sum(1)), _mid_ranks(counts.sum(0)))


def edge_agreement(prediction: Grey, facts: Facts) -> float:
    """Return the correlation of gradient magnitudes with those of the photograph.

    A recoloured photograph has 1. What the true image has is right: heat has edges that
    light has not, and the other way round.
    """
    if facts.visible is None:
        return math.nan
    first, second = prediction.edges.ravel(), facts.visible.edges.ravel()
    first, second = first - first.mean(dtype=float), second - second.mean(dtype=float)
    scale = math.sqrt(float(np.vdot(first, first)) * float(np.vdot(second, second)))
    return float(np.vdot(first, second)) / scale if scale > 1e-9 * first.size else math.nan


def grey_correlation(prediction: Grey, facts: Facts) -> float:
    """Return the correlation with the photograph's luma; negated, that with its negative.

    1 is the grey photograph, -1 the inverted one. The truth's own value is right.
    """
    if facts.visible is None:
        return math.nan
    counts = joint_counts(prediction.levels, facts.visible.levels)
    levels = np.arange(LEVELS, dtype=np.float64)
    return _correlation(counts, levels, levels)


def recolouring(prediction: Grey, facts: Facts) -> float:
    """Return the share of the image's variance that the photograph's luma explains.

    The correlation ratio: the variance of the mean of each luma level over the whole
    variance. 1 means that some tone curve, rising, falling or neither, turns the grey
    photograph into this image: it is only recoloured. The truth's own value is right.

    Source: Pearson, 1905.
    """
    if facts.visible is None:
        return math.nan
    counts = joint_counts(prediction.levels, facts.visible.levels).astype(np.float64)
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


def joint_counts(levels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return how many pixels have each pair of levels, 256x256; both HW uint8."""
    pairs = levels.ravel().astype(np.int64) << 8
    pairs |= others.ravel()
    return np.bincount(pairs, minlength=LEVELS * LEVELS).reshape(LEVELS, LEVELS)


def _mid_ranks(counts: np.ndarray) -> np.ndarray:
    ranks: np.ndarray = np.cumsum(counts) - (counts - 1) / 2.0
    return ranks


def _correlation(counts: np.ndarray, values: np.ndarray, others: np.ndarray) -> float:
    """Return Pearson's correlation of a table of counts whose rows and columns have values."""
    total = counts.sum()
    rows, columns = counts.sum(1), counts.sum(0)
    values = values - values @ rows / total
    others = others - others @ columns / total
    spread = float(np.square(values) @ rows) * float(np.square(others) @ columns)
    return float(values @ counts @ others) / math.sqrt(spread) if spread > 1e-9 else math.nan
