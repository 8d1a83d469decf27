"""Captions on disk: `captions.jsonl`, last line wins, and the user's `captions/NAME.txt`."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path, PurePosixPath
from typing import Any

from v2ir.annotation.provenance import USER, Provenance
from v2ir.annotators import Described
from v2ir.data.scenes import scene_name
from v2ir.errors import InputError, OutputError
from v2ir.files import append_jsonl
from v2ir.records import JsonRecord

logger = logging.getLogger(__name__)

CAPTIONS_FILE = "captions.jsonl"
CAPTIONS_FOLDER = "captions"


@dataclasses.dataclass(frozen=True)
class CaptionRecord(JsonRecord):
    """The captions of one scene and where they come from.

    Attributes:
        name: Name of the scene.
        captions: Captions, the best first.
        annotator: Name of the captioner; `user` for the user's own.
        version: Version of the captioner.
        image_hash: SHA-256 of the captioned file's bytes.
        replaces_user: Whether the user asked to put this in place of own captions.
        structure: The description by fields that the captions word, where there is one.
        note: What was unusual about the captioner's answer.
    """

    name: str
    captions: tuple[str, ...]
    annotator: str = USER
    version: str = ""
    image_hash: str = ""
    replaces_user: bool = False
    structure: dict[str, Any] | None = None
    note: str = ""

    @property
    def provenance(self) -> Provenance:
        """Who made the captions, from which image."""
        return Provenance(self.annotator, self.version, self.image_hash)


class CaptionFile:
    """The captions of a data set.

    Memory holds one number per scene: where its line starts. Lines that other processes
    append are seen at the next look. A user's lines need only `name` and `caption` (or
    `captions`); several lines of one name are several captions. A later line of a
    captioner takes the place of all earlier ones of its name.

    Args:
        root: Folder of the data set.
    """

    def __init__(self, root: Path) -> None:
        self.path = root / CAPTIONS_FILE
        self.folder = root / CAPTIONS_FOLDER
        self._made: dict[str, int] = {}
        self._own: dict[str, list[int]] = {}
        self._end = 0

    def get(self, name: str) -> CaptionRecord | None:
        """Return the captions of a scene, or None.

        A text file of the user counts before the lines, unless a line was put in its
        place on demand.
        """
        self._refresh()
        made = self._made.get(name)
        record = _record(self._line(made)) if made is not None else None
        if record is not None and record.replaces_user:
            return record
        own = self._text_file(name) or self._own_lines(name)
        return CaptionRecord(name, own) if own else record

    def put(self, name: str, found: Described, source: Provenance, *, force: bool) -> None:
        """Append the captions of a scene as one line.

        Raises:
            InputError: If there is no caption, or one is empty.
            OutputError: If the user's own captions are there and `force` is not given, or
                the line cannot be written.
        """
        captions = found.captions
        if not captions or not all(caption.strip() for caption in captions):
            raise InputError(f"empty caption for {name}", got=repr(list(captions)))
        there = self.get(name)
        replaces = there is not None and (
            there.provenance.is_user or (there.replaces_user and bool(self._text_file(name)))
        )
        if there is not None and there.provenance.is_user and not force:
            raise OutputError(f"{name} has captions of your own", do="use force to replace them")
        record = CaptionRecord(
            name,
            captions,
            **source.to_json(),
            replaces_user=replaces,
            structure=found.structure,
            note=found.note,
        )
        unset = {"replaces_user": False, "note": ""}
        row = {k: v for k, v in record.to_json().items() if k not in unset or v != unset[k]}
        append_jsonl(self.path, row)

    def _text_file(self, name: str) -> tuple[str, ...]:
        # Captions of an infrared image are also found under the name that TxT2IR gives them.
        paths = (self.folder / f"{name}{ending}.txt" for ending in ("", "_ir"))
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            return ()
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        return tuple(line.strip() for line in lines if line.strip())

    def _own_lines(self, name: str) -> tuple[str, ...]:
        rows = (self._line(offset) for offset in self._own.get(name, ()))
        return tuple(caption for row in rows if row for caption in _captions(row))

    def _line(self, offset: int) -> dict[str, Any] | None:
        with self.path.open("rb") as stream:
            stream.seek(offset)
            return _parsed(stream.readline())

    def _refresh(self) -> None:
        """Take in the lines that were appended since the last look."""
        size = self.path.stat().st_size if self.path.is_file() else 0
        if size < self._end:  # The file was replaced by a shorter one.
            self._made, self._own, self._end = {}, {}, 0
        if size == self._end:
            return
        with self.path.open("rb") as stream:
            stream.seek(self._end)
            for line in stream:
                # A line without an end may be half written; a user's last line is whole.
                if line.endswith(b"\n") or _parsed(line):
                    self._take(line, self._end)
                    self._end += len(line)

    def _take(self, line: bytes, offset: int) -> None:
        row = _parsed(line)
        if row is None or not _captions(row) or not isinstance(row.get("name"), str):
            if line.strip():
                logger.warning("%s: passed over a line without name and caption", self.path)
            return
        name = scene_name(PurePosixPath(row["name"]))
        if row.get("annotator", USER) == USER:
            self._made.pop(name, None)
            self._own.setdefault(name, []).append(offset)
        else:
            self._own.pop(name, None)
            self._made[name] = offset


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _captions(row: dict[str, Any]) -> tuple[str, ...]:
    """Return the captions of a line; anything that is not text is passed over."""
    listed = row.get("captions", [row.get("caption")])
    if not isinstance(listed, list):
        return ()
    return tuple(text.strip() for text in listed if isinstance(text, str) and text.strip())


def _record(row: dict[str, Any] | None) -> CaptionRecord | None:
    if row is None:
        return None
    return CaptionRecord.from_json({**row, "captions": _captions(row)})
