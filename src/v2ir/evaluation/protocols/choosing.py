"""Choose the scenes that a protocol measures, and hold the data set to its counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from v2ir.errors import DataError, InputError, UnknownNameError
from v2ir.evaluation.context import Context, Selection, context_of_scenes, read_scenes
from v2ir.evaluation.protocols import PROTOCOLS, Protocol
from v2ir.evaluation.protocols.record import hash_of_names
from v2ir.records import SPLITS, Scene, Split

UNNAMED = "unnamed"


def protocol_of(name: str) -> Protocol:
    """Return the protocol of this name.

    Raises:
        UnknownNameError: If there is none.
    """
    if name not in PROTOCOLS:
        raise UnknownNameError.of("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def unnamed_protocol(context: Context, names: Iterable[str]) -> Protocol:
    """Return the protocol of a comparison for which none was named: its own names."""
    selection = context.selection
    return Protocol(
        name=UNNAMED,
        source="no protocol was named",
        split=selection.split if selection else "all",  # type: ignore[arg-type]
        alignment=selection.alignment if selection else None,
        names_hash=hash_of_names(frozenset(names)),
    )


def context_of_protocol(protocol: Protocol, data: Path) -> Context:
    """Read what an indexed data set knows, with the scenes that the protocol measures.

    The split is the index's own, or that of the lists `train.txt`, `val.txt` and `test.txt`
    in the data set, one name a line, where they exist.

    Args:
        protocol: The protocol.
        data: Folder with `scenes.jsonl`.

    Raises:
        DataError: If the data set has other scenes than the protocol says.
    """
    scenes = _listed(read_scenes(data), read_lists(data), data)
    context = context_of_scenes(data, scenes, Selection(protocol.split, protocol.alignment))
    _check(protocol, context, data)
    return context


def read_lists(data: Path) -> dict[str, Split]:
    """Return the split of each name that the lists of a data set hold.

    Raises:
        DataError: If a name stands in two lists.
    """
    found: dict[str, Split] = {}
    for split in SPLITS:
        path = data / f"{split}.txt"
        if not path.is_file():
            continue
        for line in path.read_text(encoding="utf-8-sig").splitlines():
            name = _name(line.strip())
            if name and found.setdefault(name, split) != split:
                raise DataError(
                    f"{name} stands in two lists of {data}", got=f"{found[name]} and {split}"
                )
    return found


def _name(line: str) -> str:
    path = PurePosixPath(line)
    known = path.suffix.lower() in {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
    return path.with_suffix("").as_posix() if known else line


def _listed(scenes: Sequence[Scene], lists: Mapping[str, Split], data: Path) -> list[Scene]:
    """Give scenes the split of the lists; those that no list names are left out."""
    if not lists:
        return list(scenes)
    absent = sorted(set(lists) - {scene.name for scene in scenes})
    if absent:
        raise DataError(
            f"{len(absent)} names of the lists are not in the data set {data}",
            got=", ".join(absent[:5]),
            do=f"index it again with: v2ir index {data}",
        )
    return [
        dataclasses.replace(scene, split=lists[scene.name])
        for scene in scenes
        if scene.name in lists
    ]


def _check(protocol: Protocol, context: Context, data: Path) -> None:
    names = context.selected or frozenset()
    found = {"images": len(names), "training pairs": len(context.training)}
    wanted = {"images": protocol.num_images, "training pairs": protocol.num_training}
    for what, number in wanted.items():
        if number is not None and found[what] != number:
            raise DataError(
                f"{data} does not have the {what} of the protocol {protocol.name}",
                got=f"{found[what]}, not {number}",
                do="put the published lists as train.txt and test.txt into the data set",
            )
    if protocol.names_hash is not None and hash_of_names(names) != protocol.names_hash:
        raise DataError(
            f"{data} has other images than the protocol {protocol.name}",
            got=f"{len(names)} names with another hash",
            do="take the split as it was published; a redrawn one does not compare",
        )


def refuse_other(protocol: Protocol, names_hash: str, other: Mapping[str, object]) -> None:
    """Refuse an earlier result that was measured under another protocol or on other images.

    Args:
        protocol: The protocol of this comparison.
        names_hash: Hash of the names of this comparison's images.
        other: The earlier result's `summary.json`.

    Raises:
        InputError: If the two do not compare.
    """
    found = other.get("protocol")
    earlier = found if isinstance(found, dict) else {}
    if earlier.get("hash") != protocol.hash:
        raise InputError(
            "the earlier result was measured under another protocol",
            got=f"{earlier.get('name', 'none')} ({str(earlier.get('hash'))[:12]}), "
            f"not {protocol.name} ({protocol.hash[:12]})",
            do="measure its images again under this protocol with --methods NAME=FOLDER",
        )
    if other.get("names_hash") != names_hash:
        raise InputError(
            "the earlier result has other images",
            got=f"names hash {str(other.get('names_hash'))[:12]}, not {names_hash[:12]}",
            do="measure its images again with --methods NAME=FOLDER",
        )
