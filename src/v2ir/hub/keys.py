"""The names of the same weights in two layouts: one table, read in both directions.

CompVis' latent-diffusion code numbers blocks through the whole network
(`input_blocks.4.1`), diffusers names them by level (`down_blocks.1.attentions.0`). A table
maps the paths of modules, ours to theirs; what follows a path (`weight`, `bias`, or a whole
transformer block) is called the same on both sides.

Source: Rombach et al. 2022, released code: openaimodel.py, attention.py, model.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

UNET_PREFIX = "model.diffusion_model."
AVERAGED_PREFIX = "model_ema."
AUTOENCODER_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model.transformer."

SCHEDULE_BUFFERS = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)
KNOWN_BUFFERS = (
    *SCHEDULE_BUFFERS,
    "lvlb_weights",
    "logvar",
    "scale_factor",
    "global_step",
    "model_ema.decay",
    "model_ema.num_updates",
    "cond_stage_model.transformer.*position_ids",
    # The autoencoder's training loss: a feature network and a discriminator.
    "first_stage_model.loss.*",
)
"""Patterns of tensors that belong to such a checkpoint and hold no weight of a model."""

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_PIXEL_RESNET = {
    **{name: name for name in ("norm1", "conv1", "norm2", "conv2")},
    "conv_shortcut": "nin_shortcut",
}
_PIXEL_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_OLD_PIXEL_ATTENTION = {
    "to_q": "query",
    "to_k": "key",
    "to_v": "value",
    "to_out.0": "proj_attn",
}
"""What diffusers called these modules before its version 0.15."""

_ATTENTION = re.compile(r"(?<=\.)(to_q|to_k|to_v|to_out\.0)(?=\.(weight|bias)$)")


def is_pointwise(key: str) -> bool:
    """Whether an autoencoder's weight is a matrix here and a 1x1 convolution there."""
    return key.endswith(".weight") and _ATTENTION.search(key) is not None


def old_attention_name(key: str) -> str:
    """Return what diffusers before 0.15 called a tensor of an autoencoder's attention."""
    return _ATTENTION.sub(lambda match: _OLD_PIXEL_ATTENTION[match[1]], key)


def translate(key: str, modules: Mapping[str, str]) -> str | None:
    """Return the name of a tensor on the other side, or None if its module is unknown.

    Args:
        key: Name of a tensor, such as `conv_in.weight`.
        modules: Paths of modules on this side and on the other; the longest one counts.
    """
    pieces = key.split(".")
    for end in range(len(pieces) - 1, 0, -1):
        path = ".".join(pieces[:end])
        if path in modules:
            return f"{modules[path]}{key[len(path) :]}"
    return None


def reverse(modules: Mapping[str, str]) -> dict[str, str]:
    """Return the same table for the other direction."""
    return {theirs: ours for ours, theirs in modules.items()}


def averaged_key(key: str) -> str:
    """Return where the average of a UNet's weight `model.diffusion_model...` stands."""
    return AVERAGED_PREFIX + key.removeprefix("model.").replace(".", "")


def _below(ours: str, theirs: str, names: Mapping[str, str]) -> dict[str, str]:
    return {f"{ours}.{mine}": f"{theirs}.{their}" for mine, their in names.items()}


def _per_level(value: int | Sequence[int], levels: int) -> list[int]:
    return [value] * levels if isinstance(value, int) else list(value)


def unet_modules(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the table of a UNet with diffusers' configuration `config`."""
    levels = len(config["block_out_channels"])
    layers = _per_level(config["layers_per_block"], levels)
    table = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "class_embedding": "label_emb",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.attentions.0": "middle_block.1",
        **_below("mid_block.resnets.0", "middle_block.0", _RESNET),
        **_below("mid_block.resnets.1", "middle_block.2", _RESNET),
    }
    attention = ["CrossAttn" in kind for kind in config["down_block_types"]]
    table |= _down_modules(layers, attention)
    attention = ["CrossAttn" in kind for kind in config["up_block_types"]]
    return table | _up_modules(layers[::-1], attention)


def _down_modules(layers: Sequence[int], attention: Sequence[bool]) -> dict[str, str]:
    table: dict[str, str] = {}
    number = 1
    for level, (count, attends) in enumerate(zip(layers, attention, strict=True)):
        block = f"down_blocks.{level}"
        for layer in range(count):
            table |= _below(f"{block}.resnets.{layer}", f"input_blocks.{number}.0", _RESNET)
            if attends:
                table[f"{block}.attentions.{layer}"] = f"input_blocks.{number}.1"
            number += 1
        if level < len(layers) - 1:
            table[f"{block}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
            number += 1
    return table


def _up_modules(layers: Sequence[int], attention: Sequence[bool]) -> dict[str, str]:
    table: dict[str, str] = {}
    number = 0
    for level, (count, attends) in enumerate(zip(layers, attention, strict=True)):
        block = f"up_blocks.{level}"
        for layer in range(count + 1):
            table |= _below(f"{block}.resnets.{layer}", f"output_blocks.{number}.0", _RESNET)
            if attends:
                table[f"{block}.attentions.{layer}"] = f"output_blocks.{number}.1"
            if layer == count and level < len(layers) - 1:
                # The upsampler stands behind whatever the block holds.
                place = 2 if attends else 1
                table[f"{block}.upsamplers.0.conv"] = f"output_blocks.{number}.{place}.conv"
            number += 1
    return table


def autoencoder_modules(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the table of an `AutoencoderKL` with diffusers' configuration `config`."""
    levels, layers = len(config["block_out_channels"]), config["layers_per_block"]
    table = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for half in ("encoder", "decoder"):
        for name in ("conv_in", "conv_out"):
            table[f"{half}.{name}"] = f"{half}.{name}"
        table[f"{half}.conv_norm_out"] = f"{half}.norm_out"
        middle = f"{half}.mid_block"
        table |= _below(f"{middle}.resnets.0", f"{half}.mid.block_1", _PIXEL_RESNET)
        table |= _below(f"{middle}.attentions.0", f"{half}.mid.attn_1", _PIXEL_ATTENTION)
        table |= _below(f"{middle}.resnets.1", f"{half}.mid.block_2", _PIXEL_RESNET)
    for level in range(levels):
        # CompVis numbers the decoder's levels by resolution, diffusers in running order.
        up = f"decoder.up.{levels - 1 - level}"
        table |= _pixel_level(f"encoder.down_blocks.{level}", f"encoder.down.{level}", layers)
        table |= _pixel_level(f"decoder.up_blocks.{level}", up, layers + 1)
        down_conv = f"encoder.down.{level}.downsample.conv"
        table[f"encoder.down_blocks.{level}.downsamplers.0.conv"] = down_conv
        table[f"decoder.up_blocks.{level}.upsamplers.0.conv"] = f"{up}.upsample.conv"
    return table


def _pixel_level(ours: str, theirs: str, layers: int) -> dict[str, str]:
    table: dict[str, str] = {}
    for layer in range(layers):
        table |= _below(f"{ours}.resnets.{layer}", f"{theirs}.block.{layer}", _PIXEL_RESNET)
        attention = f"{theirs}.attn.{layer}"
        table |= _below(f"{ours}.attentions.{layer}", attention, _PIXEL_ATTENTION)
    return table


def text_name(key: str, *, wrapped: bool) -> str:
    """Return a CLIP text encoder's key with or without the wrapper `text_model.`.

    transformers dropped the wrapper in version 5.6; files of both kinds exist.
    """
    bare = key.removeprefix("text_model.")
    return f"text_model.{bare}" if wrapped else bare


_WORD_PIECE_OUTER = {
    "model.embed_tokens": "token_emb",
    "model.embed_positions": "pos_emb.emb",
    "model.layer_norm": "norm",
    "to_logits": "to_logits",
}
# The layers there are a flat list, attention and feed-forward in turn; each is its norm (0)
# and its block (1).
_WORD_PIECE_LAYER = {
    "self_attn_layer_norm": (0, "0"),
    "self_attn.q_proj": (0, "1.to_q"),
    "self_attn.k_proj": (0, "1.to_k"),
    "self_attn.v_proj": (0, "1.to_v"),
    "self_attn.out_proj": (0, "1.to_out"),
    "final_layer_norm": (1, "0"),
    "fc1": (1, "1.net.0.0"),
    "fc2": (1, "1.net.2"),
}
WORD_PIECE_MARK = "token_emb.weight"
"""A tensor by which latent diffusion's own text encoder is known from CLIP's."""


def word_piece_modules(layers: int) -> dict[str, str]:
    """Return the table of latent diffusion's own text encoder, `LDMBertModel` of diffusers.

    Source: Rombach et al. 2022, released code: x_transformer.py; TxT2IR's code uses it.
    """
    table = dict(_WORD_PIECE_OUTER)
    for layer in range(layers):
        for ours, (half, theirs) in _WORD_PIECE_LAYER.items():
            there = f"attn_layers.layers.{2 * layer + half}.{theirs}"
            table[f"model.layers.{layer}.{ours}"] = there
    return table


def is_wrapped(keys: Iterable[str]) -> bool:
    """Whether the keys of a CLIP text encoder carry the wrapper `text_model.`."""
    return any(key.startswith("text_model.") for key in keys)
