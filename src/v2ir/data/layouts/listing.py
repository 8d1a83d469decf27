"""What a layout finds: the files of a source by kind and by scene name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Literal

from v2ir.data.scenes import scene_name
from v2ir.errors import DataError
from v2ir.files import IMAGE_SUFFIXES, image_paths

Kind = Literal["rgb", "ir", "seg", "mask", "captions"]
"""A folder of a data set."""

KINDS: tuple[Kind, ...] = ("rgb", "ir", "seg", "mask", "captions")


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files of a source.

    Attributes:
        files: For each kind of file, its path by scene name.
        order: Names of the scenes in the order the source states, or None if it states
            none. Scenes that it leaves out do not belong to the data set.
        failures: (file, reason) of files that cannot belong to a scene.
    """

    files: dict[Kind, dict[str, Path]]
    order: tuple[str, ...] | None = None
    failures: tuple[tuple[str, str], ...] = ()

    def names(self) -> list[str]:
        """Return the names of the scenes, those with a visible or an infrared image."""
        found = self.files.get("rgb", {}).keys() | self.files.get("ir", {}).keys()
        if self.order is None:
            return sorted(found)
        return [name for name in self.order if name in found]


Layout = Callable[[Path], Listing]
"""Finds the files below a source folder."""


def by_name(
    folder: Path, paths: Iterable[Path] | None = None
) -> tuple[dict[str, Path], list[tuple[str, str]]]:
    """Return the images below a folder by scene name, and those whose name is taken."""
    found: dict[str, Path] = {}
    failures = []
    for path in image_paths(folder) if paths is None else paths:
        name = scene_name(PurePosixPath(path.relative_to(folder).as_posix()))
        if name in found:
            reason = f"has the same name as {found[name].name}; rename or remove one of them"
            failures.append((str(path), reason))
        else:
            found[name] = path
    return found, failures


def no_images(source: Path, wanted: str) -> DataError:
    """Return the error for a source in which a layout finds nothing."""
    inside = sorted(path.name for path in source.iterdir()) if source.is_dir() else []
    flat = any(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in inside)
    return DataError(
        f"{source} holds no {wanted}",
        got=", ".join([*inside[:4], "..."] if len(inside) > 4 else inside)
        or ("an empty folder" if source.is_dir() else "no such folder"),
        do="name a data set with --into and add --layout infrared or --layout visible"
        if flat
        else "check the path and the layout of the folder (see docs/data.md)",
    )
