"""How far a mean may be trusted: bootstrap over scene groups."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

NUM_RESAMPLES = 2000
COVERAGE = 0.95


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean and the interval that its resampled values fill.

    Attributes:
        mean: The mean over images; NaN if there are none.
        low: Lower end, NaN where it cannot be told.
        high: Upper end, NaN where it cannot be told.
    """

    mean: float
    low: float
    high: float


def bootstrap(
    values: Mapping[str, float],
    groups: Mapping[str, str],
    generator: np.random.Generator,
    num_resamples: int = NUM_RESAMPLES,
) -> Interval:
    """Return the mean over images with its 95 % percentile interval.

    Whole scene groups are drawn with replacement, not images: ten frames of one street
    are one sample of streets, and an interval that counts them as ten is too narrow.
    Fewer than two groups, or an infinite value, have no interval.

    Source: Efron, 1979; Field and Welsh, 2007, for clusters.

    Args:
        values: Score by name of image; NaN does not count.
        groups: Scene group by name; an image without one is a group of its own.
        generator: Draws the resamples.
        num_resamples: How many.
    """
    known = {name: value for name, value in values.items() if not math.isnan(value)}
    if not known:
        return Interval(math.nan, math.nan, math.nan)
    numbers: dict[str, int] = {}
    places = [numbers.setdefault(groups.get(name, name), len(numbers)) for name in known]
    array = np.fromiter(known.values(), np.float64, len(known))
    mean = float(array.mean())
    if len(numbers) < 2 or not np.isfinite(array).all():
        return Interval(mean, math.nan, math.nan)
    sums = np.bincount(places, weights=array)
    counts = np.bincount(places)
    drawn = generator.multinomial(
        len(numbers), np.full(len(numbers), 1 / len(numbers)), size=num_resamples
    )
    means = (drawn @ sums) / (drawn @ counts)
    low, high = np.quantile(means, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Interval(mean, float(low), float(high))
