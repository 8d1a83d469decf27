"""Conditions that the user tells apart by the names of the images."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from v2ir.errors import InputError
from v2ir.evaluation.comparison import Evaluation


def with_slices(evaluation: Evaluation, patterns: Mapping[str, str]) -> Evaluation:
    """Return the evaluation with a slice of the images whose name holds each pattern.

    Args:
        evaluation: The result.
        patterns: Regular expression by name of the slice, such as `night` and `^msrs.*N$`.

    Raises:
        InputError: If a pattern is no regular expression or fits no image.
    """
    found: dict[str, frozenset[str]] = {}
    for label, pattern in patterns.items():
        try:
            rule = re.compile(pattern)
        except re.error as error:
            raise InputError(
                f"the slice {label} is no regular expression", got=f"{pattern}: {error}"
            ) from error
        found[label] = frozenset(name for name in evaluation.names if rule.search(name))
        if not found[label]:
            raise InputError(
                f"no image belongs to the slice {label}",
                got=pattern,
                do=f"names look like {', '.join(evaluation.names[:3])}",
            )
    return dataclasses.replace(evaluation, slices={**evaluation.slices, **found})
