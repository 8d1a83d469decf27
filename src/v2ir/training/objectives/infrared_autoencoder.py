"""The infrared autoencoder's objective: a picture of one channel through a KL posterior."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from v2ir.errors import ModelError
from v2ir.model import Model
from v2ir.model.networks import match_channels
from v2ir.training.cache import Caches
from v2ir.training.objectives.adversary import PatchDiscriminator, contest, make_judge
from v2ir.training.objectives.perceptual import Distance, make_perceptual
from v2ir.training.objectives.pixels import structural_dissimilarity
from v2ir.training.objectives.reconstruction import Reconstruction
from v2ir.training.stage import Stage


class InfraredAutoencoder(Reconstruction):
    """L1 + structure x (1 - SSIM) + perceptual + kl x KL + adversarial, on infrared alone.

    The latent is drawn from the posterior. A stage with `adversarial` above zero has a
    patch discriminator, so its delayed start is a stage of its own after one without. Its
    weight is a multiple of the ratio of both losses' gradients at the decoder's last layer.

    Source: TxT2IR's released code, after Rombach et al. 2022, Sec. 3.1 and Appendix G, and
    Esser et al. 2021, Eq. 7. There both terms are sums over a picture; here both are
    divided by its number of pixels, so the published KL weight of 1e-6 is the same weight.
    """

    PARTS = ("infrared",)
    CHANCES = (1.0,)

    def __init__(self, model: Model, stage: Stage, caches: Caches | None = None) -> None:
        super().__init__(model, stage, caches)
        if type(model.autoencoder).__name__ != "AutoencoderKL":
            raise ModelError(
                "the objective infrared_autoencoder needs an autoencoder with a posterior",
                got=type(model.autoencoder).__name__,
                do="use an architecture with AutoencoderKL, such as txt2ir-mini",
            )
        self.distance: Distance | None = None
        if stage.perceptual > 0:
            self.distance = make_perceptual(stage.perceptual_network, model.device)
        self.discriminator: PatchDiscriminator | None = None
        if stage.adversarial > 0:
            self.discriminator = make_judge(model.device)
            self.modules["discriminator"] = self.discriminator

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the loss of a batch of crops, (N, 3, crop, crop), and posterior noise."""
        images, noise = batch
        true = match_channels(self.model.autoencoder, images)
        posterior = self.model.autoencoder.encode(true).latent_dist
        latents = posterior.mean + posterior.std * noise.to(posterior.mean)
        made = self.model.autoencoder.decode(latents).sample.float()
        loss = F.l1_loss(made, true) + self.small_hot_loss(made, true)
        if self.stage.structure:
            dissimilarity = structural_dissimilarity(_grey(made), _grey(true))
            loss = loss + self.stage.structure * dissimilarity
        if self.distance is not None:
            loss = loss + self.stage.perceptual * self.distance(_grey(made), _grey(true))
        divergence = posterior.kl().mean() / true[0].numel()
        loss = loss + self.stage.kl * divergence
        if self.discriminator is None:
            return loss
        last_layer = self.model.autoencoder.decoder.conv_out.weight
        return loss + contest(
            self.discriminator, _grey(made), _grey(true), loss, last_layer, self.stage
        )


def _grey(pictures: Tensor) -> Tensor:
    return pictures.mean(dim=1, keepdim=True)
