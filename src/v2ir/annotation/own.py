"""What the user has already, brought into a data set: captions, maps, folders of masks."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from v2ir.annotation.masks import find_rendering, is_mask_folder, merge_masks
from v2ir.annotation.provenance import Provenance
from v2ir.annotation.store import AnnotationStore
from v2ir.captions import read_captions
from v2ir.data import load_scenes
from v2ir.errors import InputError, V2IRError
from v2ir.files import image_paths
from v2ir.images import read_map, read_visible
from v2ir.records import Progress, Scene, no_progress

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class ImportReport:
    """The outcome of bringing own captions or maps in.

    Attributes:
        taken: Scenes that got something (with a dry run: would get).
        kept: Scenes that had the same, or had own results and `force` was not given.
        strangers: Names that belong to no scene.
        failures: (name, reason) of what could not be taken.
    """

    taken: int
    kept: int
    strangers: tuple[str, ...]
    failures: tuple[tuple[str, str], ...]


def import_captions(
    root: Path, source: Path, *, force: bool = False, dry_run: bool = False
) -> ImportReport:
    """Bring captions into a data set as the user's own.

    Args:
        root: Folder of an indexed data set.
        source: Anything that `captions.read_captions` reads; names are the images' paths
            below `rgb/`, or file names alone where these are unique.
        force: Replace own captions that are there.
        dry_run: Count, and write nothing.

    Raises:
        InputError: If the source holds no captions, or none of a scene.
        DataError: If the data set has no index.
        OutputError: If the disk refuses.
    """
    store, given = AnnotationStore(root, with_faulty=True), read_captions(source)
    # Scenes without a visible side too: models that learn from text are told what they show.
    scenes = {scene.name: scene for scene in load_scenes(root)}
    matched, strangers = _matched(given, scenes, source)
    taken = kept = 0
    for name, captions in matched.items():
        there = store.description(scenes[name])
        own = there is not None and there.provenance.is_user
        if there is not None and own and (there.captions == captions or not force):
            kept += 1
            continue
        taken += 1
        if not dry_run:
            store.put_captions(scenes[name], captions, Provenance(), force=force)
    return ImportReport(taken, kept, strangers, ())


def import_segmentations(
    root: Path,
    source: Path,
    *,
    rendering: str = "union",
    force: bool = False,
    dry_run: bool = False,
    progress: Progress = no_progress,
) -> ImportReport:
    """Bring maps into a data set as the user's own; folders of masks are merged.

    Args:
        root: Folder of an indexed data set.
        source: Folder with `NAME.png` for whole maps, or with folders `NAME/0.png`,
            `NAME/1.png`, ... as SAM's own script writes them.
        rendering: How masks become a map: a name of `masks.RENDERINGS`.
        force: Replace own maps that are there.
        dry_run: Count, and write nothing.
        progress: Told the number of finished maps.

    Raises:
        InputError: If the source holds neither maps nor masks of a scene.
        UnknownNameError: If the rendering is unknown.
        DataError: If the data set has no index.
        OutputError: If the disk refuses.
    """
    find_rendering(rendering)
    store = AnnotationStore(root, with_faulty=True)
    scenes = {scene.name: scene for scene in load_scenes(root) if scene.visible}
    matched, strangers = _matched(find_map_sources(source), scenes, source)
    taken = kept = 0
    failures = []
    for done, (name, path) in enumerate(matched.items(), start=1):
        there = store.provenance("segmentation", scenes[name])
        if there is not None and there.is_user and not force:
            kept += 1
        else:
            try:
                if not dry_run:
                    pixels = _own_map(root, scenes[name], path, rendering)
                    store.put_segmentation(scenes[name], pixels, Provenance(), force=force)
                taken += 1
            except V2IRError as error:
                failures.append((str(path), str(error)))
        progress(done, len(matched))
    return ImportReport(taken, kept, strangers, tuple(failures))


def find_map_sources(folder: Path) -> dict[str, Path]:
    """List whole maps and folders of masks below a folder by name.

    Raises:
        InputError: If there are none.
    """
    single = {path.parent for path in folder.rglob("0.png") if is_mask_folder(path.parent)}
    found = {path.relative_to(folder).as_posix(): path for path in single if path != folder}
    for path in image_paths(folder):
        if path.parent not in single:
            found[path.relative_to(folder).with_suffix("").as_posix()] = path
    if not found:
        raise InputError(
            f"{folder} holds no maps",
            got=None if folder.is_dir() else "no such folder",
            do="give a folder of images NAME.png, or of folders NAME with 0.png, 1.png, ...",
        )
    return found


def _own_map(root: Path, scene: Scene, path: Path, rendering: str) -> np.ndarray:
    if path.is_dir():
        needs_image = rendering == "regions"
        image = read_visible(root / str(scene.visible)) if needs_image else None
        pixels = merge_masks(path, rendering, image)
    else:
        pixels = read_map(path)
    if pixels.shape[:2] != (scene.height, scene.width):
        raise InputError(
            f"the map {path} has another size than its image",
            got=f"{pixels.shape[1]}x{pixels.shape[0]} px",
            do=f"give one of {scene.width}x{scene.height} px",
        )
    return pixels


def _matched(
    given: Mapping[str, T], scenes: Mapping[str, Scene], source: Path
) -> tuple[dict[str, T], tuple[str, ...]]:
    """Find the scene of each given name, by its path or by its last part where unique."""
    last = Counter(name.rpartition("/")[2] for name in scenes)
    short = {name.rpartition("/")[2]: name for name in scenes if last[name.rpartition("/")[2]] == 1}
    matched: dict[str, T] = {}
    strangers = []
    for name, value in given.items():
        scene = name if name in scenes else short.get(name.rpartition("/")[2])
        if scene is None:
            strangers.append(name)
        else:
            matched[scene] = value
    if not matched:
        raise InputError(
            f"{source} belongs to no scene of the data set",
            got=f"names such as {next(iter(given))}",
            do="name them by the images' paths below rgb/",
        )
    return matched, tuple(strangers)
