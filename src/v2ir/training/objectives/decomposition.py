"""The decomposition of infrared pictures: how it is learned, and how it judges others.

First a stage trains the network that tells temperature, emissivity and environment, on
infrared images alone. Then it rests, and a stage that denoises asks the generated picture to
rebuild itself from its parts and to have the parts of the true one.
Source: Mao et al. 2024 (PID). In its released code both terms are computed without gradients,
the decoding included, so they are logged and do not train; here they do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from v2ir.data import random_resized_crop
from v2ir.errors import ModelError
from v2ir.images import to_tensor
from v2ir.model import Model
from v2ir.model.decomposition import Decomposition, DecompositionNetwork
from v2ir.records import Progress
from v2ir.seeding import own_seed
from v2ir.training.cache import Caches
from v2ir.training.objectives.objective import Draw, read_part
from v2ir.training.scenes import TrainingScene
from v2ir.training.stage import Stage


class Decomposing:
    """The decomposition network's objective: the picture rebuilt, from smooth parts.

    The squared error of the rebuilt picture, and `smoothness` times the total variation of
    the parts: surfaces have one material and one environment over many pixels. Without it
    e = 1 and T = S rebuilds everything and tells nothing.
    """

    needs: frozenset[str] = frozenset()

    def __init__(self, model: Model, stage: Stage, caches: Caches | None = None) -> None:
        self.model = model
        self.stage = stage
        if model.decomposition is None:
            with own_seed():
                model.decomposition = DecompositionNetwork(stage.patches).to(model.device)
        self.modules: dict[str, nn.Module] = {"decomposition": model.decomposition}

    def batch(self, scenes: Sequence[TrainingScene], draws: Sequence[Draw]) -> Tensor:
        """Return random crops, (N, 1, crop, crop) in [0, 1]."""
        pairs = zip(scenes, draws, strict=True)
        return torch.stack([self._crop(item, draw.generator) for item, draw in pairs])

    def _crop(self, item: TrainingScene, generator: np.random.Generator) -> Tensor:
        pixels, stage = read_part(item, "infrared"), self.stage
        (view,) = random_resized_crop(
            [pixels], stage.crop, scales=stage.scales, flip=0.5, generator=generator
        )
        return (to_tensor(view)[:1] + 1) / 2

    def loss(self, batch: Tensor) -> Tensor:
        """Return the loss of pictures (N, 1, H, W) in [0, 1]."""
        parts: Decomposition = self.model.decomposition(batch)
        rebuilding = (parts.rebuild(batch) - batch).square().mean()
        return rebuilding + self.stage.smoothness * total_variation(parts.planes)

    def prepare(self, scenes: Sequence[TrainingScene], progress: Progress) -> None:
        """Do nothing: crops are cut anew in every step."""

    def unprepared(self, scenes: Sequence[TrainingScene]) -> list[TrainingScene]:
        """Return no scene: nothing is computed ahead."""
        return []

    def finish(self, scenes: Sequence[TrainingScene]) -> None:
        """Do nothing: the network is a part of the model."""


def total_variation(planes: Tensor) -> Tensor:
    """Return the mean absolute difference between neighbours of (N, C, H, W), both ways."""
    return planes.diff(dim=-1).abs().mean() + planes.diff(dim=-2).abs().mean()


def decomposition_errors(
    network: DecompositionNetwork, made: Tensor, true: Tensor, rebuilding: float = 1.0
) -> Tensor:
    """Return how far each picture's parts are from the true one's, (K,).

    The mean squared difference of e, T and V, and `rebuilding` times that of the made
    picture from the one that is rebuilt of its parts. The second alone is not 0 for the true
    picture, as the network is not perfect; so what it leaves of that one is taken off.

    Args:
        network: The network at rest.
        made: Decoded pictures in about [-1, 1], (K, 1, H, W).
        true: True pictures in [-1, 1], (K, 1, H, W).
        rebuilding: Weight of the second term. Source: PID, 1 for FLIR and 10 for KAIST.
    """
    made, true = ((pictures.clamp(-1, 1) + 1) / 2 for pictures in (made, true))
    parts: Decomposition = network(made)
    with torch.no_grad():
        wanted: Decomposition = network(true)
        left = _squared(wanted.rebuild(true), true)
    unlike = _squared(parts.planes, wanted.planes)
    return unlike + rebuilding * (_squared(parts.rebuild(made), made) - left).clamp_min(0.0)


def _squared(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).square().mean(dim=(1, 2, 3))


def resting_network(model: Model) -> DecompositionNetwork:
    """Return a model's decomposition network, frozen.

    Raises:
        ModelError: If it has none.
    """
    if model.decomposition is None:
        raise ModelError(
            f"the model {model.card.name} has no decomposition network",
            do="run a stage with the objective decomposition first, such as the one of the "
            "recipe mini-thermal-decomposition",
        )
    network: DecompositionNetwork = model.decomposition
    return network.requires_grad_(False)
