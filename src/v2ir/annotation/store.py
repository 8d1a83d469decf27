"""One place for captions, segmentation maps and thermal masks of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from v2ir.annotation.captions import CaptionFile
from v2ir.annotation.maps import MapFolder
from v2ir.annotation.provenance import Annotator, Kind, Provenance, State
from v2ir.records import Scene


class AnnotationStore:
    """Captions and maps of a data set, each with annotator, version and image hash.

    What the user brings (`captions/NAME.txt`, lines of `captions.jsonl` that name no
    annotator, PNG files in `seg/` and `mask/`) is taken as it is and never overwritten
    without `force`. Results made from another image than the scene's are never given
    out. Several processes may write at the same time.

    Captions and segmentation maps belong to the visible image, thermal masks to the
    infrared one.

    Args:
        root: Folder of the data set.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._captions = CaptionFile(root)
        self._maps: dict[Kind, MapFolder] = {
            "segmentation": MapFolder(root / "seg"),
            "mask": MapFolder(root / "mask"),
        }

    def caption(self, scene: Scene) -> str | None:
        """Return the scene's first caption, or None."""
        return next(iter(self.captions(scene)), None)

    def captions(self, scene: Scene) -> list[str]:
        """Return the scene's captions, the best first; empty when there are none."""
        record = self._captions.get(scene.name)
        if record is None or not record.provenance.fits(scene.visible_hash):
            return []
        return list(record.captions)

    def segmentation_path(self, scene: Scene) -> Path | None:
        """Return the path of the scene's segmentation map, or None."""
        return self._maps["segmentation"].usable_path(scene.name, scene.visible_hash)

    def mask_path(self, scene: Scene) -> Path | None:
        """Return the path of the scene's thermal mask, or None."""
        return self._maps["mask"].usable_path(scene.name, scene.infrared_hash)

    def provenance(self, kind: Kind, scene: Scene) -> Provenance | None:
        """Return who made a scene's result of this kind, or None where there is none."""
        if kind == "caption":
            record = self._captions.get(scene.name)
            return record.provenance if record else None
        return self._maps[kind].provenance(scene.name)

    def state(self, kind: Kind, scene: Scene, annotator: Annotator) -> State:
        """Tell how a scene's result stands to what `annotator` would give now.

        Returns:
            `missing`, `stale` (other annotator, version or image), `fresh`, or `user`
            for the user's own, which no annotator makes stale.
        """
        image_hash = scene.infrared_hash if kind == "mask" else scene.visible_hash
        if kind == "caption":
            source = self.provenance(kind, scene)
            return source.state(annotator, image_hash) if source else "missing"
        return self._maps[kind].state(scene.name, annotator, image_hash)

    def is_fresh(self, kind: Kind, scene: Scene, annotator: Annotator) -> bool:
        """Whether nothing need be made: the result is fresh or the user's own."""
        return self.state(kind, scene, annotator) in {"fresh", "user"}

    def put_captions(
        self, scene: Scene, captions: Sequence[str], source: Provenance, *, force: bool = False
    ) -> None:
        """Keep the captions of a scene in place of earlier ones.

        Raises:
            InputError: If there is no caption, or one is empty.
            OutputError: If the user's own are there and `force` is not given, or the disk
                refuses.
        """
        self._captions.put(scene.name, captions, source, force=force)

    def put_segmentation(
        self, scene: Scene, pixels: np.ndarray, source: Provenance, *, force: bool = False
    ) -> None:
        """Keep the segmentation map of a scene, HW uint8, in place of an earlier one.

        Raises:
            InputError: If the map is not HW uint8.
            OutputError: If the user's own is there and `force` is not given, or the disk
                refuses.
        """
        self._maps["segmentation"].put(scene.name, pixels, source, force=force)

    def put_mask(
        self, scene: Scene, pixels: np.ndarray, source: Provenance, *, force: bool = False
    ) -> None:
        """Keep the thermal mask of a scene, HW uint8; as `put_segmentation`."""
        self._maps["mask"].put(scene.name, pixels, source, force=force)
