"""What a captioner and a segmenter are, and what they say about an image."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np


class Captioner(Protocol):
    """Describes images in words.

    Attributes:
        name: Name in the registry, kept with every result.
        version: Changed whenever the same image may get another caption.
    """

    @property
    def name(self) -> str:
        """Name in the registry, or family and weights."""
        ...

    @property
    def version(self) -> str:
        """What results depend on beside the image."""
        ...

    def caption(self, images: Sequence[np.ndarray]) -> list[str]:
        """Return one caption per image; images are HWC uint8 RGB of any size."""
        ...


class Segmenter(Protocol):
    """Finds the regions of images.

    Attributes:
        name: Name in the registry, kept with every result.
        version: Changed whenever the same image may get another map.
    """

    @property
    def name(self) -> str:
        """Name in the registry, or family and weights."""
        ...

    @property
    def version(self) -> str:
        """What results depend on beside the image."""
        ...

    def segment(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return one map per image, uint8 of its size.

        A map is HW, 255 in regions and 0 between them, or HWC RGB with regions as flat
        colours. Images are HWC uint8 RGB of any size.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Described:
    """What a captioner says about one image.

    Attributes:
        captions: Captions, the best first.
        structure: The description by fields as a JSON object, where there is one.
        note: What was unusual, such as an answer without the fields asked for.
    """

    captions: tuple[str, ...]
    structure: dict[str, Any] | None = None
    note: str = ""


@runtime_checkable
class Describer(Protocol):
    """A captioner that gives several captions or fields."""

    def describe(self, images: Sequence[np.ndarray]) -> list[Described]:
        """Return what is to be said of each image; images are HWC uint8 RGB of any size."""
        ...


@runtime_checkable
class Reworder(Protocol):
    """A captioner that words fields by a template."""

    def reword(self, structure: dict[str, Any], version: str) -> Described | None:
        """Word the fields of an earlier result, if `version` differs in the wording alone."""
        ...


@runtime_checkable
class HoldsWeights(Protocol):
    """An annotator whose network takes memory from its first use on."""

    def release(self) -> None:
        """Forget the network; the next use loads it again."""
        ...


def describe(captioner: Captioner, images: Sequence[np.ndarray]) -> list[Described]:
    """Return all that a captioner has to say of each image."""
    if isinstance(captioner, Describer):
        return captioner.describe(images)
    return [Described((text,)) for text in captioner.caption(images)]


def has_weights(annotator: object) -> bool:
    """Whether an annotator holds a network."""
    return isinstance(annotator, HoldsWeights)


def release(annotator: object) -> None:
    """Free the memory of an annotator that holds a network."""
    if isinstance(annotator, HoldsWeights):
        annotator.release()
