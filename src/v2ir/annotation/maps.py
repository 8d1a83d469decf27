"""Maps on disk: `seg/NAME.png` and `mask/NAME.png`, each of which says who made it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from v2ir.annotation.provenance import Annotator, Provenance, State
from v2ir.annotation.quality import MapQuality, map_fault, measure_map
from v2ir.errors import ImageReadError, InputError, OutputError
from v2ir.files import write_bytes
from v2ir.images import encode_png, read_map, read_png_text

_TEXT_KEY = "v2ir-annotation"
_PIXELS_KEY = "pixels_hash"
_QUALITY_KEY = "quality"


class MapFolder:
    """A folder of PNG files, one a scene: one channel, or RGB with regions in colours.

    The provenance stands in a textual chunk of the file itself, so that map and
    provenance appear together or not at all, whatever gets killed and however many
    processes write. A file without it is the user's own. So is one whose pixels were
    changed after v2ir wrote it.

    Args:
        folder: `seg/` or `mask/` of a data set.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """Return where the map of a scene stands or would stand."""
        return self.folder / f"{name}.png"

    def provenance(self, name: str) -> Provenance | None:
        """Return who made the map of a scene, or None if there is no map."""
        path = self.path(name)
        if not path.is_file():
            return None
        stated = _stated(path)
        return Provenance() if stated is None else Provenance.from_json(stated)

    def state(self, name: str, annotator: Annotator, image_hash: str | None) -> State:
        """Compare the map with what an annotator would give now."""
        source = self.provenance(name)
        if source is None:
            return "missing"
        state = source.state(annotator, image_hash)
        return "user" if state == "stale" and self._edited(name) else state

    def usable_path(self, name: str, image_hash: str | None) -> Path | None:
        """Return the map's path unless there is none or it belongs to another image."""
        source = self.provenance(name)
        if source is None:
            return None
        return self.path(name) if source.fits(image_hash) or self._edited(name) else None

    def put(self, name: str, pixels: np.ndarray, source: Provenance, *, force: bool) -> None:
        """Write the map of a scene, HW or HWC RGB uint8, atomically.

        Raises:
            InputError: If the map is neither.
            OutputError: If the user's own map is there and `force` is not given, or the
                file cannot be written.
        """
        if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
            pixels = pixels[..., 0]
        if pixels.shape[2:] not in {(), (3,)} or pixels.dtype != np.uint8:
            raise InputError(f"map of {name} is not HW uint8", got=f"{pixels.shape} {pixels.dtype}")
        there = self.provenance(name)
        if there is not None and not force and (there.is_user or self._edited(name)):
            raise OutputError(f"{self.path(name)} is your own map", do="use force to replace it")
        stated = {
            **source.to_json(),
            _PIXELS_KEY: _pixels_hash(pixels),
            _QUALITY_KEY: measure_map(pixels).to_json(),
        }
        write_bytes(self.path(name), encode_png(pixels, {_TEXT_KEY: json.dumps(stated)}))

    def fault(self, name: str) -> str | None:
        """Return what is wrong with the content of a scene's map, or None.

        Maps of v2ir say so themselves; only a user's map has to be decoded.
        """
        stated = (_stated(self.path(name)) or {}).get(_QUALITY_KEY)
        if isinstance(stated, dict):
            return MapQuality.from_json(stated).fault
        return map_fault(self.path(name))

    def _edited(self, name: str) -> bool:
        """Whether the pixels are others than those that v2ir wrote."""
        stated = _stated(self.path(name)) or {}
        try:
            return stated.get(_PIXELS_KEY) != _pixels_hash(read_map(self.path(name)))
        except ImageReadError:
            return True


def _stated(path: Path) -> dict[str, Any] | None:
    try:
        stated = json.loads(read_png_text(path).get(_TEXT_KEY, ""))
    except ValueError:
        return None
    return stated if isinstance(stated, dict) else None


def _pixels_hash(pixels: np.ndarray) -> str:
    size = ("x".join(map(str, pixels.shape)) + ":").encode()
    return hashlib.sha256(size + np.ascontiguousarray(pixels).tobytes()).hexdigest()
