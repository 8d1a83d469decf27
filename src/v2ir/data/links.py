"""A light data set: folders of links to files that stay where they are."""

from __future__ import annotations

from pathlib import Path

from v2ir.data.layouts import Kind, Listing
from v2ir.errors import DataError, OutputError
from v2ir.files import append_jsonl, read_jsonl

CAPTIONS_FILE = "captions.jsonl"


def link_target(root: Path, kind: Kind, name: str, path: Path) -> Path:
    """Return where the file of a scene stands in the data set `root`."""
    return root / kind / f"{name}{path.suffix}"


def link_files(root: Path, source: Path, listing: Listing, *, dry_run: bool = False) -> None:
    """Put links to the files of a source below `root`, unless `dry_run`.

    Nothing is changed where the links are there already.

    Raises:
        DataError: If another source has brought a scene of the same name.
        OutputError: If a link cannot be made.
    """
    inner, outer = sorted((root.resolve(), source.resolve()), key=lambda p: -len(p.parts))
    if inner.is_relative_to(outer):
        raise DataError(
            "a data set of links and its source must not lie in each other",
            got=f"{root} and {source}",
            do=f"index {source} in place, or make the data set elsewhere",
        )
    names = set(listing.names())
    linked: dict[Kind, dict[str, Path]] = {}
    for kind, files in listing.files.items():
        linked[kind] = {}
        for name, path in files.items():
            target = link_target(root, kind, name, path)
            if name in names and _is_free(root, source, kind, target, path):
                linked[kind][name] = target
    _refuse_halves(root, source, linked)
    if not dry_run:
        for kind, targets in linked.items():
            for name, target in targets.items():
                _link(target, listing.files[kind][name])
        _bring_captions(root, source, names)


def _is_free(root: Path, source: Path, kind: Kind, target: Path, path: Path) -> bool:
    """Tell whether the link may be made; a map or caption of the data set's own stays."""
    if not target.exists() or target.resolve() == path.resolve():
        return True
    if kind in ("rgb", "ir"):
        raise _same_name(root, source, target)
    return False


def _bring_captions(root: Path, source: Path, names: set[str]) -> None:
    """Copy the captions of a source's scenes that the data set has no captions for."""
    rows = [row for row in read_jsonl(source / CAPTIONS_FILE) if row.get("name") in names]
    if rows:
        known = {row.get("name") for row in read_jsonl(root / CAPTIONS_FILE)}
        for row in rows:
            if row["name"] not in known:
                append_jsonl(root / CAPTIONS_FILE, row)


def _refuse_halves(root: Path, source: Path, linked: dict[Kind, dict[str, Path]]) -> None:
    """Keep two sources from making a pair of halves that only share a name."""
    halves: tuple[tuple[Kind, Kind], ...] = (("rgb", "ir"), ("ir", "rgb"))
    for kind, other in halves:
        theirs = {
            path.relative_to(root / other).with_suffix("").as_posix(): path
            for path in (root / other).rglob("*")
            if path.is_file()
        }
        mine = linked.get(other, {})
        for name in linked.get(kind, {}):
            if name in theirs and name not in mine:
                raise _same_name(root, source, theirs[name])


def _same_name(root: Path, source: Path, target: Path) -> DataError:
    origin = target.resolve() if target.is_symlink() else "a file of the data set itself"
    return DataError(
        f"{source} has a scene of a name that {root} has already",
        got=f"{target.relative_to(root)}, from {origin}",
        do="rename the files of one source, or index it into another data set",
    )


def _link(target: Path, path: Path) -> None:
    try:
        if target.is_symlink():
            if target.readlink() == path.resolve():
                return
            target.unlink()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path.resolve())
    except OSError as error:
        raise OutputError(
            f"cannot make the link {target}",
            got=error.strerror or str(error),
            do="index the folder in place, or choose a folder on a disk that knows links",
        ) from error
