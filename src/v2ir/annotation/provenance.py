"""Where a result comes from, and how it stands to the annotator that is asked for."""

from __future__ import annotations

import dataclasses
from typing import Literal, Protocol

from v2ir.records import JsonRecord

USER = "user"
"""The annotator's name of everything that v2ir did not make itself."""

Kind = Literal["caption", "segmentation", "mask"]
State = Literal["missing", "stale", "fresh", "user"]


class Annotator(Protocol):
    """What every captioner and segmenter has: a name and a version."""

    @property
    def name(self) -> str:
        """Name in the registry, or family and weights."""
        ...

    @property
    def version(self) -> str:
        """What results depend on beside the image."""
        ...


@dataclasses.dataclass(frozen=True)
class Provenance(JsonRecord):
    """Who made a result, from which image.

    Attributes:
        annotator: Name of the captioner or segmenter; `user` for the user's own.
        version: Version of the annotator; empty for the user's own.
        image_hash: SHA-256 of the image file's bytes; empty where it is not known.
    """

    annotator: str = USER
    version: str = ""
    image_hash: str = ""

    @property
    def is_user(self) -> bool:
        """Whether the user made the result."""
        return self.annotator == USER

    def fits(self, image_hash: str | None) -> bool:
        """Whether the result was made from the image of this hash, as far as is known."""
        return not image_hash or not self.image_hash or self.image_hash == image_hash

    def state(self, annotator: Annotator, image_hash: str | None) -> State:
        """Compare with what an annotator would give now for the image of this hash."""
        if self.is_user:
            return "user"
        same = (self.annotator, self.version) == (annotator.name, annotator.version)
        return "fresh" if same and self.fits(image_hash) else "stale"
