"""The refiner: it gives a decoded picture the edges that the visible image has.

A small latent keeps where heat is and loses outlines. The visible image still has them,
pixel by pixel, and how a camera draws them is a matter of its style; so a small network
adds to the decoded picture what it reads from the visible one. It works at half the side,
on 2 x 2 pixels at once. Without a visible image there is nothing to refine.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FOLD = 2
PLANES = 4  # the decoded picture, and red, green and blue


def build_refiner(num_styles: int, widths: tuple[int, ...] = (24, 48, 64, 96)) -> Any:
    """Build diffusers' `UNet2DModel` that changes nothing at first.

    Args:
        num_styles: Number of styles that it is told of, besides none.
        widths: Channels at 1/2, 1/4, ... of the side.
    """
    from diffusers.models.unets.unet_2d import UNet2DModel

    network = UNet2DModel(
        in_channels=PLANES * FOLD**2,
        out_channels=FOLD**2,
        block_out_channels=widths,
        down_block_types=("DownBlock2D",) * len(widths),
        up_block_types=("UpBlock2D",) * len(widths),
        layers_per_block=1,
        norm_num_groups=8,
        add_attention=False,
        num_class_embeds=num_styles + 1,
    )
    nn.init.zeros_(network.conv_out.weight)
    nn.init.zeros_(network.conv_out.bias)
    return network


def refine(network: Any, pictures: Tensor, visible: Tensor, styles: Tensor | None) -> Tensor:
    """Refine decoded pictures.

    Args:
        network: The refiner.
        pictures: Decoded pictures, (N, 1, H, W) in [-1, 1]; sides are multiples of
            `refiner_multiple`.
        visible: Visible images, (N, 3, H, W) in [-1, 1].
        styles: Style numbers, (N,); None is no style.

    Returns:
        The refined pictures, (N, 1, H, W), about [-1, 1].
    """
    if styles is None:
        styles = torch.zeros(len(pictures), dtype=torch.long, device=pictures.device)
    dtype = next(network.parameters()).dtype
    planes = F.pixel_unshuffle(torch.cat([pictures, visible], dim=1).to(dtype), FOLD)
    change = network(planes, 0, class_labels=styles).sample
    return pictures + F.pixel_shuffle(change, FOLD).to(pictures.dtype)


def refiner_multiple(network: Any) -> int:
    """Return the number of pixels that sides must be multiples of."""
    return FOLD * 2 ** (len(network.config.block_out_channels) - 1)
