"""Thermal masks on disk: `mask/NAME.png`, or the user's own `mask/NAME.jpg`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from v2ir.annotation.maps import MapFolder
from v2ir.annotation.provenance import Provenance
from v2ir.images import read_map

JPEG_SUFFIXES = (".jpg", ".jpeg", ".JPG", ".JPEG")

_HALF = 127


class MaskFolder(MapFolder):
    """The folder `mask/` of a data set.

    JPEG files, as TxT2IR keeps its masks, are the user's own. A PNG file of the same name
    goes before one.
    """

    def provenance(self, name: str) -> Provenance | None:
        """Return who made the mask of a scene, or None if there is no mask."""
        return Provenance() if self._jpeg(name) else super().provenance(name)

    def usable_path(self, name: str, image_hash: str | None) -> Path | None:
        """Return the mask's path unless there is none or it belongs to another image."""
        return self._jpeg(name) or super().usable_path(name, image_hash)

    def _jpeg(self, name: str) -> Path | None:
        if self.path(name).is_file():
            return None
        paths = (self.folder / f"{name}{suffix}" for suffix in JPEG_SUFFIXES)
        return next((path for path in paths if path.is_file()), None)


def read_thermal_mask(path: Path) -> np.ndarray:
    """Read a thermal mask as HW float32 in [0, 1]: 0 is cold, 1 is hot.

    A JPEG mask is cut at one half, since its grey values are the noise of its compression.
    Other files may be soft. Of colours the brightest channel counts.

    Raises:
        ImageReadError: If the file is missing, is not an image or is cut off.
    """
    pixels = read_map(path)
    if pixels.ndim == 3:
        pixels = pixels.max(axis=-1)
    if path.suffix in JPEG_SUFFIXES:
        return (pixels > _HALF).astype(np.float32)
    return pixels.astype(np.float32) / 255.0
