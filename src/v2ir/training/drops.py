"""Which conditions a training sample does not see."""

from __future__ import annotations

import itertools

import numpy as np

from v2ir.model.conditions import CONDITION_NAMES, ConditionName

SUBSETS: tuple[frozenset[ConditionName], ...] = tuple(
    frozenset(names)
    for size in (1, 2, 3)
    for names in itertools.combinations(CONDITION_NAMES, size)
)
"""The seven non-empty subsets of the three conditions."""


def draw_drops(
    number: int, probability: float, generator: np.random.Generator
) -> list[frozenset[ConditionName]]:
    """Draw, for each of `number` samples, the set of conditions that is dropped.

    Each of the seven non-empty subsets has the given probability; nothing is dropped with
    the rest. At 0.02 each single condition is missing in 8 % of the samples.
    Source: DiffV2IR's released code.
    """
    chances = [*[probability] * len(SUBSETS), 1.0 - probability * len(SUBSETS)]
    choices = (*SUBSETS, frozenset())
    return [choices[index] for index in generator.choice(len(choices), size=number, p=chances)]
