"""Plain regression: one U-Net, from the visible picture to the infrared one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from v2ir.errors import ModelError
from v2ir.images import to_tensor
from v2ir.model import Model, NetworkDenoiser
from v2ir.training.cache import Caches, LatentCache
from v2ir.training.objectives.denoising import Denoising, DenoisingBatch
from v2ir.training.stage import Stage
from v2ir.training.variants import Variant


class PixelViews(LatentCache):
    """Views of pictures in place of their latents: cut anew, since pixels need no encoder.

    Args:
        kept: The cache of latents that it stands for.
        encode: Folds a picture (1, 3, H, W) losslessly.
    """

    def __init__(self, kept: LatentCache, encode: Callable[[Tensor], Tensor]) -> None:
        self.store, self.encoder_hash, self.computed = kept.store, kept.encoder_hash, 0
        self.encode = encode

    def holds(self, image_hash: str, variant: Variant) -> bool:
        """Return True: there is nothing to compute ahead."""
        return True

    def get(self, image_hash: str, variant: Variant, read: Callable[[], np.ndarray]) -> Tensor:
        """Return the view of a picture in [-1, 1] as the network takes it, (c, h, w)."""
        return self.encode(to_tensor(variant.apply(read()))[None])[0]


class Regression(Denoising):
    """The mean absolute error of the picture that the network makes from zeros.

    The loader is that of the denoiser: the same scenes, views, crops and styles for the same
    seed; so the two differ in the network's task alone. The network is asked once, at the
    last timestep, with zeros in the noise's place.
    """

    def __init__(self, model: Model, stage: Stage, caches: Caches) -> None:
        if type(model.autoencoder).__name__ != "PixelAutoencoder":
            raise ModelError(
                f"the objective {stage.objective} works on pixels",
                got=type(model.autoencoder).__name__,
                do="use an architecture on pixels, such as pixels-mini",
            )
        autoencoder = model.autoencoder  # the model may let go of it while it rests
        views = PixelViews(caches.latents, lambda pictures: autoencoder.encode(pictures).latent)
        super().__init__(model, stage, dataclasses.replace(caches, latents=views))
        self.unfold = lambda latents: autoencoder.decode(latents).sample

    def loss(self, batch: DenoisingBatch) -> Tensor:
        """Return the mean absolute error over a batch."""
        return F.l1_loss(self.made(batch), self.true(batch))

    def made(self, batch: DenoisingBatch) -> Tensor:
        """Return the pictures that the network makes, (N, 1, H, W)."""
        last = torch.full_like(batch.timesteps, self.schedule.num_timesteps - 1)
        denoiser = NetworkDenoiser(self.model.unet, None)
        return self.picture(
            denoiser(torch.zeros_like(batch.clean), last, self.conditions(batch)).float()
        )

    def true(self, batch: DenoisingBatch) -> Tensor:
        """Return the true infrared pictures, (N, 1, H, W) in [-1, 1]."""
        return self.picture(batch.clean)

    def picture(self, latents: Tensor) -> Tensor:
        """Unfold (N, c, h, w) to grey pictures, (N, 1, H, W)."""
        return self.unfold(latents).mean(dim=1, keepdim=True)

    def _timesteps(self, draws: Sequence[object]) -> Tensor:
        return torch.full((len(draws),), self.schedule.num_timesteps - 1)
