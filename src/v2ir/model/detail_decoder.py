"""A decoder that sees the visible image: heat from the latent, edges from the photograph."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

FACTOR = 8
"""Pixels of the picture for one pixel of the latent, along a side."""
BLURS = (3, 7, 15)
"""Sides in pixels of the means between which the bands of the photograph's detail lie."""
_NEIGHBOURHOOD, _LEAST_CONTRAST = 31, 0.04


def _convolution(inside: int, outside: int, stride: int = 1) -> nn.Conv2d:
    # Zeros beyond the border would draw a frame around every picture.
    return nn.Conv2d(inside, outside, 3, stride, padding=1, padding_mode="replicate")


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels)
        self.second = _convolution(channels, channels)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


def _joined(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(_convolution(inside, outside), _Residual(outside))


class DetailDecoder(ModelMixin, ConfigMixin):
    """Makes the picture from the latent, the visible condition and the visible pixels.

    The latent says how warm things are, but few of its eight channels' details are
    predictable; the photograph says where they end. A U-Net of three levels joins both into
    a picture and into a gain for each band of the photograph's detail, which is added.
    Source: the conditional decoder of Zhu et al. 2023, "Designing a Better Asymmetric VQGAN
    for StableDiffusion", which sees the unmasked part of an image, and the injection of
    detail in pansharpening (Vivone et al. 2015, Eq. 1); the network is ours.

    Args:
        latents: Channels of the denoised latent.
        seen: Channels of the visible condition: its latent and the image encoder's features.
        widths: Channels at strides 8, 4 and 2.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self, latents: int = 8, seen: int = 72, widths: Sequence[int] = (96, 48, 32)
    ) -> None:
        super().__init__()
        coarse, middle, fine = widths
        self.see_fine = _convolution(12, fine)
        self.see_middle = _convolution(fine, middle, 2)
        self.see_coarse = _convolution(middle, coarse // 2, 2)
        self.coarse = _joined(latents + seen + coarse // 2, coarse)
        self.middle = _joined(coarse + middle, middle)
        self.fine = _joined(middle + fine, fine)
        self.last = _convolution(fine, 4 * (1 + len(BLURS)))
        # Gains start at zero: a network that was not trained adds nothing.
        with torch.no_grad():
            gains = torch.arange(self.last.out_channels) >= 4
            self.last.weight[gains] = 0.0
            self.last.bias[gains] = 0.0  # type: ignore[index]

    def forward(self, latents: Tensor, seen: Tensor, visible: Tensor) -> Tensor:
        """Return the picture, (N, 1, 8h, 8w), about [-1, 1].

        Args:
            latents: Scaled denoised latents, (N, c, h, w).
            seen: The visible condition, (N, d, h, w).
            visible: The visible image in [-1, 1], (N, 3, 8h, 8w).
        """
        fine = F.silu(self.see_fine(F.pixel_unshuffle(visible, 2)))
        middle = F.silu(self.see_middle(fine))
        coarse = F.silu(self.see_coarse(middle))
        x = self.coarse(torch.cat([latents, seen, coarse], dim=1))
        x = self.middle(torch.cat([_larger(x), middle], dim=1))
        x = self.fine(torch.cat([_larger(x), fine], dim=1))
        planes = F.pixel_shuffle(self.last(F.silu(x)), 2)
        return planes[:, :1] + (planes[:, 1:] * detail_bands(visible)).sum(1, keepdim=True)

    def decode(self, planes: Tensor) -> Tensor:
        """Return the pictures of what `beside_visible` made, (N, 1, 8h, 8w)."""
        own, seen = self.config["latents"], self.config["seen"]
        latents, told, packed = planes.split([own, seen, 3 * FACTOR**2], dim=1)
        return self(latents, told, F.pixel_shuffle(packed, FACTOR))


def detail_bands(visible: Tensor) -> Tensor:
    """Return bands of the luminance's detail in units of the local contrast.

    Args:
        visible: The visible image in [-1, 1], (N, 3, H, W).

    Returns:
        (N, 3, H, W): the image without its means over 3 px, these without those over 7 px,
        and those without the ones over 15 px, each divided by the root of their mean square
        within 31 px.
    """
    bands = split_bands(visible.mean(dim=1, keepdim=True))
    return bands / (local_energy(bands).sum(dim=1, keepdim=True).sqrt() + _LEAST_CONTRAST)


def split_bands(plane: Tensor) -> Tensor:
    """Return the detail between means over 1, 3, 7 and 15 px of (N, 1, H, W), (N, 3, H, W)."""
    levels = [plane, *(_mean(plane, side) for side in BLURS)]
    return torch.cat([a - b for a, b in itertools.pairwise(levels)], dim=1)


def local_energy(bands: Tensor) -> Tensor:
    """Return the mean square of each band within 31 px, (N, C, H, W)."""
    return _mean(bands.square(), _NEIGHBOURHOOD)


def _mean(plane: Tensor, side: int) -> Tensor:
    """Return the means over squares of an odd side; at the borders over what there is."""
    half = side // 2
    across = F.avg_pool2d(plane, (1, side), 1, (0, half), count_include_pad=False)
    return F.avg_pool2d(across, (side, 1), 1, (half, 0), count_include_pad=False)


def beside_visible(latents: Tensor, seen: Tensor, visible: Tensor) -> Tensor:
    """Lay the visible condition and pixels beside latents: all that a window needs.

    Args:
        latents: Latents, (N, c, h, w).
        seen: The visible condition, (N, d, h, w).
        visible: The visible image in [-1, 1], (N, 3, 8h, 8w).

    Returns:
        (N, c + d + 192, h, w).
    """
    return torch.cat([latents, seen.to(latents), F.pixel_unshuffle(visible, FACTOR).to(latents)], 1)


def _larger(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
