"""The layout of CompVis' latent diffusion: DiffV2IR, InstructPix2Pix, Stable Diffusion, TxT2IR.

One file holds the UNet below `model.diffusion_model.`, its running average below
`model_ema.` with the dots removed, the autoencoder below `first_stage_model.`, the text
encoder below `cond_stage_model.transformer.` and the noise schedule as buffers. The text
encoder is CLIP's, or latent diffusion's own for word pieces, as in TxT2IR.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from v2ir.errors import InputError, ModelError
from v2ir.files import atomic_write
from v2ir.hub import inference, keys, pickles
from v2ir.hub.contents import (
    PARTS,
    Contents,
    PartName,
    Problem,
    ReadSettings,
    Weights,
    expected_shapes,
    gather,
    unexpected,
)
from v2ir.model.card import ModelCard
from v2ir.model.folder import Model
from v2ir.model.networks import ARCHITECTURES, Architecture

SUFFIXES = frozenset({".ckpt", ".safetensors"})
_GROUPS = 32
_TEXT_ENCODERS = frozenset({"CLIPTextModel", "LDMBertModel"})


def read(path: Path, settings: ReadSettings) -> Contents:
    """Read a checkpoint in the CompVis layout.

    Raises:
        InputError: If the file cannot be read or lacks the averaged weights asked for.
        ModelError: If it holds no latent diffusion model.
    """
    tensors, notes = pickles.read_tensors(path)
    _check_layout(path, tensors)
    weights = _choose_weights(path, tensors, settings.weights)
    wrapped = keys.is_wrapped(
        key.removeprefix(keys.TEXT_PREFIX) for key in tensors if key.startswith(keys.TEXT_PREFIX)
    )
    card, architecture = _noted(path, notes) or (None, _infer(tensors, settings, wrapped))
    found: dict[PartName, dict[str, Tensor]] = {}
    problems: list[Problem] = []
    used: set[str] = set()
    shapes = {part: expected_shapes(part, architecture) for part in PARTS}
    for part, wanted in shapes.items():
        name_of = naming(part, architecture, averaged=weights == "averaged", wrapped=wrapped)
        found[part], wrong, taken = gather(
            wanted, tensors, name_of, keys.is_pointwise if part == "autoencoder" else _never
        )
        problems += wrong
        used |= taken
    plain = naming("unet", architecture)
    known = _known(tensors, {plain(key) for key in shapes["unet"]}, used)
    problems += unexpected(tensors, used | known)
    return Contents(
        layout="compvis",
        source=path.name,
        weights=weights,
        architecture=architecture,
        tensors=found,
        gaps={part: frozenset(shapes[part]) - set(found[part]) for part in PARTS},
        problems=tuple(problems),
        passed_over=len(known),
        card=card,
    )


def _never(_: str) -> bool:
    return False


def _check_layout(path: Path, tensors: Mapping[str, Tensor]) -> None:
    if not any(key.startswith(keys.UNET_PREFIX) for key in tensors):
        raise ModelError(
            f"{path} is not a checkpoint in the CompVis layout",
            got=f"no key begins with {keys.UNET_PREFIX}; the first are {sorted(tensors)[:4]}",
            do="give a whole Stable Diffusion 1.x, InstructPix2Pix or DiffV2IR checkpoint",
        )


def _choose_weights(path: Path, tensors: Collection[str], wanted: Weights | None) -> Weights:
    has_average = any(key.startswith(f"{keys.AVERAGED_PREFIX}diffusion_model") for key in tensors)
    if wanted == "averaged" and not has_average:
        raise InputError(
            f"{path} has no averaged weights",
            got=f"no key begins with {keys.AVERAGED_PREFIX}",
            do="take the plain ones with --weights plain",
        )
    return wanted or ("averaged" if has_average else "plain")


def _noted(path: Path, notes: Mapping[str, Any]) -> tuple[ModelCard, Architecture] | None:
    """Return what v2ir wrote into its own checkpoint, or None in a foreign one."""
    if not notes:
        return None
    try:
        return (
            ModelCard.model_validate(notes.get("card")),
            Architecture.model_validate(notes.get("architecture")),
        )
    except ValidationError as error:
        raise ModelError(f"the notes of v2ir in {path} are not valid", got=str(error)) from error


def _infer(tensors: Mapping[str, Tensor], settings: ReadSettings, wrapped: bool) -> Architecture:
    scale = tensors.get("scale_factor")
    pieces = keys.TEXT_PREFIX + keys.WORD_PIECE_MARK in tensors
    text = inference.Shapes(tensors, keys.TEXT_PREFIX + ("text_model." if wrapped else ""))
    tell = inference.word_piece_config if pieces else inference.text_config
    autoencoder = inference.autoencoder_config(
        inference.Shapes(tensors, keys.AUTOENCODER_PREFIX),
        inference.LATENT_SCALE if scale is None else float(scale),
    )
    return Architecture(
        unet=inference.unet_config(inference.Shapes(tensors, keys.UNET_PREFIX), settings.heads),
        autoencoder=autoencoder,
        text_encoder_class="LDMBertModel" if pieces else "CLIPTextModel",
        text_encoder=tell(text, settings.text_heads),
        scheduler=inference.schedule_config(tensors, ARCHITECTURES["sd15"].scheduler),
        factor=2 ** (len(autoencoder["block_out_channels"]) - 1),
    )


def naming(
    part: PartName, architecture: Architecture, *, averaged: bool = False, wrapped: bool = True
) -> Callable[[str], str | None]:
    """Return the function that gives the CompVis name of one of a network's tensors.

    Args:
        part: The network.
        architecture: Its configuration.
        averaged: Whether the UNet's average is meant.
        wrapped: Whether the text encoder's names begin with `text_model.` there.
    """
    if part == "text_encoder" and architecture.text_encoder_class == "CLIPTextModel":
        return lambda key: keys.TEXT_PREFIX + keys.text_name(key, wrapped=wrapped)
    if part == "text_encoder":
        layers = architecture.text_encoder["encoder_layers"]
        table, prefix = keys.word_piece_modules(layers), keys.TEXT_PREFIX
    elif part == "unet":
        table, prefix = keys.unet_modules(architecture.unet), keys.UNET_PREFIX
    else:
        table, prefix = keys.autoencoder_modules(architecture.autoencoder), keys.AUTOENCODER_PREFIX

    def name_of(key: str) -> str | None:
        found = keys.translate(key, table)
        if found is None:
            return None
        full = prefix + found
        return keys.averaged_key(full) if averaged and part == "unet" else full

    return name_of


def _known(
    tensors: Collection[str], names: Collection[str | None], used: Collection[str]
) -> set[str]:
    """Return the keys that are known and not taken: buffers, and the UNet's other weights.

    Args:
        tensors: Keys of the checkpoint.
        names: Plain names of the UNet's weights.
        used: Keys that were taken.
    """
    both = {*names, *(keys.averaged_key(name) for name in names if name)}
    return {
        key
        for key in tensors
        if key not in used
        and (key in both or any(fnmatch.fnmatchcase(key, like) for like in keys.KNOWN_BUFFERS))
    }


def write(model: Model, path: Path) -> None:
    """Write a model as a CompVis checkpoint, `.ckpt` or `.safetensors`.

    A `.ckpt` names the UNet's weights a second time as averaged ones, because the released
    sampling code takes those; both names share one copy on the disk. Safetensors cannot
    share, so such a file holds the plain names alone.

    Raises:
        InputError: If the name ends in anything else.
        ModelError: If the layout has no place for a part of the model.
        OutputError: If the disk refuses.
    """
    architecture = architecture_of(model)
    _check_writable(model, architecture)
    tensors = _foreign_tensors(model, architecture)
    card = model.card.model_dump(mode="json")
    notes = json.dumps({"card": card, "architecture": architecture.model_dump(mode="json")})
    if path.suffix == ".safetensors":
        from safetensors.torch import save

        contiguous = {key: tensor.contiguous() for key, tensor in tensors.items()}
        with atomic_write(path) as stream:
            stream.write(save(contiguous, metadata={pickles.METADATA_KEY: notes}))
        return
    if path.suffix != ".ckpt":
        raise InputError(
            f"cannot write {path}",
            got=path.suffix,
            do="give a name ending in .ckpt or .safetensors",
        )
    averaged = {
        keys.averaged_key(key): tensor
        for key, tensor in tensors.items()
        if key.startswith(keys.UNET_PREFIX)
    }
    counters = {
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(0, dtype=torch.int32),
    }
    state = {**tensors, **averaged, **counters}
    with atomic_write(path) as stream:
        torch.save(
            {"state_dict": state, "global_step": 0, "epoch": 0, pickles.METADATA_KEY: notes}, stream
        )


def architecture_of(model: Model) -> Architecture:
    """Return the configurations of a model's parts."""
    return Architecture(
        autoencoder_class=type(model.autoencoder).__name__,
        autoencoder=plain_config(model.autoencoder.config),
        unet=plain_config(model.unet.config),
        text_encoder_class=type(model.text_encoder).__name__,
        text_encoder=plain_config(model.text_encoder.config.to_diff_dict()),
        scheduler=plain_config(model.scheduler.config),
        factor=model.card.factor,
    )


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without the entries that name its library and its file."""
    left_out = {"architectures", "model_type", "transformers_version", "dtype", "torch_dtype"}
    return {
        key: value
        for key, value in config.items()
        if not key.startswith("_") and key not in left_out
    }


def _check_writable(model: Model, architecture: Architecture) -> None:
    """Refuse what CompVis' code fixes otherwise, or has no names for."""
    encoder = architecture.text_encoder_class
    facts = {
        "text encoder": (encoder, encoder if encoder in _TEXT_ENCODERS else "LDMBertModel"),
        "autoencoder": (architecture.autoencoder_class, "AutoencoderKL"),
        "groups of the UNet's normalisation": (
            architecture.unet.get("norm_num_groups", _GROUPS),
            _GROUPS,
        ),
        "groups of the autoencoder's normalisation": (
            architecture.autoencoder.get("norm_num_groups", _GROUPS),
            _GROUPS,
        ),
        "scale of each latent channel": (model.card.latent_std, ()),
    }
    for what, (got, wanted) in facts.items():
        if got != wanted:
            raise ModelError(
                f"the model {model.card.name} has no form in the CompVis layout: {what}",
                got=f"{got}, not {wanted or 'one scale for all'}",
                do="write a diffusers folder instead",
            )


def _foreign_tensors(model: Model, architecture: Architecture) -> dict[str, Tensor]:
    """Return all tensors by their CompVis names, with the buffers that its code expects."""
    tensors: dict[str, Tensor] = {}
    for part in PARTS:
        name_of = naming(part, architecture)
        for key, tensor in getattr(model, part).state_dict().items():
            name = name_of(key)
            if name is None:
                raise ModelError(
                    f"the CompVis layout has no name for {key} of the {part}",
                    do="write a diffusers folder instead",
                )
            pointwise = part == "autoencoder" and keys.is_pointwise(key)
            tensors[name] = (tensor[:, :, None, None] if pointwise else tensor).detach()
    tensors = {**schedule_buffers(model.schedule.alphas_cumprod), **tensors}
    if architecture.text_encoder_class == "CLIPTextModel":
        length = model.text_encoder.config.max_position_embeddings
        positions = f"{keys.TEXT_PREFIX}text_model.embeddings.position_ids"
        tensors[positions] = torch.arange(length)[None]
    return tensors


def schedule_buffers(kept: Tensor) -> dict[str, Tensor]:
    """Return the buffers of CompVis' DDPM for alpha_t^2 of all timesteps, (T,), float32.

    Source: Ho et al. 2020, Eqs. 6 and 7, for the posterior q(x_{t-1} | x_t, x_0).
    """
    kept = kept.double()
    before = torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
    betas = 1 - kept / before
    variance = betas * (1 - before) / (1 - kept)
    values = {
        "betas": betas,
        "alphas_cumprod": kept,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": kept.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - kept).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - kept).log(),
        "sqrt_recip_alphas_cumprod": kept.rsqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / kept - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp_min(1e-20).log(),
        "posterior_mean_coef1": betas * before.sqrt() / (1 - kept),
        "posterior_mean_coef2": (1 - before) * (1 - betas).sqrt() / (1 - kept),
    }
    return {name: values[name].float() for name in keys.SCHEDULE_BUFFERS}
