"""How an annotator with weights is written down: `family:weights,option=value`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from v2ir.errors import InputError, UnknownNameError


@dataclasses.dataclass(frozen=True)
class AnnotatorSpec:
    """An annotator as the command line and a model folder's card name it.

    Attributes:
        family: Name of the adapter, such as `blip`, or of an annotator without weights.
        weights: Hub name or folder of the weights; empty where there are none.
        options: Options of the adapter.
    """

    family: str
    weights: str = ""
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)


def parse_spec(text: str) -> AnnotatorSpec:
    """Read `family[:weights][,option=value]...`; a value may contain commas.

    Raises:
        InputError: If there is no family.
    """
    head, *pairs = re.split(r",(?=[a-z_]+=)", text)
    family, _, weights = head.partition(":")
    if not family:
        raise InputError("an annotator has no name", got=repr(text), do="give for instance regions")
    options = dict(pair.split("=", 1) for pair in pairs)
    return AnnotatorSpec(family, weights, options)


def convert_options(
    given: Mapping[str, str], known: Mapping[str, Callable[[str], Any]], family: str
) -> dict[str, Any]:
    """Turn the texts of options into values.

    Args:
        given: Options as written.
        known: For each option, what makes its value.
        family: Name of the adapter, for the message.

    Raises:
        UnknownNameError: If there is no such option.
        InputError: If a value is not of the option's kind.
    """
    values = {}
    for name, text in given.items():
        if name not in known:
            raise UnknownNameError.of(f"option of {family}", name, known)
        try:
            values[name] = known[name](text)
        except ValueError as error:
            raise InputError(f"{family}: {name} cannot be {text!r}", got=str(error)) from error
    return values
