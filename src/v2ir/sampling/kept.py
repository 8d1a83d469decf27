"""Captions and maps kept beside the outputs, so that a second run need not make them again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np

from v2ir.annotators import Captioner, Segmenter
from v2ir.errors import DataError, ImageReadError
from v2ir.files import read_json, write_bytes, write_json
from v2ir.images import encode_png, read_map, read_png_text

KEPT_FOLDER = ".annotations"
"""Hidden, because the outputs' folder may be compared with others image by image."""

_TEXT_KEY = "v2ir-annotation"


@dataclasses.dataclass(frozen=True)
class KeptAnnotations:
    """A folder with `captions/NAME.json` and `seg/NAME.png`.

    Each states the annotator, its version and the hash of the pixels it saw, and counts
    for nothing else. Files appear whole or not at all.

    Attributes:
        folder: The folder.
    """

    folder: Path

    def caption(self, name: str, image: np.ndarray, captioner: Captioner) -> str | None:
        """Return what the captioner said of these pixels before, or None."""
        try:
            row = read_json(self._caption_path(name))
        except DataError:
            return None
        if not isinstance(row, dict) or not isinstance(row.get("caption"), str):
            return None
        return row["caption"] if _states(row, image, captioner) else None

    def put_caption(self, name: str, image: np.ndarray, captioner: Captioner, text: str) -> None:
        """Keep a caption.

        Raises:
            OutputError: If the disk refuses.
        """
        write_json(self._caption_path(name), {"caption": text, **_stated(image, captioner)})

    def segmentation(self, name: str, image: np.ndarray, segmenter: Segmenter) -> np.ndarray | None:
        """Return the map that the segmenter made of these pixels before, or None."""
        path = self._map_path(name)
        try:
            row = json.loads(read_png_text(path).get(_TEXT_KEY, "{}"))
            return read_map(path) if _states(row, image, segmenter) else None
        except (ValueError, ImageReadError):
            return None

    def put_segmentation(
        self, name: str, image: np.ndarray, segmenter: Segmenter, pixels: np.ndarray
    ) -> None:
        """Keep a map, HW or HWC uint8.

        Raises:
            OutputError: If the disk refuses.
        """
        text = {_TEXT_KEY: json.dumps(_stated(image, segmenter))}
        write_bytes(self._map_path(name), encode_png(pixels, text))

    def _caption_path(self, name: str) -> Path:
        return self.folder / "captions" / f"{name}.json"

    def _map_path(self, name: str) -> Path:
        return self.folder / "seg" / f"{name}.png"


def _stated(image: np.ndarray, annotator: Captioner | Segmenter) -> dict[str, str]:
    seen = hashlib.sha256(f"{image.shape}:".encode() + np.ascontiguousarray(image).tobytes())
    return {
        "annotator": annotator.name,
        "version": annotator.version,
        "pixels_hash": seen.hexdigest(),
    }


def _states(row: object, image: np.ndarray, annotator: Captioner | Segmenter) -> bool:
    wanted = _stated(image, annotator)
    return isinstance(row, dict) and all(row.get(key) == value for key, value in wanted.items())
