"""A small decoder that makes the pictures of the autoencoder's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from v2ir.model import Model
from v2ir.model.networks import encode_mode
from v2ir.model.small_decoder import SmallDecoder
from v2ir.training.cache import Caches
from v2ir.training.objectives.adversary import PatchDiscriminator, contest, make_judge
from v2ir.training.objectives.perceptual import Distance, make_perceptual
from v2ir.training.objectives.pixels import edge_l1, structural_dissimilarity
from v2ir.training.objectives.reconstruction import Reconstruction
from v2ir.training.objectives.small_parts import small_part
from v2ir.training.scenes import TrainingScene
from v2ir.training.stage import Stage


class DecoderDistillation(Reconstruction):
    """L1 to the autoencoder's own pictures, of their values and of their edges.

    A stage may add 1 - SSIM, a perceptual distance and a patch discriminator that takes the
    autoencoder's pictures for the true ones. Latents are disturbed for both decoders alike,
    because a denoised latent is none that the encoder would give.
    Source: the way of TAESD (Bohan 2023), a small decoder of another's latents.
    """

    PARTS = ("infrared",)
    CHANCES = (1.0,)

    def __init__(self, model: Model, stage: Stage, caches: Caches | None = None) -> None:
        super().__init__(model, stage, caches)
        self.decoder = small_part(
            SmallDecoder, model.decoder, model, stage, stage.decoder_widths, stage.decoder_blocks
        )
        self.modules = {"decoder": self.decoder}
        model.autoencoder.requires_grad_(False)
        self.distance: Distance | None = None
        if stage.perceptual > 0:
            self.distance = make_perceptual(stage.perceptual_network, model.device)
        self.discriminator: PatchDiscriminator | None = None
        if stage.adversarial > 0:
            self.discriminator = make_judge(model.device)
            self.modules["discriminator"] = self.discriminator

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the loss of a batch of crops, (N, 3, crop, crop), and noise for latents."""
        latents, wanted = self._taught(*batch)
        made = self.decoder(self.model.scale_latents(latents)).float()
        loss = F.l1_loss(made, wanted) + 0.5 * edge_l1(made, wanted)
        if self.stage.structure:
            loss = loss + self.stage.structure * structural_dissimilarity(made, wanted)
        if self.distance is not None:
            loss = loss + self.stage.perceptual * self.distance(made, wanted)
        if self.discriminator is None:
            return loss
        kernels = [p for p in self.decoder.parameters() if p.dim() == 4]
        return loss + contest(self.discriminator, made, wanted, loss, kernels[-1], self.stage)

    @torch.no_grad()
    def _taught(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return disturbed latents and the autoencoder's pictures of them, (N, 1, H, W)."""
        latents = encode_mode(self.model.autoencoder, images)
        spread = latents.std(dim=(1, 2, 3), keepdim=True)
        latents = latents + self.LATENT_NOISE * spread * noise.to(latents)
        decoded = self.model.autoencoder.decode(latents).sample.float()
        return latents, decoded.mean(dim=1, keepdim=True)

    def finish(self, scenes: Sequence[TrainingScene]) -> None:
        """Put the small decoder into the model; the latents stay what they were."""
        self.model.decoder = self.decoder.eval().requires_grad_(False)
