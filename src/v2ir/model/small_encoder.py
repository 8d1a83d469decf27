"""A small encoder beside the autoencoder, for the images that a translation is told."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from v2ir.model.own_network import SmallNetwork


class SmallEncoder(SmallNetwork):
    """An encoder of plain convolutions: a few residual blocks at each size, no attention.

    It takes a picture of three channels and gives the latent that the autoencoder's own
    encoder would give, in the same units. Inside, every channel of a latent has the mean 0
    and the deviation 1; what brings them to the autoencoder's units lies beside the weights.
    The layers are those of diffusers' `EncoderTiny` (after TAESD, Bohan 2023), whose widths
    may differ here.

    Args:
        latents: Channels of a latent.
        widths: Channels at each size, from the picture's to the latent's, each half as
            large as the one before.
        blocks: Residual blocks at each size.

    Raises:
        ModelError: If widths and blocks differ in number.
    """

    title = "small encoder"
    objective = "encoder_distillation"
    mean: Tensor
    deviation: Tensor

    def __init__(self, latents: int, widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__(latents, widths, blocks)
        self.layers = _layers(latents, widths, blocks)
        self.register_buffer("mean", torch.zeros(1, latents, 1, 1))
        self.register_buffer("deviation", torch.ones(1, latents, 1, 1))

    def set_units(self, mean: Tensor, deviation: Tensor) -> None:
        """Tell the mean and the deviation of each channel of the autoencoder's latents, (c,)."""
        self.mean.copy_(mean.view_as(self.mean))
        self.deviation.copy_(deviation.view_as(self.deviation))

    def standardise(self, latents: Tensor) -> Tensor:
        """Bring latents (N, c, h, w) from the autoencoder's units to the mean 0, deviation 1."""
        return (latents - self.mean) / self.deviation

    def forward(self, images: Tensor) -> Tensor:
        """Encode (N, 3, H, W) in [-1, 1] to latents in the autoencoder's units, (N, c, h, w)."""
        return self.layers(images.add(1).div(2)) * self.deviation + self.mean


def _layers(latents: int, widths: Sequence[int], blocks: Sequence[int]) -> nn.Sequential:
    from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock

    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, padding=1)]
    for place, (width, number) in enumerate(zip(widths, blocks, strict=True)):
        if place > 0:
            layers.append(nn.Conv2d(widths[place - 1], width, 3, 2, padding=1, bias=False))
        layers += [AutoencoderTinyBlock(width, width, "relu") for _ in range(number)]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], latents, 3, padding=1))
