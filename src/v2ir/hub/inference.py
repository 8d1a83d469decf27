"""The configuration of a network, read from the shapes of its tensors.

A CompVis checkpoint carries no configuration. All but the number of attention heads
follows from which tensors there are and how large they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from v2ir.errors import ModelError

LATENT_SCALE = 0.18215
"""Factor of the latents where the checkpoint holds none. Source: Rombach et al. 2022."""

CLIP_HEAD_WIDTH = 64
"""Every published CLIP text encoder has heads of this width."""


class Shapes:
    """The shapes of the tensors below a prefix.

    Args:
        tensors: Tensors by their full name.
        prefix: Beginning of the names that count.
    """

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str) -> None:
        self.prefix = prefix
        self._shapes = {
            name.removeprefix(prefix): tuple(tensor.shape)
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def size(self, name: str, axis: int = 0) -> int:
        """Return one side of a tensor.

        Raises:
            ModelError: If the tensor is missing or has too few sides.
        """
        shape = self._shapes.get(name)
        if shape is None or len(shape) <= axis:
            raise ModelError(
                f"the checkpoint lacks the tensor {self.prefix}{name}, without which the sizes "
                "of the network cannot be told",
                got="no such tensor" if shape is None else f"shape {shape}",
                do="check that the file is a whole Stable Diffusion checkpoint",
            )
        return shape[axis]

    def sides(self, name: str) -> int:
        """Return how many sides a tensor has; 0 if it is missing."""
        return len(self._shapes.get(name, ()))

    def numbers(self, pattern: str) -> list[int]:
        """Return the sorted numbers that the first group of a pattern takes in the names."""
        found = (re.match(pattern, name) for name in self._shapes)
        return sorted({int(match[1]) for match in found if match})

    def find(self, pattern: str) -> str | None:
        """Return the first name, in sorted order, that a pattern matches."""
        return next((name for name in sorted(self._shapes) if re.match(pattern, name)), None)


def unet_config(shapes: Shapes, heads: int) -> dict[str, Any]:
    """Return diffusers' configuration of a CompVis UNet.

    Args:
        shapes: Shapes below `model.diffusion_model.`.
        heads: Number of attention heads, which shapes do not show (Stable Diffusion: 8).

    Raises:
        ModelError: If tensors that show the sizes are missing.
    """
    levels = _unet_levels(shapes)
    channels = [_level_width(shapes, numbers) for numbers in levels]
    attends = [any(_attends(shapes, number) for number in numbers) for numbers in levels]
    context = shapes.find(r".*\.attn2\.to_k\.weight$")
    if context is None:
        raise ModelError(
            "the UNet has no cross-attention", do="give a checkpoint that is told a text"
        )
    depth = shapes.numbers(r".*\.transformer_blocks\.(\d+)\.")
    projection = context.split(".transformer_blocks.")[0] + ".proj_in.weight"
    classes = shapes.size("label_emb.weight") if "label_emb.weight" in shapes else None
    return {
        "sample_size": 64,
        "in_channels": shapes.size("input_blocks.0.0.weight", 1),
        "out_channels": shapes.size("out.2.weight"),
        "block_out_channels": channels,
        "layers_per_block": max(len(numbers) for numbers in levels),
        "down_block_types": ["CrossAttnDownBlock2D" if here else "DownBlock2D" for here in attends],
        "up_block_types": [
            "CrossAttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attends)
        ],
        "cross_attention_dim": shapes.size(context, 1),
        # diffusers' name is a misnomer: for this family it is the number of heads.
        "attention_head_dim": heads,
        "transformer_layers_per_block": depth[-1] + 1,
        "use_linear_projection": shapes.sides(projection) == 2,
        "num_class_embeds": classes,
    }


def _attends(shapes: Shapes, number: int) -> bool:
    return shapes.find(rf"input_blocks\.{number}\.1\.") is not None


def _unet_levels(shapes: Shapes) -> list[list[int]]:
    """Return, for each level, the numbers of the input blocks that are residual blocks."""
    levels: list[list[int]] = [[]]
    for number in shapes.numbers(r"input_blocks\.(\d+)\."):
        if shapes.find(rf"input_blocks\.{number}\.0\.op\."):
            levels.append([])
        elif number:
            levels[-1].append(number)
    if not levels[-1]:
        raise ModelError(
            f"the checkpoint holds no UNet that could be read below {shapes.prefix}",
            got="no residual blocks after the last downsampling",
            do="check that the file is a whole Stable Diffusion checkpoint",
        )
    return levels


def _level_width(shapes: Shapes, numbers: list[int]) -> int:
    for number in numbers:
        name = f"input_blocks.{number}.0.out_layers.3.weight"
        if name in shapes:
            return shapes.size(name)
    first = numbers[0] if numbers else 1
    return shapes.size(f"input_blocks.{first}.0.out_layers.3.weight")


def autoencoder_config(shapes: Shapes, scale: float) -> dict[str, Any]:
    """Return diffusers' configuration of a CompVis KL autoencoder.

    Args:
        shapes: Shapes below `first_stage_model.`.
        scale: Factor that brings latents to unit variance.

    Raises:
        ModelError: If tensors that show the sizes are missing.
    """
    levels = shapes.numbers(r"encoder\.down\.(\d+)\.block\.")
    layers = shapes.numbers(r"encoder\.down\.\d+\.block\.(\d+)\.")
    widths = [shapes.size(f"encoder.down.{level}.block.0.conv1.weight") for level in levels]
    attends = [shapes.find(rf"encoder\.down\.{level}\.attn\.") is not None for level in levels]
    return {
        "in_channels": shapes.size("encoder.conv_in.weight", 1),
        "out_channels": shapes.size("decoder.conv_out.weight"),
        "latent_channels": shapes.size("post_quant_conv.weight", 1),
        "block_out_channels": widths,
        "layers_per_block": len(layers),
        "down_block_types": [
            "AttnDownEncoderBlock2D" if here else "DownEncoderBlock2D" for here in attends
        ],
        "up_block_types": [
            "AttnUpDecoderBlock2D" if here else "UpDecoderBlock2D" for here in reversed(attends)
        ],
        "sample_size": 64 * 2 ** (len(levels) - 1),
        "scaling_factor": scale,
    }


def text_config(shapes: Shapes, heads: int | None) -> dict[str, Any]:
    """Return transformers' configuration of a CLIP text encoder.

    Args:
        shapes: Shapes below the encoder's prefix, `text_model.` included.
        heads: Number of attention heads; None takes heads of 64 channels as CLIP has.

    Raises:
        ModelError: If tensors that show the sizes are missing.
    """
    width = shapes.size("embeddings.token_embedding.weight", 1)
    pieces = shapes.size("embeddings.token_embedding.weight")
    layers = shapes.numbers(r"encoder\.layers\.(\d+)\.")
    return {
        "vocab_size": pieces,
        # CLIP's vocabulary ends with the pieces for begin and end; the latter also pads.
        "bos_token_id": pieces - 2,
        "eos_token_id": pieces - 1,
        "pad_token_id": pieces - 1,
        "hidden_size": width,
        "intermediate_size": shapes.size("encoder.layers.0.mlp.fc1.weight"),
        "projection_dim": width,
        "num_hidden_layers": layers[-1] + 1,
        "num_attention_heads": heads or max(1, width // CLIP_HEAD_WIDTH),
        "max_position_embeddings": shapes.size("embeddings.position_embedding.weight"),
    }


def word_piece_config(shapes: Shapes, heads: int | None) -> dict[str, Any]:
    """Return diffusers' configuration of latent diffusion's own text encoder.

    Args:
        shapes: Shapes below the encoder's prefix.
        heads: Number of attention heads; None takes heads of 64 channels, its default.

    Raises:
        ModelError: If tensors that show the sizes are missing, or cannot be split into heads.
    """
    inner = shapes.size("attn_layers.layers.0.1.to_q.weight")
    number = heads or max(1, inner // CLIP_HEAD_WIDTH)
    if inner % number:
        raise ModelError(
            "the text encoder's attention cannot be split into heads",
            got=f"{inner} channels for {number} heads",
            do="give the number of heads with --text-heads",
        )
    layers = shapes.numbers(r"attn_layers\.layers\.(\d+)\.")
    return {
        "vocab_size": shapes.size("token_emb.weight"),
        "d_model": shapes.size("token_emb.weight", 1),
        "encoder_ffn_dim": shapes.size("attn_layers.layers.1.1.net.0.0.weight"),
        "encoder_layers": (layers[-1] + 1) // 2,
        "encoder_attention_heads": number,
        "head_dim": inner // number,
        "max_position_embeddings": shapes.size("pos_emb.emb.weight"),
        # The published code trains without; and dropout would draw from the global generator.
        "dropout": 0.0,
        "pad_token_id": 0,
    }


def schedule_config(tensors: Mapping[str, Tensor], published: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of the noise schedule that the checkpoint's buffers show.

    A linear or "scaled linear" schedule is recognised; any other is taken value by value.

    Args:
        tensors: Tensors of the checkpoint; without `alphas_cumprod` the published
            schedule is returned.
        published: Configuration of Stable Diffusion's schedule.
    """
    if "alphas_cumprod" not in tensors:
        return dict(published)
    kept = tensors["alphas_cumprod"].double()
    before = torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
    betas = 1 - kept / before
    first, last = (float(f"{float(betas[end]):.4g}") for end in (0, -1))
    found = {"num_train_timesteps": len(betas), "beta_start": first, "beta_end": last}
    for name, power in (("scaled_linear", 2), ("linear", 1)):
        line = torch.linspace(
            first ** (1 / power), last ** (1 / power), len(betas), dtype=torch.float64
        )
        rebuilt = torch.cumprod(1 - line**power, dim=0)
        if torch.allclose(rebuilt, kept, rtol=1e-4, atol=1e-7):
            return {**published, **found, "beta_schedule": name}
    return {
        **published,
        "num_train_timesteps": len(betas),
        "trained_betas": betas.float().tolist(),
    }
