"""The model folder: what diffusers' `save_pretrained` writes, and `v2ir.json` beside it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from v2ir.errors import ModelError
from v2ir.files import read_json
from v2ir.model.card import ModelCard
from v2ir.model.finding import CARD_NAME, bundled_models, find_model
from v2ir.model.folding import takes_scales
from v2ir.model.listing import OWN_NETWORKS, OWN_PARTS, hide_bars, part_names, subfolder
from v2ir.model.model import Model
from v2ir.model.networks import num_planes
from v2ir.model.text import TEXT_ENCODERS, text_encoder_class

__all__ = ["CARD_NAME", "Model", "bundled_models", "find_model", "load_model", "load_part"]


def load_model(name_or_path: str | Path = "mini", device: str | torch.device = "cpu") -> Model:
    """Load a model by bundled name, local folder or hub repository, in evaluation mode.

    Weights stored in half precision are computed in float32 on the CPU.

    Raises:
        UnknownNameError: If there is no such model.
        ModelError: If the folder is incomplete or its parts do not fit together.
    """
    folder = find_model(name_or_path)
    try:
        card = ModelCard.model_validate(read_json(folder / CARD_NAME))
        model = Model(card, **_load_parts(folder), hash=_hash(folder))
    except ValidationError as error:
        raise ModelError(f"{folder / CARD_NAME} is not valid", got=str(error)) from error
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{folder} cannot be loaded", got=str(error).splitlines()[0]) from error
    _check_fit(model)
    return model.to(device)


def _load_parts(folder: Path) -> dict[str, Any]:
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    from transformers import AutoTokenizer

    names = part_names(lambda name: (folder / name).is_dir())
    loaded = {name: load_part(folder, name) for name in names}
    loaded["tokenizer"] = AutoTokenizer.from_pretrained(folder / "tokenizer")
    loaded["scheduler"] = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    for name, network in OWN_NETWORKS.items():
        if (folder / name).is_dir():
            loaded[name] = network.load(folder / name)
    return loaded


def load_part(folder: Path, name: str) -> Any:
    """Load a network of a model folder, by the name of its field, in float32.

    Raises:
        ModelError: If the weights do not fill the network.
    """
    hide_bars()
    if name == "text_encoder":
        kind = read_json(folder / "model_index.json")["text_encoder"][1]
        part, info = text_encoder_class(kind).from_pretrained(
            folder / name, dtype=torch.float32, output_loading_info=True, **TEXT_ENCODERS[kind]
        )
    else:
        part, info = _network_class(folder, name).from_pretrained(
            folder, subfolder=subfolder(name), torch_dtype=torch.float32, output_loading_info=True
        )
    _refuse_gaps(name, info)
    return part.eval()


def _network_class(folder: Path, name: str) -> Any:
    import diffusers
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from v2ir.model.pixel_autoencoder import PixelAutoencoder

    if name == "unet":
        return UNet2DConditionModel
    if name in OWN_PARTS:
        return OWN_PARTS[name]
    name = read_json(folder / "model_index.json")["vae"][1]
    return PixelAutoencoder if name == "PixelAutoencoder" else getattr(diffusers, name)


def _refuse_gaps(name: str, info: dict[str, Any]) -> None:
    """Refuse weights that do not fill the network: libraries only print a report."""
    gaps = {
        kind: sorted(map(str, info.get(kind) or ()))
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
    }
    found = {kind: keys for kind, keys in gaps.items() if keys}
    if found:
        raise ModelError(
            f"the weights of {name} do not fit its configuration",
            got=json.dumps({kind: keys[:5] for kind, keys in found.items()}),
            do="convert or save the model again",
        )


def _check_fit(model: Model) -> None:
    """Check that the parts and the card agree on channels, text width and styles."""
    card, unet = model.card, model.unet.config
    seen = model.seen_channels - card.channels
    planes = num_planes(card.conditions)
    facts = {
        "input channels": (unet.in_channels, planes * card.channels + seen),
        "output channels": (unet.out_channels, card.channels),
        "text width": (unet.cross_attention_dim, model.text_encoder.config.hidden_size),
        "styles": (unet.num_class_embeds or 1, len(card.styles) + 1),
        "folded guidance": (takes_scales(model.unet), card.guidance_range is not None),
    }
    if model.decoder is not None:
        facts["small decoder"] = (model.decoder.config["latents"], card.channels)
        facts["small decoder's factor"] = (model.decoder.factor, card.factor)
    if model.encoder is not None:
        facts["small encoder"] = (model.encoder.config["latents"], card.channels)
        facts["small encoder's factor"] = (model.encoder.factor, card.factor)
    for what, (got, wanted) in facts.items():
        if got != wanted:
            raise ModelError(
                f"the {what} of the networks do not fit the model", got=f"{got}, not {wanted}"
            )


def _hash(folder: Path) -> str:
    """Return one SHA-256 over the weights and configurations of a model folder."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in {".safetensors", ".json"}:
            total.update(path.relative_to(folder).as_posix().encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()
