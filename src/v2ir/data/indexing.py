"""The index of a data set: which scenes there are, who they belong to, what they hash to."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from v2ir.data.fingerprints import Fingerprint, fingerprint
from v2ir.data.layouts import LAYOUTS, Kind, Listing
from v2ir.data.links import link_files, link_target
from v2ir.data.scenes import SCENES_FILE, read_index
from v2ir.data.splits import GROUPERS, Item, SplitRule, draw
from v2ir.data.table import TABLE_FILE, Known, read_table
from v2ir.errors import DataError, ImageReadError, UnknownNameError
from v2ir.files import hash_file, read_jsonl, write_jsonl
from v2ir.images import image_size
from v2ir.records import Progress, Scene, Split, no_progress

_log = logging.getLogger(__name__)

StyleRule = Callable[[str], str | None]
"""Gives the style of a scene from its name."""


def style_prefix(name: str) -> str | None:
    """Take what stands before the first underscore of the file name: `llvip_0190` is `llvip`."""
    return name.rpartition("/")[2].split("_")[0] or None


def style_folder(name: str) -> str | None:
    """Take the first folder below `rgb/` or `ir/`; a scene outside a folder has no style."""
    return name.partition("/")[0] if "/" in name else None


STYLE_RULES: dict[str, StyleRule] = {"prefix": style_prefix, "folder": style_folder}


@dataclasses.dataclass(frozen=True)
class IndexReport:
    """What an indexing found and did.

    Attributes:
        path: The index, `scenes.jsonl`.
        scenes: All scenes of the data set in the order of the index.
        failures: (file, reason) of the files that were passed over.
        kept: Number of scenes whose split an earlier index had set.
        dropped: Names of scenes of the earlier index that have no image any more.
        changed: Whether the index differs from the one on disk.
    """

    path: Path
    scenes: tuple[Scene, ...]
    failures: tuple[tuple[str, str], ...]
    kept: int
    dropped: tuple[str, ...]
    changed: bool


@dataclasses.dataclass(frozen=True)
class _Read:
    """One scene's files as read from disk."""

    item: Item
    paths: tuple[Path | None, Path | None]
    hashes: tuple[str | None, str | None]
    size: tuple[int, int]


def index(
    root: Path,
    *,
    source: Path | None = None,
    layout: str = "folders",
    groups: Path | None = None,
    style: str | StyleRule | None = None,
    split: SplitRule | None = None,
    dry_run: bool = False,
    progress: Progress = no_progress,
) -> IndexReport:
    """Find the scenes of a data set and write `root/scenes.jsonl`.

    Every image is read to its end, so that a cut-off file is found now and not in the
    middle of a training. Known scenes keep their split unless `split.redraw` is set; a
    scene that an earlier call brought from another source stays. Where nothing changed,
    no file changes.

    Args:
        root: Folder of the data set, with `rgb/` or `ir/`.
        source: Folder to take the images from; `root` then gets links to its files.
        layout: A name of `LAYOUTS`: the folder shape of the source.
        groups: Table of what is known about the scenes (see `read_table`). By default
            `scenes.csv` of the source, if it has one. Its groups and splits count unless
            another way to split than `auto` is asked for.
        style: Look of the infrared camera for all scenes, or a rule that tells it from a
            scene's name. Without it the table's column `style` or `source` counts.
        split: How to split; by default by scene group, 5 % each for val and test.
        dry_run: Find everything and change nothing.
        progress: Told after each scene.

    Raises:
        DataError: If there is no image, two sources have a scene of the same name, the
            table fits none of the scenes or puts one group into two splits.
        OutputError: If the index or a link cannot be written.
        UnknownNameError: If there is no such layout.
    """
    if layout not in LAYOUTS:
        raise UnknownNameError.of("layout", layout, LAYOUTS)
    rule = split or SplitRule()
    origin = root if source is None else source
    listing = LAYOUTS[layout](origin)
    table = _table_of(origin, groups)
    if table and not table.keys() & set(listing.names()):
        raise _foreign_table(groups or origin / TABLE_FILE, table, listing)
    if source is not None:
        link_files(root, source, listing, dry_run=dry_run)
    elif layout != "folders":
        raise DataError(
            f"a folder of the layout {layout} cannot be a data set itself",
            do="name a folder for the data set with --into",
        )
    path = root / SCENES_FILE
    earlier = {scene.name: scene for scene in read_index(root)}
    reads, failures = _read_all(listing, progress)
    known = {read.item.name: table.get(read.item.name, Known()) for read in reads}
    found = {read.item.name for read in reads}
    others = [s for s in earlier.values() if s.name not in found and _still_there(root, s)]
    places = _placed([read.item for read in reads], known, earlier, others, rule)
    scenes = [_scene(r, places[r.item.name], known[r.item.name], style) for r in reads]
    if source is not None:
        scenes = sorted(scenes + others, key=lambda scene: scene.name)
    rows = [scene.to_json() for scene in scenes]
    changed = rows != list(read_jsonl(path))
    if changed and not dry_run:
        write_jsonl(path, rows)
    return IndexReport(
        path=path,
        scenes=tuple(scenes),
        failures=(*listing.failures, *failures),
        kept=0 if rule.redraw else len(found & earlier.keys()),
        dropped=tuple(sorted(earlier.keys() - {scene.name for scene in scenes})),
        changed=changed,
    )


def _table_of(source: Path, groups: Path | None) -> Mapping[str, Known]:
    if groups is not None:
        return read_table(groups)
    own = source / TABLE_FILE
    return read_table(own) if own.is_file() else {}


def _foreign_table(path: Path, table: Mapping[str, Known], listing: Listing) -> DataError:
    return DataError(
        f"{path} names none of the scenes",
        got=f"{next(iter(table))!r} there, {next(iter(listing.names()), None)!r} in the folder",
        do="write the paths below rgb/ or ir/, without extension, into the column `name`",
    )


def _still_there(root: Path, scene: Scene) -> bool:
    return all((root / path).is_file() for path in (scene.visible, scene.infrared) if path)


def _read_all(listing: Listing, progress: Progress) -> tuple[list[_Read], list[tuple[str, str]]]:
    reads: list[_Read] = []
    failures: list[tuple[str, str]] = []
    names = listing.names()
    for done, name in enumerate(names, start=1):
        sides = [_read_side(listing, kind, name, failures) for kind in ("rgb", "ir")]
        there = [side for side in sides if side is not None]
        if there:
            (visible, infrared) = sides
            reads.append(
                _Read(
                    item=Item(name, (visible and visible[2], infrared and infrared[2])),
                    paths=(visible and visible[0], infrared and infrared[0]),
                    hashes=(visible and visible[1], infrared and infrared[1]),
                    size=there[0][3],
                )
            )
        progress(done, len(names))
    return reads, failures


_Side = tuple[Path, str, Fingerprint, tuple[int, int]]


def _read_side(
    listing: Listing, kind: Kind, name: str, failures: list[tuple[str, str]]
) -> _Side | None:
    path = listing.files.get(kind, {}).get(name)
    if path is None:
        return None
    try:
        return path, hash_file(path), fingerprint(path), image_size(path)
    except ImageReadError as error:
        failures.append((str(path), str(error).removeprefix(f"{path} ")))
    except OSError as error:
        failures.append((str(path), f"cannot be read: {error.strerror or error}"))
    return None


def _scene(
    read: _Read,
    place: tuple[str, Split],
    known: Known,
    style: str | StyleRule | None,
) -> Scene:
    visible = _path_below("rgb", read.item.name, read.paths[0])
    infrared = _path_below("ir", read.item.name, read.paths[1])
    named = style(read.item.name) if callable(style) else style
    return Scene(
        name=read.item.name,
        split=place[1],
        group=place[0],
        width=read.size[0],
        height=read.size[1],
        visible=visible,
        infrared=infrared,
        visible_hash=read.hashes[0],
        infrared_hash=read.hashes[1],
        style=named or known.style,
        alignment=known.alignment if all(read.paths) else None,
    )


def _path_below(kind: Kind, name: str, path: Path | None) -> str | None:
    return link_target(Path(), kind, name, path).as_posix() if path else None


def _placed(
    items: Sequence[Item],
    known: Mapping[str, Known],
    earlier: Mapping[str, Scene],
    others: Sequence[Scene],
    rule: SplitRule,
) -> dict[str, tuple[str, Split]]:
    """Return the group and the split of every item."""
    groups = _grouped(items, known, rule)
    fixed = _table_splits(groups, known) if rule.by == "auto" else {}
    stay = {scene.group: scene.split for scene in others}
    if not rule.redraw:
        for name, group in groups.items():
            if name in earlier:
                # Where groups grew together, training is the place that does no harm:
                # moving a training scene to test would leak it.
                was = earlier[name].split
                stay[group] = "train" if stay.get(group, was) != was else was
    splits = draw(list(groups.values()), {**stay, **fixed}, rule)
    return {name: (group, splits[group]) for name, group in groups.items()}


def _grouped(items: Sequence[Item], known: Mapping[str, Known], rule: SplitRule) -> dict[str, str]:
    """Return the group of every item: the table's where it counts and tells one."""
    if rule.by != "auto":
        names = [item.name for item in items]
        return dict(zip(names, GROUPERS[rule.by](items), strict=True))
    groups = {name: row.group for name, row in known.items() if row.group}
    # Scenes that a table puts into a split but into no group are grouped within the split,
    # so that the table's word stands.
    for part in (None, "train", "val", "test"):
        rest = [i for i in items if i.name not in groups and known[i.name].split == part]
        if rest:
            prefix = f"{part}/" if part else ""
            derived = [prefix + group for group in GROUPERS["auto"](rest)]
            groups |= dict(zip([item.name for item in rest], derived, strict=True))
    return {item.name: groups[item.name] for item in items}


def _table_splits(groups: Mapping[str, str], known: Mapping[str, Known]) -> dict[str, Split]:
    splits: dict[str, Split] = {}
    for name, group in groups.items():
        split = known[name].split
        if split is not None and splits.setdefault(group, split) != split:
            raise DataError(
                f"the table puts the scene group {group} into two splits",
                got=f"{splits[group]} and, for {name}, {split}",
                do="give all scenes of a group the same split, or leave the column `split` empty",
            )
    return splits


def kind_of(scene: Scene) -> str:
    """Return what a scene consists of: `pairs`, `visible only` or `infrared only`."""
    return "pairs" if scene.is_pair else "visible only" if scene.visible else "infrared only"
