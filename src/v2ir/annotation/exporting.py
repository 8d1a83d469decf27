"""Captions and maps in the layouts of DiffV2IR and TxT2IR."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from v2ir.annotation.store import AnnotationStore
from v2ir.data import load_scenes
from v2ir.errors import InputError, UnknownNameError
from v2ir.files import write_bytes
from v2ir.records import Progress, Scene, no_progress


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """The outcome of an export.

    Attributes:
        written: Files written (with a dry run: would be written).
        kept: Files that were there with the same content.
        missing: Scenes with a visible image that have nothing to export; what says
            nothing (`quality`) counts as nothing.
    """

    written: int
    kept: int
    missing: int


def _diffv2ir(store: AnnotationStore, scene: Scene) -> tuple[str, bytes] | None:
    """Return `seg/NAME.png`.

    Source: DiffV2IR, the released data set: equal stems, maps always PNG.
    """
    path = store.segmentation_path(scene)
    return (f"seg/{scene.name}.png", path.read_bytes()) if path else None


def _txt2ir(store: AnnotationStore, scene: Scene) -> tuple[str, bytes] | None:
    """Return `captions/NAME_ir.txt`, one caption a line.

    Source: TxT2IR, the released code: several captions, of which one is drawn.
    """
    captions = store.captions(scene)
    lines = "".join(" ".join(caption.split()) + "\n" for caption in captions)
    return (f"captions/{scene.name}_ir.txt", lines.encode()) if captions else None


EXPORTS: dict[str, Callable[[AnnotationStore, Scene], tuple[str, bytes] | None]] = {
    "diffv2ir": _diffv2ir,
    "txt2ir": _txt2ir,
}


def export(
    root: Path,
    out: Path,
    layout: str,
    *,
    dry_run: bool = False,
    progress: Progress = no_progress,
) -> ExportReport:
    """Write the captions or the maps of a data set as another project has them.

    Args:
        root: Folder of an indexed data set.
        out: Folder to write to; files with the same content are left alone.
        layout: Name of `EXPORTS`.
        dry_run: Count, and write nothing.
        progress: Told the number of scenes that were looked at.

    Raises:
        UnknownNameError: If the layout is unknown.
        InputError: If `out` is the data set itself.
        DataError: If the data set has no index.
        OutputError: If the disk refuses.
    """
    if layout not in EXPORTS:
        raise UnknownNameError.of("layout", layout, EXPORTS)
    if out.resolve() == root.resolve():
        raise InputError("the export would lie in the data set", got=str(out), do="name another")
    store = AnnotationStore(root)
    scenes = [scene for scene in load_scenes(root) if scene.visible]
    written = kept = missing = 0
    for done, scene in enumerate(scenes, start=1):
        found = EXPORTS[layout](store, scene)
        if found is None:
            missing += 1
        elif (path := out / found[0]).is_file() and path.read_bytes() == found[1]:
            kept += 1
        else:
            written += 1
            if not dry_run:
                write_bytes(path, found[1])
        progress(done, len(scenes))
    return ExportReport(written, kept, missing)
