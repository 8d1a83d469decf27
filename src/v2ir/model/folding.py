"""Guidance folded into a network: it is told the scales, and answers in one evaluation.

Source: Meng et al. 2023, "On distillation of guided diffusion models", Sec. 3.1, with three
scales in the place of one; through diffusers' `time_cond_proj_dim`.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from v2ir.errors import ModelError
from v2ir.model.conditions import CONDITION_NAMES

EMBEDDING_WIDTH = 64
"""Numbers that each scale is embedded in, unless stated otherwise."""


def add_guidance_embedding(unet: Any, width: int = EMBEDDING_WIDTH) -> Any:
    """Return a copy of the UNet that can be told the guidance scales.

    Its new weights start at zero, so that at first it answers exactly like the old one,
    whatever scales it is told. A network that has the embedding is copied as it is.

    Args:
        unet: A `UNet2DConditionModel`.
        width: Numbers that each of the three scales is embedded in, even.

    Raises:
        ModelError: If the network has an embedding of another kind.
    """
    wider = copy.deepcopy(unet)
    if takes_scales(unet):
        return wider
    if unet.config.time_cond_proj_dim:
        raise ModelError(
            "the network is told a condition that is not the three guidance scales",
            got=f"time_cond_proj_dim {unet.config.time_cond_proj_dim}",
            do="start from a model without it",
        )
    total = len(CONDITION_NAMES) * width
    first = wider.time_embedding.linear_1
    # In float32 even where frozen weights are kept in less: these are trained.
    layer = nn.Linear(total, first.in_features, bias=False, device=first.weight.device)
    nn.init.zeros_(layer.weight)
    wider.time_embedding.cond_proj = layer
    wider.register_to_config(time_cond_proj_dim=total)
    return wider


def takes_scales(unet: Any) -> bool:
    """Whether a network can be told the three guidance scales."""
    width = unet.config.time_cond_proj_dim or 0
    return width > 0 and width % (2 * len(CONDITION_NAMES)) == 0


def embed_scales(scales: Tensor, total: int) -> Tensor:
    """Embed guidance scales, (N, 3), to (N, `total`), all-zero at scales of 1.

    Each scale w becomes the sines and cosines of 1000 w at frequencies from 1 to 1/10000,
    less those of w = 1. So scales of 1, which are no guidance, are no embedding either.
    Source: Kingma et al. 2021 (the embedding), Luo et al. 2023 (its use for a scale).

    Args:
        scales: Scales of text, visible image and map.
        total: Numbers in all, a multiple of 6.
    """
    half = total // (2 * scales.shape[-1])
    steps = torch.arange(half, dtype=torch.float32, device=scales.device)
    frequencies = torch.exp(steps * (-math.log(10000.0) / max(half - 1, 1)))

    def waves(values: Tensor) -> Tensor:
        phases = 1000.0 * values.float()[..., None] * frequencies
        return torch.cat([phases.sin(), phases.cos()], dim=-1)

    return (waves(scales) - waves(torch.ones_like(scales))).flatten(-2)
