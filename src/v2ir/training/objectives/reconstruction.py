"""The autoencoder's objective."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v2ir.data import random_resized_crop
from v2ir.images import to_tensor
from v2ir.model import Model
from v2ir.model.networks import encode_mode
from v2ir.records import Progress
from v2ir.training.cache import Caches
from v2ir.training.objectives.objective import part_hash, read_part
from v2ir.training.scenes import TrainingScene
from v2ir.training.stage import Stage
from v2ir.training.variants import Variant


class Reconstruction:
    """The autoencoder's objective: the image back, with its edges.

    The loss is the mean absolute error of the values and of their differences between
    neighbours. Relative noise on the latent makes the decoder forgive the small errors
    of a denoised latent.
    """

    PARTS = ("infrared", "visible", "segmentation")
    CHANCES = (0.6, 0.3, 0.1)
    LATENT_NOISE = 0.05

    def __init__(self, model: Model, stage: Stage, caches: Caches | None = None) -> None:
        self.model = model
        self.stage = stage
        self.modules: dict[str, nn.Module] = {"autoencoder": model.autoencoder}

    def batch(self, scenes: Sequence[TrainingScene], generator: np.random.Generator) -> Tensor:
        """Return random crops of the scenes' images, (N, 3, crop, crop) in [-1, 1]."""
        return torch.stack([self._crop(item, generator) for item in scenes])

    def _crop(self, item: TrainingScene, generator: np.random.Generator) -> Tensor:
        part = self.PARTS[generator.choice(len(self.PARTS), p=self.CHANCES)]
        if part_hash(item, part) is None:
            part = "infrared"
        (view,) = random_resized_crop(
            [read_part(item, part)],
            self.stage.crop,
            scales=self.stage.scales,
            flip=0.5,
            generator=generator,
        )
        return to_tensor(view)

    def loss(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Return the reconstruction loss of (N, 3, H, W)."""
        latents = encode_mode(self.model.autoencoder, batch)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        latents = latents + self.LATENT_NOISE * latents.detach().std() * noise
        decoded = self.model.autoencoder.decode(latents).sample.float()
        across = F.l1_loss(decoded.diff(dim=-1), batch.diff(dim=-1))
        down = F.l1_loss(decoded.diff(dim=-2), batch.diff(dim=-2))
        return F.l1_loss(decoded, batch) + 0.5 * (across + down)

    def prepare(self, scenes: Sequence[TrainingScene], progress: Progress) -> None:
        """Do nothing: crops are cut anew in every step."""

    @torch.no_grad()
    def finish(self, scenes: Sequence[TrainingScene]) -> None:
        """Measure each channel of the infrared latents, so that they get unit variance.

        One factor for all channels (Rombach et al. 2022, Appendix G) is not enough where
        the channels have different means, as those of a small autoencoder do.
        """
        step = max(1, len(scenes) // 64)
        values = []
        for item in scenes[::step]:
            pixels = Variant(self.stage.crop, False, self.model.card.factor).apply(
                read_part(item, "infrared")
            )
            latent = encode_mode(self.model.autoencoder, to_tensor(pixels)[None])
            values.append(latent[0].flatten(1))
        channels = torch.cat(values, dim=1).double()
        self.model.card = self.model.card.model_copy(
            update={
                "latent_mean": tuple(channels.mean(dim=1).tolist()),
                "latent_std": tuple(channels.std(dim=1).tolist()),
            }
        )
