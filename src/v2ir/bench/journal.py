"""The report of a bench, written after every sample, so that an interruption loses nothing."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from v2ir.errors import RunError
from v2ir.files import read_json, write_json
from v2ir.records import JsonRecord

REPORT_NAME = "bench.json"
Cell = str | float | int | None


@dataclasses.dataclass(frozen=True)
class Sample(JsonRecord):
    """One timed run of a task.

    Attributes:
        wall: Seconds of real time.
        processor: Seconds of processor time of this process, all threads together.
        images: Images that the run made.
        peak: Peak memory in bytes during the run: of the process on a CPU, of the
            tensors on an accelerator; None where the system does not tell.
        load: The machine's load average of the last minute when the run ended, this
            process included.
        parts: Seconds by part of the run, where they were taken apart.
    """

    wall: float
    processor: float
    images: int = 1
    peak: int | None = None
    load: float | None = None
    parts: dict[str, float] | None = None


@dataclasses.dataclass(frozen=True)
class Section:
    """One finished table of the report.

    Attributes:
        name: Name of the part that made it.
        title: What the table shows.
        columns: Names of the columns with their units.
        rows: One cell a column; None where there is nothing to say.
        notes: How to read it.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the section with each row as an object by column."""
        rows = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        fields = {"title": self.title, "columns": list(self.columns), "rows": rows}
        return {**fields, "notes": list(self.notes)}

    @classmethod
    def from_json(cls, name: str, values: Mapping[str, Any]) -> Section:
        """Build a section from the report."""
        columns = tuple(values["columns"])
        rows = tuple(tuple(row[column] for column in columns) for row in values["rows"])
        return cls(name, values["title"], columns, rows, tuple(values["notes"]))


class Journal:
    """Samples and sections of one bench, in memory and in `FOLDER/bench.json`.

    Args:
        folder: Folder of the report, or None to keep it in memory alone.
        settings: What the samples depend on; a report made with others is refused.
        machine: Facts about the machine; a report of another machine is refused.
        again: Forget what the folder holds.

    Raises:
        RunError: If the folder holds a report of other settings or another machine.
        DataError: If the report in the folder is not valid JSON.
    """

    def __init__(
        self,
        folder: Path | None,
        settings: Mapping[str, Any],
        machine: Mapping[str, Any],
        *,
        again: bool = False,
    ) -> None:
        self.path = folder / REPORT_NAME if folder else None
        self.settings, self.machine = dict(settings), dict(machine)
        self.began = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.changed = False
        self._samples: dict[str, list[Sample]] = {}
        self._sections: dict[str, Section] = {}
        if self.path and self.path.exists() and not again:
            self._load(read_json(self.path))

    def _load(self, found: Mapping[str, Any]) -> None:
        for what, mine in (("settings", self.settings), ("machine", self.machine)):
            theirs = found.get(what)
            if theirs != mine:
                raise RunError(
                    f"{self.path} holds a bench of other {what}",
                    got=_difference(theirs, mine),
                    do="give another folder for the report, or --again to measure anew",
                )
        self.began = found["began"]
        self._samples = {
            name: [Sample.from_json(row) for row in rows] for name, rows in found["samples"].items()
        }
        self._sections = {
            name: Section.from_json(name, values) for name, values in found["sections"].items()
        }

    def samples(self, name: str) -> list[Sample]:
        """Return the samples of a task, in the order of the rounds."""
        return list(self._samples.get(name, ()))

    def add(self, name: str, sample: Sample) -> None:
        """Keep a sample; it is on disk when this returns.

        Raises:
            OutputError: If the disk refuses.
        """
        self._samples.setdefault(name, []).append(sample)
        self._write()

    @property
    def sections(self) -> Sequence[Section]:
        """The tables so far."""
        return list(self._sections.values())

    def put(self, section: Section) -> None:
        """Keep a table, in the place of an earlier one of its name.

        Raises:
            OutputError: If the disk refuses.
        """
        if self._sections.get(section.name) != section:
            self._sections[section.name] = section
            self._write()

    def _write(self) -> None:
        self.changed = True
        if self.path:
            write_json(self.path, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the whole report."""
        return {
            "began": self.began,
            "settings": self.settings,
            "machine": self.machine,
            "sections": {name: each.to_json() for name, each in self._sections.items()},
            "samples": {
                name: [sample.to_json() for sample in rows] for name, rows in self._samples.items()
            },
        }


def _difference(theirs: Any, mine: Mapping[str, Any]) -> str:
    if not isinstance(theirs, Mapping):
        return repr(theirs)
    keys = sorted(key for key in {*theirs, *mine} if theirs.get(key) != mine.get(key))
    return ", ".join(f"{key} {theirs.get(key)!r} instead of {mine.get(key)!r}" for key in keys)
