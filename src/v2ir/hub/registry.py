"""The layouts of checkpoints by name; `v2ir.hub` gives them out.

A new one is one file with a `read` and a `write`, one row here and one test.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from v2ir.hub import compvis, folders
from v2ir.hub.contents import Contents, ReadSettings
from v2ir.model.folder import CARD_NAME, Model


@dataclasses.dataclass(frozen=True)
class Layout:
    """How checkpoints of one layout are read and written.

    Attributes:
        read: Reads a checkpoint into our names.
        write: Writes a model to a path that does not exist yet.
        is_there: Whether a path holds such a checkpoint, by its names alone.
        suffixes: Endings of its file's name; empty if it is a folder.
    """

    read: Callable[[Path, ReadSettings], Contents]
    write: Callable[[Model, Path], None]
    is_there: Callable[[Path], bool]
    suffixes: frozenset[str] = frozenset()


def _has_card(path: Path) -> bool:
    return (path / CARD_NAME).is_file()


def _has_index_alone(path: Path) -> bool:
    return (path / folders.INDEX_NAME).is_file() and not _has_card(path)


LAYOUTS: dict[str, Layout] = {
    "compvis": Layout(compvis.read, compvis.write, Path.is_file, compvis.SUFFIXES),
    "diffusers": Layout(folders.read, folders.write_plain, _has_index_alone),
    "model": Layout(folders.read, Model.save, _has_card),
}
