"""Frozen records that cross rooms. Each is one line of JSON on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class JsonRecord:
    """Conversion of a frozen dataclass to and from a flat JSON object."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object; fields that are None are left out."""
        fields = dataclasses.asdict(self)  # type: ignore[call-overload]
        return {key: value for key, value in fields.items() if value is not None}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Build the record from a JSON object; keys of later versions are ignored."""
        known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        return cls(**{key: value for key, value in values.items() if key in known})


@dataclasses.dataclass(frozen=True)
class Scene(JsonRecord):
    """One scene of a data set: the images that share a stem.

    Attributes:
        name: Path of the scene below `rgb/` or `ir/` without its extension; unique.
        split: Part of the data set that the scene belongs to.
        group: Scene group; a group never straddles two splits.
        width: Width of the scene's images in pixels.
        height: Height of the scene's images in pixels.
        visible: Path of the visible image relative to the data set, if there is one.
        infrared: Path of the infrared image relative to the data set, if there is one.
        visible_hash: SHA-256 of the visible file's bytes.
        infrared_hash: SHA-256 of the infrared file's bytes.
        style: Name of the infrared camera's look, if it is known.
        alignment: How well the pair is registered, as stated by the data set:
            `strict`, `near`, `claimed`, or None where nothing is stated.
    """

    name: str
    split: Split
    group: str
    width: int
    height: int
    visible: str | None = None
    infrared: str | None = None
    visible_hash: str | None = None
    infrared_hash: str | None = None
    style: str | None = None
    alignment: str | None = None

    @property
    def is_pair(self) -> bool:
        """Whether both a visible and an infrared image exist."""
        return self.visible is not None and self.infrared is not None


@dataclasses.dataclass(frozen=True)
class Finding(JsonRecord):
    """One thing that is wrong with an input, and what to do about it.

    Attributes:
        kind: Short name of the problem, such as `unreadable` or `leakage`.
        where: Files or scenes concerned.
        what: The problem in one sentence.
        do: The cure in one sentence.
        severity: `error` makes `v2ir check` fail; a `warning` does not; a `note` informs.
    """

    kind: str
    where: tuple[str, ...]
    what: str
    do: str
    severity: Literal["error", "warning", "note"] = "error"


Progress = Callable[[int, int], None]
"""Told (done, total) after each finished item of a long job."""


def no_progress(done: int, total: int) -> None:
    """Ignore progress; the default of every long job."""
