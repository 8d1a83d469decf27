"""Files that are whole or absent: atomic writes, hashes, JSON lines, image folders."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO

from v2ir.errors import DataError, OutputError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears under `path` only when the block ends without an error.

    The bytes go to a neighbour of `path` first and are renamed over it at the end, so a
    killed process or a full disk leaves what was there before.

    Raises:
        OutputError: If the folder cannot be made or the bytes cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name[:80]}.", suffix=".part", dir=path.parent
        )
    except OSError as error:
        raise _cannot_write(path, error) from error
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise _cannot_write(path, error) from error
    finally:
        part.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _cannot_write(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write {path}",
        got=error.strerror or str(error),
        do="check the free space and the permissions of the folder; what was written stays valid",
    )


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_write(path) as stream:
        stream.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path` atomically."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: If the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist", do="check the path") from error
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON", got=str(error)) from error


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line to `path` atomically."""
    with atomic_write(path) as stream:
        for row in rows:
            stream.write((json.dumps(row, ensure_ascii=False) + "\n").encode())


def append_jsonl(path: Path, row: Mapping[str, Any]) -> None:
    """Append one JSON object as a line; safe with several writing processes.

    The line is written by one `write` call on a descriptor opened for appending, under a
    lock where the system has one. A torn last line (left by a killed process) is closed
    first, so it can never swallow the new one.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
        with path.open("ab+", buffering=0) as stream:
            _lock(stream)
            if stream.seek(0, os.SEEK_END) > 0:
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":
                    line = b"\n" + line
            if os.write(stream.fileno(), line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise _cannot_write(path, error) from error


def _lock(stream: IO[bytes]) -> None:
    """Keep other writers of a file waiting until the stream is closed."""
    try:
        import fcntl
    except ImportError:  # a system without it; lines still stay whole
        return
    with contextlib.suppress(OSError):  # a network disk without locks
        fcntl.flock(stream, fcntl.LOCK_EX)


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a file of lines; a torn line (killed writer) is skipped."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict):
                    yield row


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def image_paths(folder: Path) -> list[Path]:
    """Return the files below `folder` that are named like images, sorted by path.

    Hidden files and folders are passed over.
    """
    found = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    visible = (p for p in found if not any(x.startswith(".") for x in p.relative_to(folder).parts))
    return sorted(path for path in visible if path.is_file())
