"""The scene list of a data set: `scenes.jsonl`, and `seeds.json` as its list and order."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from v2ir.errors import DataError
from v2ir.files import IMAGE_SUFFIXES, read_json, read_jsonl
from v2ir.records import SPLITS, Scene

SCENES_FILE = "scenes.jsonl"
SEEDS_FILE = "seeds.json"


def load_scenes(root: Path) -> list[Scene]:
    """Read the scenes that `v2ir index` found.

    Where `root/seeds.json` exists, it says which scenes there are and in which order, as
    in DiffV2IR; otherwise all indexed scenes come in the order of the index.

    Args:
        root: Folder of the data set.

    Raises:
        DataError: If the data set has no index, a row of it is not a scene, or
            `seeds.json` names a scene that the index does not hold.
    """
    path = root / SCENES_FILE
    if not path.is_file():
        raise DataError(f"{root} has no index", got=f"no {path}", do=f"run `v2ir index {root}`")
    scenes = read_index(root)
    seeds = read_seeds(root)
    return scenes if seeds is None else _in_order(scenes, seeds, root)


def read_index(root: Path) -> list[Scene]:
    """Read all rows of `root/scenes.jsonl` as they stand there; none without that file.

    Raises:
        DataError: If a row is not a scene.
    """
    path = root / SCENES_FILE
    return [_scene(row, path) for row in read_jsonl(path)]


def _scene(row: dict[str, object], path: Path) -> Scene:
    try:
        scene = Scene.from_json(row)
    except TypeError as error:
        raise _bad_row(path, str(error)) from error
    if scene.split not in SPLITS:
        raise _bad_row(path, f"split {scene.split!r} of scene {scene.name!r}")
    return scene


def _bad_row(path: Path, got: str) -> DataError:
    return DataError(
        f"{path} holds a row that is not a scene",
        got=got,
        do=f"delete it and run `v2ir index {path.parent}`",
    )


def _in_order(scenes: Iterable[Scene], names: Iterable[str], root: Path) -> list[Scene]:
    by_name = {scene.name: scene for scene in scenes}
    wanted = list(names)
    missing = [name for name in wanted if name not in by_name]
    if missing:
        raise DataError(
            f"{root / SEEDS_FILE} names {len(missing)} scenes that the index does not hold",
            got=", ".join(missing[:3]),
            do=f"run `v2ir index {root}` again, or take them out of {SEEDS_FILE}",
        )
    return [by_name[name] for name in wanted]


def read_seeds(root: Path) -> list[str] | None:
    """Read the scene names of DiffV2IR's `seeds.json` in their order, or None without one.

    An entry is a list whose first element is a file name, `["name.jpg"]`, or the file
    name itself. A name that comes twice counts once.

    Source: DiffV2IR, the released data set list.

    Raises:
        DataError: If the file is not a list of such entries.
    """
    path = root / SEEDS_FILE
    if not path.is_file():
        return None
    entries = read_json(path)
    if not isinstance(entries, list):
        raise DataError(f"{path} is not a list", got=type(entries).__name__, do="see docs/data.md")
    names = dict.fromkeys(_seed_name(entry, path) for entry in entries)
    return list(names)


def _seed_name(entry: object, path: Path) -> str:
    first = entry[0] if isinstance(entry, list) and entry else entry
    if not isinstance(first, str):
        raise DataError(
            f"{path} holds an entry without a file name",
            got=repr(entry)[:80],
            do='write one-element lists: [["name.jpg"], ...]',
        )
    return scene_name(PurePosixPath(first))


def scene_name(path: PurePosixPath) -> str:
    """Return the name of a scene from the path of its image below `rgb/` or `ir/`.

    Only an image's extension is cut off, so that `frame.0012` keeps its number.
    """
    return str(path.with_suffix("") if path.suffix.lower() in IMAGE_SUFFIXES else path)
