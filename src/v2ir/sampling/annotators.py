"""Where the caption and the map of an image come from: the user, an annotator, or nowhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np

from v2ir import captions
from v2ir.annotators import Captioner, Segmenter, has_weights
from v2ir.errors import InputError
from v2ir.files import hash_file, image_paths
from v2ir.images import read_map
from v2ir.sampling.kept import KeptAnnotations

T = TypeVar("T")

USER = "user"
"""Stands in sidecars where the user gave the caption or the map."""


@dataclasses.dataclass(frozen=True)
class Annotators:
    """Sources of captions and maps. What the user gives goes before what is computed.

    Attributes:
        captioner: Describes the images that have no caption in `captions`.
        segmenter: Segments the images that have no map in `maps`.
        captions: Captions by the image's path below the input folder, with or without
            its extension.
        maps: Map files by the same names.
        keep: Where the results of annotators with weights are kept; None keeps none.
            Those without weights are quicker than the disk's care for them is worth.
    """

    captioner: Captioner | None = None
    segmenter: Segmenter | None = None
    captions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    maps: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    keep: KeptAnnotations | None = None

    def caption_source(self, name: str) -> str | None:
        """Return who captions the image: `user`, an annotator's name and version, or None."""
        return USER if lookup(self.captions, name) else _title(self.captioner)

    def map_source(self, name: str) -> str | None:
        """Return who segments the image; a user's map is named by its hash."""
        path = lookup(self.maps, name)
        return f"{USER} {hash_file(path)}" if path else _title(self.segmenter)

    def given_caption(self, name: str) -> str | None:
        """Return the user's caption of an image, or None."""
        return lookup(self.captions, name)

    def caption(self, name: str, image: np.ndarray) -> str | None:
        """Return the caption of an HWC uint8 image, or None."""
        return self.captions_of([(name, image)])[0]

    def captions_of(self, images: Sequence[tuple[str, np.ndarray]]) -> list[str | None]:
        """Return the caption of each (name, HWC uint8 image), or None; computed together.

        An empty caption counts as none.
        """
        captioner = self.captioner
        found = [self.given_caption(name) for name, _ in images]
        if captioner is None:
            return found
        left = []
        keep = self.keep if has_weights(captioner) else None
        for index, (name, image) in enumerate(images):
            if found[index] is None and keep is not None:
                found[index] = keep.caption(name, image, captioner)
            if found[index] is None:
                left.append(index)
        if left:
            texts = captioner.caption([images[index][1] for index in left])
            for index, text in zip(left, texts, strict=True):
                found[index] = text
                if keep is not None:
                    name, image = images[index]
                    keep.put_caption(name, image, captioner, text)
        return [text.strip() or None if text else None for text in found]

    def segment(self, name: str, image: np.ndarray) -> np.ndarray | None:
        """Return the map of an HWC uint8 image, HW or HWC uint8 of any size, or None.

        Raises:
            ImageReadError: If the user's map cannot be read.
        """
        given = lookup(self.maps, name)
        return read_map(given) if given else self.maps_of([(name, image)])[0]

    def maps_of(self, images: Sequence[tuple[str, np.ndarray]]) -> list[np.ndarray | None]:
        """Return the computed map of each (name, HWC uint8 image); None for a user's."""
        segmenter = self.segmenter
        found: list[np.ndarray | None] = [None] * len(images)
        if segmenter is None:
            return found
        left = []
        keep = self.keep if has_weights(segmenter) else None
        for index, (name, image) in enumerate(images):
            if lookup(self.maps, name):
                continue
            if keep is not None:
                found[index] = keep.segmentation(name, image, segmenter)
            if found[index] is None:
                left.append(index)
        if left:
            maps = segmenter.segment([images[index][1] for index in left])
            for index, pixels in zip(left, maps, strict=True):
                found[index] = pixels
                if keep is not None:
                    name, image = images[index]
                    keep.put_segmentation(name, image, segmenter, pixels)
        return found


def _title(annotator: Captioner | Segmenter | None) -> str | None:
    return None if annotator is None else f"{annotator.name} {annotator.version}"


def lookup(table: Mapping[str, T], name: str) -> T | None:
    """Find an image's entry by its path with or without the extension."""
    return table.get(name, table.get(_stem(name)))


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def read_captions(path: Path) -> dict[str, str]:
    """Read the first caption of each image; the formats are those of `captions.read_captions`.

    Raises:
        InputError: If there are no captions.
    """
    return {name: texts[0] for name, texts in captions.read_captions(path).items()}


def find_maps(folder: Path) -> dict[str, Path]:
    """List the segmentation maps of a folder by their path without the extension.

    Raises:
        InputError: If there are none.
    """
    maps = {_stem(path.relative_to(folder).as_posix()): path for path in image_paths(folder)}
    if not maps:
        raise InputError(f"{folder} holds no maps", do="give a folder of images NAME.png")
    return maps
