"""Many tensors in few files: shards of safetensors, found by content.

A shard is written whole and never changed, so several processes may write into one folder
without knowing of each other, and a run that is killed loses what it had not written yet.
In memory an entry costs 44 bytes: 6 million entries, which 500,000 scenes with three images
in four variants have, are 264 MB.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from v2ir.files import write_bytes

logger = logging.getLogger(__name__)

SHARD_BYTES = 32 * 1024**2
_ENTRY = np.dtype(
    [("key", "<u8"), ("check", "<u8"), ("shard", "<i4"), ("start", "<i8"), ("shape", "<i4", (4,))]
)
_OPEN = 256


class ShardStore:
    """Half precision tensors of up to four dimensions, by text keys.

    Attributes:
        folder: Where the shards are.
        shard_bytes: Size from which on a shard is written.
    """

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder = folder
        self.shard_bytes = shard_bytes
        self._lock = threading.RLock()
        self._pending: dict[str, Tensor] = {}
        self._pending_bytes = 0
        self._shards: list[Path] = []
        self._known: set[str] = set()
        self._table = np.empty(0, _ENTRY)
        self._open: dict[int, np.ndarray] = {}
        self.refresh()

    def __len__(self) -> int:
        """Number of entries that are on disk."""
        return len(self._table)

    def get(self, key: str) -> Tensor | None:
        """Return a tensor in float32, or None if it is not there."""
        digest = _digest(key)
        with self._lock:
            if digest in self._pending:
                return self._pending[digest].float()
            entry = self._find(digest)
            if entry is None and self.refresh():
                entry = self._find(digest)
            return None if entry is None else self._read(entry)

    def __contains__(self, key: str) -> bool:
        """Whether there is an entry."""
        digest = _digest(key)
        with self._lock:
            return digest in self._pending or self._find(digest) is not None

    def put(self, key: str, value: Tensor) -> Tensor:
        """Keep a tensor, and return it as it will be read."""
        kept = value.detach().half().cpu().contiguous().clone()
        with self._lock:
            self._pending[_digest(key)] = kept
            self._pending_bytes += kept.numel() * kept.element_size()
            if self._pending_bytes >= self.shard_bytes:
                self.flush()
        return kept.float()

    def flush(self) -> None:
        """Write what is not on disk yet."""
        from safetensors.torch import save

        with self._lock:
            if not self._pending:
                return
            path = self.folder / f"{uuid.uuid4().hex}.safetensors"
            write_bytes(path, save(self._pending))
            self._pending, self._pending_bytes = {}, 0
            self.refresh()

    def refresh(self) -> bool:
        """Look for shards that are new, of other processes too; return if there were any."""
        with self._lock:
            if not self.folder.is_dir():
                return False
            names = {e.name for e in os.scandir(self.folder) if e.name.endswith(".safetensors")}
            new = sorted(names - self._known)
            if not new:
                return False
            tables = [self._table, *(self._read_table(self.folder / name) for name in new)]
            table = np.concatenate(tables)
            self._table = table[np.argsort(table["key"], kind="stable")]
            return True

    def _read_table(self, path: Path) -> np.ndarray:
        """Return the entries of a shard; a torn one has none, and is written anew."""
        self._known.add(path.name)
        try:
            rows = list(_entries(path))
        except (OSError, ValueError, KeyError) as error:
            logger.warning("%s cannot be read and is left out: %s", path, error)
            return np.empty(0, _ENTRY)
        self._shards.append(path)
        table = np.zeros(len(rows), _ENTRY)
        for row, (digest, start, shape) in zip(table, rows, strict=True):
            row["key"], row["check"] = _halves(digest)
            row["shard"], row["start"] = len(self._shards) - 1, start
            row["shape"][: len(shape)] = shape
        return table

    def _find(self, digest: str) -> np.void | None:
        key, check = _halves(digest)
        place = int(np.searchsorted(self._table["key"], np.uint64(key)))
        while place < len(self._table) and int(self._table[place]["key"]) == key:
            if int(self._table[place]["check"]) == check:
                return self._table[place]
            place += 1
        return None

    def _read(self, entry: np.void) -> Tensor:
        shard = int(entry["shard"])
        if shard not in self._open:
            if len(self._open) >= _OPEN:
                self._open.pop(next(iter(self._open)))
            self._open[shard] = np.memmap(self._shards[shard], np.uint8, "r")
        shape = [int(side) for side in entry["shape"] if side]
        start = int(entry["start"])
        raw = self._open[shard][start : start + 2 * int(np.prod(shape))]
        return torch.from_numpy(raw.copy()).view(torch.float16).view(shape).float()


def _entries(path: Path) -> Iterator[tuple[str, int, list[int]]]:
    """Yield (digest, first byte in the file, shape) of a safetensors file's entries."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        size = os.fstat(file.fileno()).st_size
        if not 0 < length < size:
            raise ValueError("it is cut short")
        header = json.loads(file.read(length))
    for name, facts in header.items():
        if name == "__metadata__":
            continue
        start, end = facts["data_offsets"]
        if facts["dtype"] != "F16" or 8 + length + end > size or len(facts["shape"]) > 4:
            raise ValueError(f"its entry {name} is not valid")
        yield name, 8 + length + start, facts["shape"]


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def _halves(digest: str) -> tuple[int, int]:
    return int(digest[:16], 16), int(digest[16:32], 16)
