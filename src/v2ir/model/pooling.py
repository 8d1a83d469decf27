"""Pooled text: the prompt's words as one vector that joins the time embedding.

Cross-attention alone weighs each word against all tokens, padding included, so at first a word
hardly moves the prediction; a small network finds the words for objects much sooner when their
sum reaches every layer. Source of the place: Podell et al. 2023, "SDXL", Sec. 2.1, through
diffusers' `addition_embed_type` of `text_time`; the sizes that SDXL tells there are not told.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

_KIND = "text_time"
_UNTOLD = 2
"""Width of the embedding of a size that is not told: the same for all, told by zero."""
_TOKENS = 16
"""The sum over so many tokens has the deviation of one."""


def pooling(width: int) -> dict[str, Any]:
    """Return the configuration of a UNet that is told the pooled text of `width`."""
    return {
        "addition_embed_type": _KIND,
        "addition_time_embed_dim": _UNTOLD,
        "projection_class_embeddings_input_dim": width + _UNTOLD,
    }


def pools_text(unet: Any) -> bool:
    """Whether a UNet is told the pooled text beside its tokens."""
    told = getattr(unet.config, "addition_embed_type", None) == _KIND
    return told and unet.config.addition_time_embed_dim == _UNTOLD


def pooled_text(unet: Any, text: Tensor) -> dict[str, Tensor] | None:
    """Return the UNet's `added_cond_kwargs`, or None for one that is told none.

    Args:
        unet: A `UNet2DConditionModel`.
        text: Text embedding, (N, L, D), zero where the prompt has ended.
    """
    if not pools_text(unet):
        return None
    return {"text_embeds": text.sum(dim=1) / _TOKENS**0.5, "time_ids": text.new_zeros(len(text), 1)}
