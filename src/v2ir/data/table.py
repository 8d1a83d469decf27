"""The table of a data set: what somebody already knows about its scenes."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from v2ir.data.scenes import scene_name
from v2ir.errors import DataError
from v2ir.records import SPLITS, Split

TABLE_FILE = "scenes.csv"


@dataclasses.dataclass(frozen=True)
class Known:
    """What a table says about one scene; None where it says nothing.

    Attributes:
        group: Scene group; columns `group` or `scene`.
        split: Part of the data set; column `split`, where `valid` and `validation` are `val`.
        style: Look of the infrared camera; columns `style` or `source`.
        alignment: How well the pair is registered; column `alignment`.
    """

    group: str | None = None
    split: Split | None = None
    style: str | None = None
    alignment: str | None = None


_SPLIT_WORDS: dict[str, Split] = {
    **{split: split for split in SPLITS},
    "valid": "val",
    "validation": "val",
    "training": "train",
    "testing": "test",
}


def read_table(path: Path) -> dict[str, Known]:
    """Read a table of scenes (CSV with a header) by scene name.

    The column `name` is needed; a file name is taken as the scene's name. The columns
    `group` (or `scene`), `split`, `style` (or `source`) and `alignment` are read where they
    exist, and all others are ignored.

    Raises:
        DataError: If the file is missing, has no column `name`, names a split that does not
            exist, or has one name twice with different values.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            columns = [column.strip().lower() for column in reader.fieldnames or []]
            reader.fieldnames = columns
            rows = list(reader)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist", do="check the path given to --groups") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a CSV table in UTF-8", got=str(error)) from error
    if "name" not in columns:
        raise DataError(
            f"{path} has no column `name`",
            got=f"columns {', '.join(columns)}",
            do="name the column that holds the scenes' names `name`",
        )
    table: dict[str, Known] = {}
    for row in rows:
        name, known = _name(row), _known(row, path)
        if table.setdefault(name, known) != known:
            raise DataError(f"{path} has {name} twice with different values", do="remove one row")
    return table


def _name(row: Mapping[str, str | None]) -> str:
    return scene_name(PurePosixPath((row["name"] or "").strip()))


def _known(row: Mapping[str, str | None], path: Path) -> Known:
    def first(*columns: str) -> str | None:
        values = ((row.get(column) or "").strip() for column in columns)
        return next((value for value in values if value), None)

    word = first("split")
    if word is not None and word.lower() not in _SPLIT_WORDS:
        raise DataError(
            f"{path} names a split that does not exist",
            got=f"{word!r} for {row['name']}",
            do=f"use {', '.join(SPLITS)} or leave it empty",
        )
    return Known(
        group=first("group", "scene"),
        split=_SPLIT_WORDS[word.lower()] if word else None,
        style=first("style", "source"),
        alignment=first("alignment"),
    )
