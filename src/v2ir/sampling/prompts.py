"""Prompts: the texts that infrared scenes are generated from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from v2ir.errors import InputError

_LONGEST_STEM = 48
_TEXT_FIELDS = ("prompt", "caption", "text")


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One text to generate from.

    Attributes:
        text: The text, without white space around it; never empty.
        name: Name that the user gave it, or None.
    """

    text: str
    name: str | None = None

    @property
    def stem(self) -> str:
        """What the names of its pictures begin with: its own name or first words, and a hash.

        The hash is one of the whole text, so two prompts never share a file, and a
        prompt keeps its files wherever it stands in a list.
        """
        parts = PurePosixPath(self.name).parts if self.name else (self.text,)
        slugs = [_slug(part) for part in parts]
        path = "/".join(slug for slug in slugs if slug) or "prompt"
        return f"{path}-{self.hash[:8]}"

    @property
    def hash(self) -> str:
        """SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def _slug(text: str) -> str:
    """Return lower-case letters and digits with hyphens between, cut at a word."""
    words = re.findall(r"[^\W_]+", text.lower())
    slug = ""
    for word in words:
        longer = f"{slug}-{word}" if slug else word[:_LONGEST_STEM]
        if len(longer.encode()) > _LONGEST_STEM:
            break
        slug = longer
    return slug


def read_prompts(path: Path) -> list[Prompt]:
    """Read prompts from a file: .jsonl with one object a line, else one prompt a line.

    Raises:
        InputError: If the file cannot be read, a line is not what it should be, or there
            are no prompts in it.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read as prompts",
            got=str(error),
            do="give a text file in UTF-8 with one prompt a line, or JSON lines",
        ) from error
    return parse_prompts(lines, str(path), json_lines=path.suffix.lower() == ".jsonl")


def parse_prompts(lines: Iterable[str], source: str, *, json_lines: bool) -> list[Prompt]:
    """Read prompts from lines; empty ones are passed over, repeated prompts count once.

    A JSON line holds `prompt` (or `caption`, `text`), or a list of `captions`, and perhaps
    a `name`; so the captions of an annotated data set are prompts as they are.

    Args:
        lines: The lines.
        source: Where they are from, for messages.
        json_lines: Whether every line is a JSON object; otherwise a line is a prompt.

    Raises:
        InputError: If a line is not what it should be, or no prompt is there.
    """
    found: dict[Prompt, None] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if not json_lines:
            found[Prompt(line.strip())] = None
            continue
        for prompt in _from_json(line, f"line {number} of {source}"):
            found[prompt] = None
    if not found:
        raise InputError(
            f"{source} holds no prompts", do="write one prompt a line, such as: a street at night"
        )
    return list(found)


def _from_json(line: str, where: str) -> Iterator[Prompt]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where} is not valid JSON", got=str(error)) from error
    texts = _texts(row) if isinstance(row, dict) else []
    if not texts:
        raise InputError(
            f"{where} holds no prompt",
            got=line.strip()[:80],
            do='write an object such as {"prompt": "a street at night"}',
        )
    name = row.get("name")
    for text in texts:
        yield Prompt(text, str(name) if name not in (None, "") else None)


def _texts(row: dict[str, Any]) -> list[str]:
    several = row.get("captions")
    values = several if isinstance(several, list) else [row.get(key) for key in _TEXT_FIELDS]
    texts = [value.strip() for value in values if isinstance(value, str) and value.strip()]
    return texts if isinstance(several, list) else texts[:1]
