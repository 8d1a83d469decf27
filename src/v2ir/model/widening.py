"""Networks made wider without changing what they say: more input channels, more styles."""

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
    first = unet.conv_in
    conv: Any = nn.Conv2d(
        in_channels, first.out_channels, first.kernel_size, first.stride, first.padding
    ).to(first.weight)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[:, :old] = first.weight
        conv.bias.copy_(first.bias)
    widened.conv_in = conv
    widened.register_to_config(in_channels=in_channels)
    return widened


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
