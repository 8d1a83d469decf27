"""Networks made wider or narrower without changing what they say: input channels, styles."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from v2ir.errors import ModelError


def widen_input(unet: Any, in_channels: int) -> Any:
    """Return a copy of the UNet with more input channels, whose weights start at zero.

    With zeros in the new channels the widened network gives the old one's output exactly.
    Source: DiffV2IR's released code (4 to 12), InstructPix2Pix, Sec. 3.2 (4 to 8).

    Raises:
        ModelError: If the network already has more channels than asked for.
    """
    old = unet.config.in_channels
    if in_channels < old:
        raise ModelError("a UNet can only be widened", got=f"{old} channels to {in_channels}")
    widened = copy.deepcopy(unet)
    if in_channels == old:
        return widened
    _take_input(widened, in_channels)
    return widened


def narrow_input(unet: Any, in_channels: int) -> Any:
    """Return a copy of the UNet with its first input channels alone.

    It gives exactly what the whole network gives with zeros in the other channels: what a
    denoiser with image conditions says when there is no image.

    Raises:
        ModelError: If the network has fewer channels than asked for.
    """
    old = unet.config.in_channels
    if in_channels > old:
        raise ModelError("a UNet cannot be narrowed", got=f"{old} channels to {in_channels}")
    narrowed = copy.deepcopy(unet)
    _take_input(narrowed, in_channels)
    return narrowed


def _take_input(unet: Any, in_channels: int) -> None:
    """Give a UNet another first layer; weights of channels that are new are zero."""
    first = unet.conv_in
    conv: Any = nn.Conv2d(
        in_channels, first.out_channels, first.kernel_size, first.stride, first.padding
    ).to(first.weight)
    both = min(in_channels, first.in_channels)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[:, :both] = first.weight[:, :both]
        conv.bias.copy_(first.bias)
    unet.conv_in = conv
    unet.register_to_config(in_channels=in_channels)


def add_styles(unet: Any, num_styles: int) -> Any:
    """Return a copy with an embedding row for each of `num_styles` styles and for none.

    Rows that exist are kept; new rows start as the row of "no style".

    Raises:
        ModelError: If the network already knows more styles than asked for.
    """
    old = unet.config.num_class_embeds or 0
    if num_styles + 1 < old:
        raise ModelError("styles cannot be removed", got=f"{old - 1} styles to {num_styles}")
    wider = copy.deepcopy(unet)
    width = unet.time_embedding.linear_2.out_features
    embedding = nn.Embedding(num_styles + 1, width).to(unet.conv_in.weight)
    with torch.no_grad():
        embedding.weight.zero_()
        if old:
            embedding.weight[:] = unet.class_embedding.weight[:1]
            embedding.weight[:old] = unet.class_embedding.weight
    wider.class_embedding = embedding
    wider.register_to_config(num_class_embeds=num_styles + 1)
    return wider
