"""The networks of Stable Diffusion 1.x as plain functions of tensors with CompVis' names.

Written from the papers for the tests of `v2ir convert`: it shares no code with diffusers
or transformers, so equal outputs mean that every tensor found its place. A weight is drawn
when it is first asked for, so running a network once makes its state dictionary.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class Weights:
    """Tensors by name; a name that is new gets random values of the given shape."""

    def __init__(self, seed: int = 0, state: dict[str, Tensor] | None = None) -> None:
        self.state = {} if state is None else state
        self.frozen = state is not None
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, name: str, *shape: int, center: float = 0.0, scale: float = 0.1) -> Tensor:
        if name not in self.state:
            assert not self.frozen, f"{name} is missing"
            noise = torch.randn(shape, generator=self.generator)
            self.state[name] = center + scale * noise
        assert self.state[name].shape == shape, name
        return self.state[name]


def linear(w: Weights, name: str, x: Tensor, out: int, bias: bool = True) -> Tensor:
    weight = w(f"{name}.weight", out, x.shape[-1], scale=x.shape[-1] ** -0.5)
    return F.linear(x, weight, w(f"{name}.bias", out) if bias else None)


def conv(w: Weights, name: str, x: Tensor, out: int, size: int = 3, stride: int = 1) -> Tensor:
    weight = w(f"{name}.weight", out, x.shape[1], size, size, scale=(x.shape[1] * size**2) ** -0.5)
    padding = size // 2 if stride == 1 else 0
    return F.conv2d(x, weight, w(f"{name}.bias", out), stride=stride, padding=padding)


def group_norm(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    width = x.shape[1]
    weight = w(f"{name}.weight", width, center=1.0)
    return F.group_norm(x, 32, weight, w(f"{name}.bias", width), eps)


def layer_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    width = x.shape[-1]
    weight = w(f"{name}.weight", width, center=1.0)
    return F.layer_norm(x, (width,), weight, w(f"{name}.bias", width), 1e-5)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """Multi-head attention on (N, L, D), softmax(q k^T / sqrt(d)) v."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    weights = (scores if mask is None else scores + mask).softmax(dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of a model; the defaults are small."""

    in_channels: int = 12
    width: int = 32
    multipliers: Sequence[int] = (1, 2)
    attends: Sequence[bool] = (True, False)
    blocks: int = 1
    heads: int = 4
    context: int = 64
    pixel_width: int = 32
    pixel_multipliers: Sequence[int] = (1, 2)
    pixel_blocks: int = 1
    colours: int = 3
    words: int = 120
    length: int = 12
    text_layers: int = 2
    text_heads: int = 1


FULL_SIZE = Sizes(12, 320, (1, 2, 4, 4), (True, True, True, False), 2, 8, 768, 128, (1, 2, 4, 4), 2)
FULL_SIZE = dataclasses.replace(FULL_SIZE, words=49408, length=77, text_layers=12, text_heads=12)


def unet(w: Weights, sizes: Sizes, x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
    root = "model.diffusion_model"
    half = sizes.width // 2
    rates = torch.exp(-math.log(10000) * torch.arange(half) / half)
    angles = timestep[:, None].float() * rates
    embedding = torch.cat([angles.cos(), angles.sin()], dim=1)
    embedding = linear(w, f"{root}.time_embed.0", embedding, 4 * sizes.width)
    embedding = linear(w, f"{root}.time_embed.2", F.silu(embedding), 4 * sizes.width)

    def block(name: str, x: Tensor, out: int, attends: bool) -> Tensor:
        x = residual(w, f"{name}.0", x, embedding, out)
        return transformer(w, f"{name}.1", x, context, sizes.heads) if attends else x

    x = conv(w, f"{root}.input_blocks.0.0", x, sizes.width)
    kept, number, last = [x], 1, len(sizes.multipliers) - 1
    for level, (times, attends) in enumerate(zip(sizes.multipliers, sizes.attends, strict=True)):
        for _ in range(sizes.blocks):
            x = block(f"{root}.input_blocks.{number}", x, times * sizes.width, attends)
            kept.append(x)
            number += 1
        if level < last:
            name = f"{root}.input_blocks.{number}.0.op"
            x = conv(w, name, F.pad(x, (1, 1, 1, 1)), x.shape[1], stride=2)
            kept.append(x)
            number += 1
    middle = f"{root}.middle_block"
    x = block(middle, x, x.shape[1], attends=True)
    x = residual(w, f"{middle}.2", x, embedding, x.shape[1])
    number = 0
    for level in range(last, -1, -1):
        width, attends = sizes.multipliers[level] * sizes.width, sizes.attends[level]
        for layer in range(sizes.blocks + 1):
            name = f"{root}.output_blocks.{number}"
            x = block(name, torch.cat([x, kept.pop()], dim=1), width, attends)
            if level and layer == sizes.blocks:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
                x = conv(w, f"{name}.{2 if attends else 1}.conv", x, width)
            number += 1
    return conv(w, f"{root}.out.2", F.silu(group_norm(w, f"{root}.out.0", x, 1e-5)), 4)


def residual(w: Weights, name: str, x: Tensor, embedding: Tensor, out: int) -> Tensor:
    h = conv(w, f"{name}.in_layers.2", F.silu(group_norm(w, f"{name}.in_layers.0", x, 1e-5)), out)
    h = h + linear(w, f"{name}.emb_layers.1", F.silu(embedding), out)[:, :, None, None]
    h = F.silu(group_norm(w, f"{name}.out_layers.0", h, 1e-5))
    h = conv(w, f"{name}.out_layers.3", h, out)
    return h + (x if x.shape[1] == out else conv(w, f"{name}.skip_connection", x, out, size=1))


def transformer(w: Weights, name: str, x: Tensor, context: Tensor, heads: int) -> Tensor:
    width, side = x.shape[1], x.shape[2:]
    h = conv(w, f"{name}.proj_in", group_norm(w, f"{name}.norm", x, 1e-6), width, size=1)
    h = h.flatten(2).transpose(1, 2)
    inner = f"{name}.transformer_blocks.0"
    for number, other in ((1, None), (2, context)):
        normed = layer_norm(w, f"{inner}.norm{number}", h)
        told = normed if other is None else other
        attention = f"{inner}.attn{number}"
        q = linear(w, f"{attention}.to_q", normed, width, bias=False)
        k = linear(w, f"{attention}.to_k", told, width, bias=False)
        v = linear(w, f"{attention}.to_v", told, width, bias=False)
        h = h + linear(w, f"{attention}.to_out.0", attend(q, k, v, heads, None), width)
    normed = layer_norm(w, f"{inner}.norm3", h)
    value, gate = linear(w, f"{inner}.ff.net.0.proj", normed, 8 * width).chunk(2, dim=-1)
    h = h + linear(w, f"{inner}.ff.net.2", value * F.gelu(gate), width)
    return x + conv(w, f"{name}.proj_out", h.transpose(1, 2).unflatten(2, side), width, size=1)


def pixel_residual(w: Weights, name: str, x: Tensor, out: int) -> Tensor:
    h = conv(w, f"{name}.conv1", F.silu(group_norm(w, f"{name}.norm1", x, 1e-6)), out)
    h = conv(w, f"{name}.conv2", F.silu(group_norm(w, f"{name}.norm2", h, 1e-6)), out)
    return h + (x if x.shape[1] == out else conv(w, f"{name}.nin_shortcut", x, out, size=1))


def pixel_middle(w: Weights, name: str, x: Tensor) -> Tensor:
    width, side = x.shape[1], x.shape[2:]
    x = pixel_residual(w, f"{name}.block_1", x, width)
    h = group_norm(w, f"{name}.attn_1.norm", x, 1e-6)
    q, k, v = (conv(w, f"{name}.attn_1.{part}", h, width, size=1) for part in "qkv")
    h = attend(*(part.flatten(2).transpose(1, 2) for part in (q, k, v)), 1, None)
    h = h.transpose(1, 2).unflatten(2, side)
    x = x + conv(w, f"{name}.attn_1.proj_out", h, width, size=1)
    return pixel_residual(w, f"{name}.block_2", x, width)


def encode(w: Weights, sizes: Sizes, x: Tensor) -> Tensor:
    """Return the moments of the posterior, (N, 8, h, w): mean, then log variance."""
    root = "first_stage_model"
    x = conv(w, f"{root}.encoder.conv_in", x, sizes.pixel_width)
    last = len(sizes.pixel_multipliers) - 1
    for level, times in enumerate(sizes.pixel_multipliers):
        for layer in range(sizes.pixel_blocks):
            name = f"{root}.encoder.down.{level}.block.{layer}"
            x = pixel_residual(w, name, x, times * sizes.pixel_width)
        if level < last:
            name = f"{root}.encoder.down.{level}.downsample.conv"
            x = conv(w, name, F.pad(x, (0, 1, 0, 1)), x.shape[1], stride=2)
    x = pixel_middle(w, f"{root}.encoder.mid", x)
    x = F.silu(group_norm(w, f"{root}.encoder.norm_out", x, 1e-6))
    return conv(w, f"{root}.quant_conv", conv(w, f"{root}.encoder.conv_out", x, 8), 8, size=1)


def decode(w: Weights, sizes: Sizes, z: Tensor) -> Tensor:
    root = "first_stage_model"
    x = conv(w, f"{root}.post_quant_conv", z, 4, size=1)
    x = conv(w, f"{root}.decoder.conv_in", x, sizes.pixel_multipliers[-1] * sizes.pixel_width)
    x = pixel_middle(w, f"{root}.decoder.mid", x)
    for level in range(len(sizes.pixel_multipliers) - 1, -1, -1):
        for layer in range(sizes.pixel_blocks + 1):
            name = f"{root}.decoder.up.{level}.block.{layer}"
            x = pixel_residual(w, name, x, sizes.pixel_multipliers[level] * sizes.pixel_width)
        if level:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = conv(w, f"{root}.decoder.up.{level}.upsample.conv", x, x.shape[1])
    x = F.silu(group_norm(w, f"{root}.decoder.norm_out", x, 1e-6))
    return conv(w, f"{root}.decoder.conv_out", x, sizes.colours)


def embed_text(w: Weights, sizes: Sizes, ids: Tensor) -> Tensor:
    """CLIP's text encoder: the last hidden state, (N, L, D), of token numbers (N, L)."""
    root = "cond_stage_model.transformer.text_model"
    width, length = sizes.context, ids.shape[1]
    x = w(f"{root}.embeddings.token_embedding.weight", sizes.words, width)[ids]
    x = x + w(f"{root}.embeddings.position_embedding.weight", sizes.length, width)[:length]
    mask = torch.full((length, length), -math.inf).triu(1)
    for layer in range(sizes.text_layers):
        name = f"{root}.encoder.layers.{layer}"
        h = layer_norm(w, f"{name}.layer_norm1", x)
        q, k, v = (linear(w, f"{name}.self_attn.{part}_proj", h, width) for part in "qkv")
        h = attend(q, k, v, sizes.text_heads, mask)
        x = x + linear(w, f"{name}.self_attn.out_proj", h, width)
        h = linear(w, f"{name}.mlp.fc1", layer_norm(w, f"{name}.layer_norm2", x), 4 * width)
        x = x + linear(w, f"{name}.mlp.fc2", h * torch.sigmoid(1.702 * h), width)
    return layer_norm(w, f"{root}.final_layer_norm", x)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Inputs of the three networks."""

    noisy: Tensor
    timestep: Tensor
    context: Tensor
    image: Tensor
    latent: Tensor
    ids: Tensor


def make_inputs(sizes: Sizes, side: int = 8, seed: int = 1) -> Inputs:
    g = torch.Generator().manual_seed(seed)
    factor = 2 ** (len(sizes.pixel_multipliers) - 1)
    return Inputs(
        torch.randn(2, sizes.in_channels, side, side, generator=g),
        torch.tensor([3, 951]),
        torch.randn(2, sizes.length, sizes.context, generator=g),
        torch.randn(1, sizes.colours, side * factor, side * factor, generator=g),
        torch.randn(1, 4, side, side, generator=g),
        torch.randint(sizes.words, (2, sizes.length), generator=g),
    )


@torch.no_grad()
def outputs(w: Weights, sizes: Sizes, inputs: Inputs) -> dict[str, Tensor]:
    return {
        "unet": unet(w, sizes, inputs.noisy, inputs.timestep, inputs.context),
        "encoder": encode(w, sizes, inputs.image),
        "decoder": decode(w, sizes, inputs.latent),
        "text": embed_text(w, sizes, inputs.ids),
    }


@torch.no_grad()
def model_outputs(model: Any, inputs: Inputs) -> dict[str, Tensor]:
    """The same four outputs of a model of ours."""
    noise = model.unet(inputs.noisy, inputs.timestep, encoder_hidden_states=inputs.context).sample
    return {
        "unet": noise,
        "encoder": model.autoencoder.encode(inputs.image).latent_dist.parameters,
        "decoder": model.autoencoder.decode(inputs.latent).sample,
        "text": model.text_encoder(inputs.ids).last_hidden_state,
    }


def relative_difference(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm())


def with_average(state: dict[str, Tensor], change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Add `model_ema.*` as the released code names it, with other values."""
    average = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): change(tensor)
        for name, tensor in state.items()
        if name.startswith("model.diffusion_model.")
    }
    assert len(average) == sum(name.startswith("model.diffusion_model.") for name in state)
    counters = {
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(7, dtype=torch.int32),
    }
    return {**state, **average, **counters}


def averaged_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state with the average in the place of the plain UNet."""
    return {
        name: state.get("model_ema." + name.removeprefix("model.").replace(".", ""), tensor)
        for name, tensor in state.items()
    }


def buffers(length: int) -> dict[str, Tensor]:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, dim=0)
    return {
        "betas": betas.float(),
        "alphas_cumprod": kept.float(),
        "posterior_variance": torch.zeros(1000),
        "logvar": torch.zeros(1000),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(length)[
            None
        ],
    }


def save_lightning(path: Path, state: dict[str, Tensor]) -> None:
    """Write a checkpoint as Lightning 1.4 does: callbacks keyed by their class."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    module = types.ModuleType(name)
    callback = type("ModelCheckpoint", (), {"__module__": name})
    module.ModelCheckpoint = callback  # type: ignore[attr-defined]
    packages = {
        part: types.ModuleType(part)
        for part in ("pytorch_lightning", "pytorch_lightning.callbacks")
    }
    sys.modules.update({**packages, name: module})
    try:
        content = {
            "epoch": 3,
            "global_step": 1234,
            "pytorch-lightning_version": "1.4.2",
            "state_dict": state,
            "callbacks": {callback: {"best_model_score": torch.tensor(0.1), "dirpath": "logs"}},
            "optimizer_states": [],
            "lr_schedulers": [],
        }
        torch.save(content, path)
    finally:
        for part in (*packages, name):
            del sys.modules[part]
