"""What a stage minimises. The loop knows objectives only by this protocol."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from v2ir.data import random_resized_crop
from v2ir.images import read_infrared, read_map, read_visible, to_tensor, to_uint8
from v2ir.model import Model
from v2ir.records import Progress
from v2ir.training.scenes import TrainingScene
from v2ir.training.stage import Stage


@dataclasses.dataclass(frozen=True)
class Draw:
    """Where the random choices of one sample come from.

    Attributes:
        position: Place of the sample in the whole stage, from 0.
        generator: Its own generator; so a sample does not depend on its batch.
    """

    position: int
    generator: np.random.Generator

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Draw standard normal noise in float32."""
        return torch.from_numpy(self.generator.standard_normal(tuple(shape), dtype=np.float32))


class Objective(Protocol):
    """A loss over batches of scenes.

    Attributes:
        model: The model in training.
        modules: The networks whose weights change, by part.
        needs: Names of the parts of the model that the loss uses.
    """

    model: Model
    modules: dict[str, nn.Module]
    needs: frozenset[str]

    def batch(self, scenes: Sequence[TrainingScene], draws: Sequence[Draw]) -> Any:
        """Read and compose a batch, noise and timesteps included; all draws are made here."""

    def loss(self, batch: Any) -> Tensor:
        """Return the mean loss of a batch."""

    def prepare(self, scenes: Sequence[TrainingScene], progress: Progress) -> None:
        """Compute once what every batch needs, before the first step."""

    def unprepared(self, scenes: Sequence[TrainingScene]) -> list[TrainingScene]:
        """Return the scenes for which `prepare` has something to compute."""

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


def random_crop(item: TrainingScene, part: str, stage: Stage, draw: Draw) -> Tensor:
    """Return a random crop of one of a scene's images, (3, crop, crop) in [-1, 1].

    Resized within the stage's scales, and mirrored every second time.
    """
    (view,) = random_resized_crop(
        [read_part(item, part)],
        stage.crop,
        scales=stage.scales,
        flip=0.5,
        generator=draw.generator,
    )
    return to_tensor(view)
