"""What `check` looks at: every file of a data set, read once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from v2ir.data.alignment import Alignment, measure_files
from v2ir.data.fingerprints import Fingerprint, fingerprint
from v2ir.data.layouts import LAYOUTS, Listing
from v2ir.data.scenes import load_scenes
from v2ir.errors import ImageReadError
from v2ir.files import hash_file
from v2ir.images import image_size
from v2ir.records import Progress, Scene, no_progress


@dataclasses.dataclass(frozen=True)
class SeenFile:
    """One image file as it is on disk now.

    Attributes:
        path: Path relative to the data set.
        failure: Why it cannot be used, or None.
        is_missing: Whether it is not there at all.
        hash: SHA-256 of its bytes.
        size: (width, height) in pixels.
        print: Its fingerprint.
    """

    path: str
    failure: str | None = None
    is_missing: bool = False
    hash: str | None = None
    size: tuple[int, int] | None = None
    print: Fingerprint | None = None


@dataclasses.dataclass(frozen=True)
class SeenScene:
    """One scene as it is on disk now.

    Attributes:
        scene: The scene as indexed.
        visible: Its visible image, if the index has one.
        infrared: Its infrared image, if the index has one.
        alignment: Alignment of the pair, where both can be read and it was asked for.
    """

    scene: Scene
    visible: SeenFile | None
    infrared: SeenFile | None
    alignment: Alignment | None = None

    @property
    def files(self) -> list[SeenFile]:
        """The files that the index has."""
        return [seen for seen in (self.visible, self.infrared) if seen is not None]


@dataclasses.dataclass(frozen=True)
class Inspection:
    """A data set as it is on disk now.

    Attributes:
        root: Folder of the data set.
        scenes: The indexed scenes.
        listing: The files below the folder, indexed or not.
        unindexed: Images of the data set that the index does not hold.
    """

    root: Path
    scenes: Sequence[SeenScene]
    listing: Listing
    unindexed: Sequence[SeenFile]


def inspect(root: Path, *, alignment: bool = True, progress: Progress = no_progress) -> Inspection:
    """Read every image of an indexed data set.

    Args:
        root: Folder of the data set.
        alignment: Whether to measure the alignment of the pairs, the slowest part.
        progress: Told after each scene.

    Raises:
        DataError: If the data set has no index.
    """
    scenes = load_scenes(root)
    seen = []
    for done, scene in enumerate(scenes, start=1):
        seen.append(_see_scene(root, scene, alignment=alignment))
        progress(done, len(scenes))
    listing = LAYOUTS["folders"](root)
    indexed = {file.path for item in seen for file in item.files}
    wanted = set(listing.names())
    paths = [
        path.relative_to(root).as_posix()
        for kind in ("rgb", "ir")
        for name, path in listing.files.get(kind, {}).items()
        if name in wanted
    ]
    unindexed = [_see_file(root, path) for path in paths if path not in indexed]
    return Inspection(root, seen, listing, unindexed)


def _see_scene(root: Path, scene: Scene, *, alignment: bool) -> SeenScene:
    visible, infrared = (
        _see_file(root, path) if path else None for path in (scene.visible, scene.infrared)
    )
    measured = None
    if alignment and visible and infrared and visible.size and infrared.size:
        measured = measure_files(root / visible.path, root / infrared.path)
    return SeenScene(scene, visible, infrared, measured)


def _see_file(root: Path, path: str) -> SeenFile:
    full = root / path
    if not full.is_file():
        broken = full.is_symlink()
        why = f"is a link to {full.readlink()}, which is gone" if broken else "is not there"
        return SeenFile(path, failure=why, is_missing=True)
    try:
        return SeenFile(path, hash=hash_file(full), print=fingerprint(full), size=image_size(full))
    except ImageReadError as error:
        return SeenFile(path, failure=f"{error.what.removeprefix(f'{full} ')}: {error.got}")
    except OSError as error:
        return SeenFile(path, failure=f"cannot be read: {error.strerror or error}")
