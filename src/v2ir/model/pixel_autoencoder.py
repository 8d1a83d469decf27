"""An autoencoder that loses nothing, for networks that work on pixels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_dc import EncoderOutput
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor


class PixelAutoencoder(ModelMixin, ConfigMixin):
    """Fold squares of pixels into channels, and unfold them again exactly.

    With it a network that makes pictures at once is a model like any other: its latents
    are pixels, and translation, windows and model folders need not know. Folding stands
    where such networks have a first convolution of stride 2 and a last one that undoes it.

    Args:
        in_channels: Channels of a picture.
        patch: Side of a square in pixels; 1 leaves the picture as it is.
        scaling_factor: 1, since pixels in [-1, 1] need no other scale.
    """

    @register_to_config
    def __init__(self, in_channels: int = 3, patch: int = 2, scaling_factor: float = 1.0) -> None:
        super().__init__()
        # diffusers neither writes nor reads a folder without a single tensor.
        self.register_buffer("unit", torch.ones(1))

    def encode(self, pictures: Tensor) -> Any:
        """Fold (N, c, H, W) to (N, c * patch^2, H / patch, W / patch)."""
        return EncoderOutput(latent=F.pixel_unshuffle(pictures, self.config.patch))

    def decode(self, latents: Tensor) -> Any:
        """Undo `encode`."""
        return DecoderOutput(sample=F.pixel_shuffle(latents, self.config.patch))
