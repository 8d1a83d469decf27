"""Thermal masks that the user has already, brought into a data set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from v2ir.annotation.own import ImportReport
from v2ir.annotation.provenance import Provenance
from v2ir.annotation.store import AnnotationStore
from v2ir.annotation.thermal_files import read_thermal_mask
from v2ir.data import load_scenes
from v2ir.errors import InputError, V2IRError
from v2ir.files import image_paths
from v2ir.images import image_size, to_uint8
from v2ir.records import Progress, Scene, no_progress

MASK_ENDING, INFRARED_ENDING = "_mask", "_ir"
"""TxT2IR names the mask of NAME_ir.jpg NAME_mask.jpg."""


def import_masks(
    root: Path,
    source: Path,
    *,
    force: bool = False,
    dry_run: bool = False,
    progress: Progress = no_progress,
) -> ImportReport:
    """Bring thermal masks into a data set as the user's own, lossless.

    A JPEG is cut at one half; the grey values of other files are soft and stay as they are.

    Args:
        root: Folder of an indexed data set.
        source: Folder with `NAME.png`, or `NAME_mask.jpg` as TxT2IR names them; names are the
            infrared images' paths below `ir/`, or file names alone where these are unique.
        force: Replace own masks that are there.
        dry_run: Count, and write nothing.
        progress: Told the number of finished masks.

    Raises:
        InputError: If the source holds no mask of a scene.
        DataError: If the data set has no index.
        OutputError: If the disk refuses.
    """
    store = AnnotationStore(root)
    scenes = {scene.name: scene for scene in load_scenes(root) if scene.infrared}
    matched, strangers = match_masks(source, scenes)
    taken = kept = 0
    failures = []
    for done, (name, path) in enumerate(matched.items(), start=1):
        try:
            pixels = _read(root, scenes[name], path)
            if _stays(store, scenes[name], pixels, force):
                kept += 1
            else:
                taken += 1
                if not dry_run:
                    store.put_mask(scenes[name], pixels, Provenance(), force=force)
        except V2IRError as error:
            failures.append((str(path), str(error)))
        progress(done, len(matched))
    return ImportReport(taken, kept, strangers, tuple(failures))


def match_masks(
    source: Path, scenes: Mapping[str, Scene]
) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Find the masks of scenes below a folder, and the names that belong to none.

    Raises:
        InputError: If none belongs to a scene.
    """
    by_last = defaultdict(list)
    for name in scenes:
        by_last[name.rpartition("/")[2]].append(name)
    matched: dict[str, Path] = {}
    strangers = []
    for path in image_paths(source) if source.is_dir() else []:
        name = path.relative_to(source).with_suffix("").as_posix()
        found = next(filter(None, (_scene(way, scenes, by_last) for way in _ways(name))), None)
        # The first of NAME.jpg and NAME.png would hide the lossless one.
        if found is None:
            strangers.append(name)
        elif found not in matched or path.suffix.lower() == ".png":
            matched[found] = path
    if not matched:
        raise InputError(
            f"{source} holds no mask of a scene of the data set",
            got=f"names such as {strangers[0]}" if strangers else "no images",
            do="name them by the images' paths below ir/: NAME.png or NAME_mask.jpg",
        )
    return matched, tuple(strangers)


def _ways(name: str) -> list[str]:
    """Return the scene names that the name of a mask may mean, the likeliest first."""
    if not name.endswith(MASK_ENDING):
        return [name, f"{name}{INFRARED_ENDING}"]
    bare = name.removesuffix(MASK_ENDING)
    return [bare, f"{bare}{INFRARED_ENDING}", name]


def _scene(name: str, scenes: Mapping[str, Scene], by_last: Mapping[str, list[str]]) -> str | None:
    if name in scenes:
        return name
    same = by_last.get(name.rpartition("/")[2], [])
    return same[0] if len(same) == 1 else None


def _read(root: Path, scene: Scene, path: Path) -> np.ndarray:
    """Return a mask as HW uint8 of its infrared image's size."""
    pixels = to_uint8(read_thermal_mask(path))
    width, height = image_size(root / str(scene.infrared))
    if pixels.shape != (height, width):
        raise InputError(
            f"the mask {path} has another size than its infrared image",
            got=f"{pixels.shape[1]}x{pixels.shape[0]} px",
            do=f"give one of {width}x{height} px",
        )
    return pixels


def _stays(store: AnnotationStore, scene: Scene, pixels: np.ndarray, force: bool) -> bool:
    there = store.provenance("mask", scene)
    if there is None or not there.is_user:
        return False
    path = store.mask_path(scene)
    # The same again is no work, also where it may be replaced; a JPEG becomes lossless.
    if force and path is not None and path.suffix == ".png":
        return np.array_equal(to_uint8(read_thermal_mask(path)), pixels)
    return not force
