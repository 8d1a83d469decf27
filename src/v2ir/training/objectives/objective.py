"""What a stage minimises. The loop knows objectives only by this protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from v2ir.images import read_infrared, read_map, read_visible, to_uint8
from v2ir.model import Model
from v2ir.records import Progress
from v2ir.training.scenes import TrainingScene


class Objective(Protocol):
    """A loss over batches of scenes.

    Attributes:
        model: The model in training.
        modules: The networks whose weights change, by part.
    """

    model: Model
    modules: dict[str, nn.Module]

    def batch(self, scenes: Sequence[TrainingScene], generator: np.random.Generator) -> Any:
        """Read and compose a batch; every random choice comes from the generator."""

    def loss(self, batch: Any, generator: torch.Generator) -> Tensor:
        """Return the mean loss of a batch; noise and timesteps come from the generator."""

    def prepare(self, scenes: Sequence[TrainingScene], progress: Progress) -> None:
        """Compute once what every batch needs, before the first step."""

    def finish(self, scenes: Sequence[TrainingScene]) -> None:
        """Do what is left when the weights are final."""


def read_part(item: TrainingScene, part: str) -> np.ndarray:
    """Read one image of a scene: `infrared` and `segmentation` HW, `visible` HWC, uint8."""
    scene, root = item.scene, item.root
    if part == "visible" and scene.visible:
        return read_visible(root / scene.visible)
    if part == "infrared" and scene.infrared:
        return to_uint8(read_infrared(root / scene.infrared))
    if part == "segmentation" and item.segmentation:
        return read_map(item.segmentation)
    raise ValueError(f"{scene.name} has no {part} image")


def part_hash(item: TrainingScene, part: str) -> str | None:
    """Return the hash of an image of a scene, or None where there is no such image."""
    if part == "segmentation":
        return item.segmentation_hash
    return item.scene.visible_hash if part == "visible" else item.scene.infrared_hash
