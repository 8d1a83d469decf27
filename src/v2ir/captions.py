"""Captions that users have already: text files, JSON lines, CSV, COCO captions."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from v2ir.errors import DataError, InputError
from v2ir.files import IMAGE_SUFFIXES, read_json, read_jsonl

_NAME_COLUMNS = ("name", "image", "file_name", "filename", "file", "image_id")
_TEXT_COLUMNS = ("caption", "text", "description")


def read_captions(path: Path) -> dict[str, tuple[str, ...]]:
    """Read captions by the path of their image, without its extension.

    Read are a folder of text files (`NAME.txt`, one caption a line; the files
    `NAME_ir.txt` of TxT2IR count for `NAME`), JSON lines with `name` and `caption` or
    `captions`, a CSV file with such columns and a heading, and a JSON file of COCO
    captions (`images` and `annotations`) or of one object `{name: caption}`.

    In JSON lines a captioner's line, or one with a list of `captions`, takes the place of
    earlier lines of its name; several lines with one `caption` each are several captions.

    Raises:
        InputError: If the file is of no such kind or holds no captions.
    """
    if path.is_dir():
        found = _from_folder(path)
    elif path.suffix.lower() in _READERS:
        found = _READERS[path.suffix.lower()](path)
    else:
        raise InputError(
            f"{path} is no file of captions",
            got=f"the extension {path.suffix!r}" if path.exists() else "no such file",
            do=f"give a folder of NAME.txt or a file ending in {', '.join(_READERS)}",
        )
    cleaned = {name: tuple(t.strip() for t in texts if t.strip()) for name, texts in found.items()}
    captions = {name: texts for name, texts in cleaned.items() if texts}
    if not captions:
        raise InputError(
            f"{path} holds no captions",
            got=None if path.exists() else "no such file or folder",
            do='give lines like {"name": "street/1.jpg", "caption": "a street at night"}, '
            "a CSV file with the columns name and caption, COCO captions, "
            "or a folder of NAME.txt",
        )
    return captions


def image_stem(name: str) -> str:
    """Return an image's path without its extension; other dots belong to the name."""
    path = PurePosixPath(name.replace("\\", "/"))
    return (path.with_suffix("") if path.suffix.lower() in IMAGE_SUFFIXES else path).as_posix()


def _from_folder(folder: Path) -> dict[str, list[str]]:
    found = {}
    for file in sorted(folder.rglob("*.txt")):
        name = file.relative_to(folder).as_posix().removesuffix(".txt").removesuffix("_ir")
        found[name] = file.read_text("utf-8", "replace").splitlines()
    return found


def _from_lines(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    own: set[str] = set()
    for row in read_jsonl(path):
        name, texts = _named(row), _texts(row)
        if name is None or not texts:
            continue
        is_own = row.get("annotator", "user") == "user"
        if is_own and name in own and "captions" not in row:
            found[name] += texts
        else:
            found[name] = texts
        (own.add if is_own else own.discard)(name)
    return found


def _from_csv(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
            for row in csv.DictReader(stream):
                name = _named(row)
                if name is not None:
                    found[name] += _texts(row)
    except (OSError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV", got=str(error)) from error
    return found


def _from_json(path: Path) -> dict[str, list[str]]:
    """Read COCO captions, or one object of captions by name.

    Source: Chen et al., Microsoft COCO Captions, 2015: `images` gives file names by
    number, `annotations` one caption each.
    """
    try:
        value = read_json(path)
    except DataError as error:
        raise InputError(error.what, got=error.got, do="give COCO captions") from error
    if isinstance(value, list):
        return _grouped((row, row) for row in value if isinstance(row, dict))
    if not isinstance(value, dict):
        return {}
    if isinstance(value.get("annotations"), list):
        images = {row.get("id"): row for row in value.get("images", ())}
        rows = (row for row in value["annotations"] if isinstance(row, dict))
        return _grouped((images.get(row.get("image_id"), row), row) for row in rows)
    return {
        image_stem(str(name)): [text for text in _as_list(texts) if isinstance(text, str)]
        for name, texts in value.items()
    }


def _grouped(
    rows: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]],
) -> dict[str, list[str]]:
    """Collect the captions of (row with the name, row with the caption) by name."""
    found: dict[str, list[str]] = defaultdict(list)
    for named, captioned in rows:
        name = _named(named)
        if name is not None:
            found[name] += _texts(captioned)
    return found


def _named(row: Mapping[str, Any]) -> str | None:
    given = next((row[key] for key in _NAME_COLUMNS if row.get(key) not in (None, "")), None)
    return None if given is None else image_stem(str(given))


def _texts(row: Mapping[str, Any]) -> list[str]:
    if isinstance(row.get("captions"), list):
        return [text for text in row["captions"] if isinstance(text, str)]
    given = next((row[key] for key in _TEXT_COLUMNS if row.get(key)), None)
    return [given] if isinstance(given, str) else []


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


_READERS: dict[str, Callable[[Path], dict[str, list[str]]]] = {
    ".jsonl": _from_lines,
    ".csv": _from_csv,
    ".json": _from_json,
}
