"""One place for captions, segmentation maps and thermal masks of a data set."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from v2ir.annotation.captions import CaptionFile, CaptionRecord
from v2ir.annotation.maps import MapFolder
from v2ir.annotation.provenance import Annotator, Kind, Provenance, State
from v2ir.annotation.quality import caption_fault
from v2ir.annotation.thermal_files import MaskFolder
from v2ir.annotators import Described
from v2ir.records import Scene

logger = logging.getLogger(__name__)


class AnnotationStore:
    """Captions and maps of a data set, each with annotator, version and image hash.

    What the user brings (`captions/NAME.txt`, lines of `captions.jsonl` that name no
    annotator, PNG files in `seg/` and `mask/`, JPEG files in `mask/`) is taken as it is and
    never overwritten without `force`. Results made from another image than the scene's are
    never given out. Several processes may write at the same time.

    Captions and segmentation maps belong to the visible image, thermal masks to the
    infrared one.

    Captions and maps that say nothing (`quality`) are not given out, so that nothing is
    trained on them; `left_out` counts them, and the log says so.

    Args:
        root: Folder of the data set.
        with_faulty: Whether captions and maps that say nothing are given out as well.

    Attributes:
        left_out: Number of results that were asked for and not given out, by fault.
    """

    def __init__(self, root: Path, *, with_faulty: bool = False) -> None:
        self.root = root
        self.with_faulty = with_faulty
        self.left_out: Counter[str] = Counter()
        self._captions = CaptionFile(root)
        self._maps: dict[Kind, MapFolder] = {
            "segmentation": MapFolder(root / "seg"),
            "mask": MaskFolder(root / "mask"),
        }

    def caption(self, scene: Scene) -> str | None:
        """Return the scene's first caption, or None."""
        return next(iter(self.captions(scene)), None)

    def captions(self, scene: Scene) -> list[str]:
        """Return the scene's captions, the best first; empty when there are none."""
        record = self._captions.get(scene.name)
        if record is None or not record.provenance.fits(scene.visible_hash):
            return []
        return [text for text in record.captions if self._passes(caption_fault, text, scene)]

    def description(self, scene: Scene) -> CaptionRecord | None:
        """Return the scene's captions with their fields and provenance, or None."""
        return self._captions.get(scene.name)

    def segmentation_path(self, scene: Scene) -> Path | None:
        """Return the path of the scene's segmentation map, or None."""
        maps = self._maps["segmentation"]
        path = maps.usable_path(scene.name, scene.visible_hash)
        return path if path and self._passes(maps.fault, scene.name, scene) else None

    def _passes(self, look: Callable[[str], str | None], what: str, scene: Scene) -> bool:
        """Whether a result is to be given out; count and log it otherwise."""
        fault = None if self.with_faulty else look(what)
        if fault is None:
            return True
        self.left_out[fault] += 1
        number = self.left_out.total()
        # The first, tenth, hundredth, ...: a broken annotator must not flood the log.
        if str(number).strip("0") == "1":
            logger.warning(
                "%s: left out %d captions and maps so far that say nothing, the last of %s (%s); "
                "`v2ir check` lists them",
                self.root,
                number,
                scene.name,
                fault,
            )
        return False

    def mask_path(self, scene: Scene) -> Path | None:
        """Return the path of the scene's thermal mask, or None; read it by `read_thermal_mask`."""
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
        self,
        scene: Scene,
        captions: Sequence[str] | Described,
        source: Provenance,
        *,
        force: bool = False,
    ) -> None:
        """Keep the captions of a scene, with their fields if any, in place of earlier ones.

        Raises:
            InputError: If there is no caption, or one is empty.
            OutputError: If the user's own are there and `force` is not given, or the disk
                refuses.
        """
        found = captions if isinstance(captions, Described) else Described(tuple(captions))
        self._captions.put(scene.name, found, source, force=force)

    def put_segmentation(
        self, scene: Scene, pixels: np.ndarray, source: Provenance, *, force: bool = False
    ) -> None:
        """Keep the segmentation map of a scene, HW or HWC RGB uint8, in place of an earlier one.

        Raises:
            InputError: If the map is neither.
            OutputError: If the user's own is there and `force` is not given, or the disk
                refuses.
        """
        self._maps["segmentation"].put(scene.name, pixels, source, force=force)

    def put_mask(
        self, scene: Scene, pixels: np.ndarray, source: Provenance, *, force: bool = False
    ) -> None:
        """Keep the thermal mask of a scene, HW uint8, 0 cold and 255 hot.

        What lies between is in doubt. Errors are those of `put_segmentation`.
        """
        self._maps["mask"].put(scene.name, pixels, source, force=force)
