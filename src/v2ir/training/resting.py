"""Parts of a model that a stage does not need, out of memory while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from v2ir.model import Model
from v2ir.model.folder import find_model, load_part

PARTS = ("autoencoder", "text_encoder", "image_encoder")


class Resting:
    """The parts of a model that a stage leaves alone.

    Args:
        model: The model.
        needs: Names of the parts that the objective uses.
        source: Model folder or name that the parts can be read from again; without one
            they stay where they are.
        device: Where the parts belong.
    """

    def __init__(
        self, model: Model, needs: frozenset[str], source: str | Path | None, device: torch.device
    ) -> None:
        self.model = model
        self.source = None if source is None else find_model(source)
        self.device = device
        here = [name for name in PARTS if getattr(model, name) is not None]
        self.names = () if source is None else tuple(n for n in here if n not in needs)

    def unload(self) -> None:
        """Let go of the parts."""
        for name in self.names:
            self.model.unload(name)

    def load(self) -> None:
        """Read the parts again."""
        assert self.source is not None or not self.names
        for name in self.names:
            if getattr(self.model, name) is None and self.source is not None:
                setattr(self.model, name, load_part(self.source, name).to(self.device))

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Have the parts in memory for the length of a block."""
        self.load()
        try:
            yield
        finally:
            self.unload()
