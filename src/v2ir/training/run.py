"""The run folder: resolved recipe, log, sample grids, checkpoints, a model for each stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from v2ir.errors import RunError
from v2ir.files import append_jsonl, read_json, write_json
from v2ir.model.folder import CARD_NAME
from v2ir.training.stage import Recipe


class Run:
    """A run folder.

    Attributes:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: Any = None

    @property
    def checkpoints(self) -> Path:
        """Folder of the last checkpoints."""
        return self.folder / "checkpoints"

    @property
    def samples(self) -> Path:
        """Folder of the sample grids."""
        return self.folder / "samples"

    def model(self, stage: str) -> Path:
        """Folder of the model that a stage ends with."""
        return self.folder / "models" / stage

    def is_finished(self, stage: str) -> bool:
        """Whether a stage has ended and its model is complete."""
        return (self.model(stage) / CARD_NAME).is_file()

    def open(self, recipe: Recipe) -> None:
        """Start the run, or continue it if it has the same recipe.

        Raises:
            RunError: If the folder holds a run of another recipe; the differing fields
                are listed.
        """
        path = self.folder / "recipe.json"
        wanted = recipe.model_dump(mode="json")
        if path.exists():
            differing = list(_differences(read_json(path), wanted))
            if differing:
                raise RunError(
                    f"{self.folder} holds a run of another recipe",
                    got="; ".join(differing[:10]),
                    do="give another run folder, or the recipe that the run was started with",
                )
            return
        write_json(path, wanted)

    def log(self, stage: str, step: int, scalars: dict[str, float]) -> None:
        """Append scalars to `log.jsonl` and to the TensorBoard events."""
        row = {"time": round(time.time(), 3), "stage": stage, "step": step, **scalars}
        append_jsonl(self.folder / "log.jsonl", row)
        if self._writer is not None:
            for name, value in scalars.items():
                self._writer.add_scalar(f"{stage}/{name}", value, step)

    @contextmanager
    def events(self) -> Iterator[None]:
        """Write TensorBoard events for the length of a block."""
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer = SummaryWriter(str(self.folder / "events"))
        try:
            yield
        finally:
            self._writer.close()
            self._writer = None


def _differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """Yield the places where two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{where}.{key}".lstrip("."))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (left, right) in enumerate(zip(old, new, strict=True)):
            yield from _differences(left, right, f"{where}[{index}]")
    elif old != new:
        yield f"{where}: {old} -> {new}"
