"""A light data set: folders of links to files that stay where they are."""

from __future__ import annotations

import os
from pathlib import Path

from v2ir.data.layouts import Kind, Listing
from v2ir.errors import DataError, OutputError


def link_target(root: Path, kind: Kind, name: str, path: Path) -> Path:
    """Return where the file of a scene stands in the light data set `root`."""
    return root / kind / f"{name}{path.suffix}"


def link_files(root: Path, source: Path, listing: Listing, *, dry_run: bool = False) -> Listing:
    """Put links to the files of a source below `root` and return the listing of the links.

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
        wanted = {name: path for name, path in files.items() if name in names}
        linked[kind] = {n: link_target(root, kind, n, p) for n, p in wanted.items()}
        for name, path in wanted.items():
            _refuse_strangers(root, source, linked[kind][name], path)
    _refuse_halves(root, source, linked)
    if dry_run:
        return Listing({k: dict(v) for k, v in listing.files.items()}, listing.order)
    for kind, targets in linked.items():
        for name, target in targets.items():
            _link(target, listing.files[kind][name])
    return Listing(linked, listing.order, listing.failures)


def _refuse_strangers(root: Path, source: Path, target: Path, path: Path) -> None:
    if os.path.lexists(target) and (not target.is_symlink() or target.resolve() != path.resolve()):
        if target.is_symlink() and not target.exists():
            return  # its file is gone, and the new one takes its place
        raise _same_name(root, source, target)


def _refuse_halves(root: Path, source: Path, linked: dict[Kind, dict[str, Path]]) -> None:
    """Keep two sources from making a pair of halves that only share a name."""
    for kind, other in (("rgb", "ir"), ("ir", "rgb")):
        theirs = {
            path.relative_to(root / other).with_suffix("").as_posix(): path
            for path in (root / other).rglob("*")
            if path.is_file()
        }
        mine = linked.get(other, {})  # type: ignore[call-overload]
        for name in linked.get(kind, {}):  # type: ignore[call-overload]
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
