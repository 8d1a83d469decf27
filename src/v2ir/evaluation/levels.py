"""How many pixels of two images have each pair of levels, and what follows exactly from it."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

from v2ir.evaluation.compiled import (
    count_pairs,
    margins,
    sum_of_pairs,
    sum_of_products,
    sums_of_errors,
)

LEVELS = 256


def joint_counts(levels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return how many pixels have each pair of levels, 256x256; both HW uint8."""
    counts = np.zeros((LEVELS, LEVELS), np.int32)
    count_pairs(levels.ravel(), others.ravel(), counts)
    return counts


@dataclasses.dataclass(frozen=True, eq=False)
class LevelTable:
    """Numbers of pixels with each pair of levels.

    Attributes:
        counts: 256x256 whole numbers; rows are levels of the first image.
    """

    counts: np.ndarray

    @functools.cached_property
    def weights(self) -> np.ndarray:
        """`counts` as float64: products of whole numbers have no fast path."""
        return self.counts.astype(np.float64)

    @property
    def rows(self) -> np.ndarray:
        """How many pixels of the first image have each level, float64."""
        return self._margins[0]

    @property
    def columns(self) -> np.ndarray:
        """How many pixels of the second image have each level, float64."""
        return self._margins[1]

    @functools.cached_property
    def _margins(self) -> np.ndarray:
        found = np.empty((2, LEVELS))
        margins(self.counts, *found)
        return found

    @property
    def absolute_error(self) -> float:
        """Sum of absolute differences over all pixels, in levels."""
        return self._errors[0]

    @property
    def squared_error(self) -> float:
        """Sum of squared differences over all pixels, in levels."""
        return self._errors[1]

    @functools.cached_property
    def _errors(self) -> tuple[float, float]:
        absolute, squared = sums_of_errors(self.counts)
        return float(absolute), float(squared)

    def total(self, table: np.ndarray) -> float:
        """Return the sum over all pixels of what a 256x256 table has for their pair."""
        return float(sum_of_pairs(self.counts, table))

    def correlation(self, values: np.ndarray, others: np.ndarray) -> float:
        """Return Pearson's correlation where levels stand for `values` and for `others`.

        NaN where one of the two is constant.
        """
        number = self.rows.sum()
        values = values - values @ self.rows / number
        others = others - others @ self.columns / number
        spread = float(np.square(values) @ self.rows) * float(np.square(others) @ self.columns)
        if spread <= 1e-9:
            return math.nan
        return float(sum_of_products(self.counts, values, others)) / math.sqrt(spread)

    def rank_correlation(self) -> float:
        """Return Spearman's correlation; equal levels take their mean rank."""
        return self.correlation(_mid_ranks(self.rows), _mid_ranks(self.columns))


def _mid_ranks(counts: np.ndarray) -> np.ndarray:
    ranks: np.ndarray = np.cumsum(counts) - (counts - 1) / 2.0
    return ranks
