"""Diffusers folders, plain ones and ours: a folder for each part, `model_index.json` above."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from v2ir.errors import InputError, ModelError
from v2ir.files import read_json, write_json
from v2ir.hub import keys, pickles
from v2ir.hub.compvis import plain_config
from v2ir.hub.contents import (
    PARTS,
    Contents,
    PartName,
    Problem,
    ReadSettings,
    expected_shapes,
    gather,
    unexpected,
)
from v2ir.model.card import ModelCard
from v2ir.model.folder import CARD_NAME, Model
from v2ir.model.networks import Architecture
from v2ir.model.pooling import pools_text
from v2ir.model.text import TEXT_ENCODERS

INDEX_NAME = "model_index.json"
_FOLDERS: dict[PartName, str] = {
    "unet": "unet",
    "autoencoder": "vae",
    "text_encoder": "text_encoder",
}
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_PIPELINES = {1: "StableDiffusionPipeline", 2: "StableDiffusionInstructPix2PixPipeline"}
_ANCESTRAL = "EulerAncestralDiscreteScheduler"


def read(path: Path, settings: ReadSettings) -> Contents:
    """Read a diffusers folder or a model folder.

    Raises:
        InputError: If averaged weights are asked for, or a file cannot be read.
        ModelError: If the folder is incomplete or is of another kind of model.
    """
    if settings.weights == "averaged":
        raise InputError(
            f"{path} has no averaged weights beside the plain ones",
            do="leave --weights away for a folder",
        )
    _check_index(path)
    configs = {part: _config(path, part) for part in PARTS}
    architecture = Architecture(
        autoencoder_class=configs["autoencoder"].get("_class_name", "AutoencoderKL"),
        autoencoder=plain_config(configs["autoencoder"]),
        unet=plain_config(configs["unet"]),
        text_encoder_class=_text_encoder_class(path),
        text_encoder=plain_config(configs["text_encoder"]),
        scheduler=plain_config(read_json(path / "scheduler" / "scheduler_config.json")),
        factor=_factor(configs["autoencoder"]),
    )
    found: dict[PartName, dict[str, Tensor]] = {}
    gaps: dict[PartName, frozenset[str]] = {}
    problems: list[Problem] = []
    passed_over = 0
    for part in PARTS:
        wanted = expected_shapes(part, architecture)
        tensors = _weights(path / _FOLDERS[part])
        name_of = _naming(part, tensors, architecture)
        found[part], wrong, passed = _fit(wanted, tensors, name_of, _FOLDERS[part])
        gaps[part] = frozenset(wanted) - set(found[part])
        problems += wrong
        passed_over += passed
    tokenizer = path / "tokenizer"
    return Contents(
        layout="model" if (path / CARD_NAME).is_file() else "diffusers",
        source=path.name,
        weights="plain",
        architecture=architecture,
        tensors=found,
        gaps=gaps,
        problems=tuple(problems),
        passed_over=passed_over,
        card=_card(path),
        tokenizer=tokenizer if tokenizer.is_dir() else None,
    )


def _check_index(path: Path) -> None:
    index = read_json(path / INDEX_NAME)
    missing = [part for part in _FOLDERS.values() if part not in index]
    extra = [name for name in ("text_encoder_2", "transformer", "controlnet") if index.get(name)]
    if missing or extra:
        raise ModelError(
            f"{path} is not of the family of Stable Diffusion 1.x",
            got=f"{index.get('_class_name')}; missing {missing}, beyond it {extra}",
            do="give the folder of a Stable Diffusion 1.x or InstructPix2Pix pipeline",
        )


def _config(path: Path, part: PartName) -> dict[str, Any]:
    config: dict[str, Any] = read_json(path / _FOLDERS[part] / "config.json")
    wanted = {"unet": "UNet2DConditionModel"}.get(part)
    got = config.get("_class_name")
    if wanted and got != wanted:
        raise ModelError(
            f"the {part} of {path} cannot be read", got=str(got), do=f"wanted {wanted}"
        )
    return config


def _text_encoder_class(path: Path) -> str:
    kind = str(read_json(path / INDEX_NAME)["text_encoder"][1])
    if kind not in TEXT_ENCODERS:
        raise ModelError(
            f"the text_encoder of {path} cannot be read",
            got=kind,
            do=f"wanted one of {', '.join(TEXT_ENCODERS)}",
        )
    return kind


def _factor(config: Mapping[str, Any]) -> int:
    widths = config.get("block_out_channels") or config.get("encoder_block_out_channels") or ()
    return 2 ** (len(widths) - 1) if widths else 8


def _card(path: Path) -> ModelCard | None:
    if not (path / CARD_NAME).is_file():
        return None
    try:
        return ModelCard.model_validate(read_json(path / CARD_NAME))
    except ValidationError as error:
        raise ModelError(f"{path / CARD_NAME} is not valid", got=str(error)) from error


def _fit(
    wanted: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, Tensor],
    name_of: Callable[[str], str | None],
    folder: str,
) -> tuple[dict[str, Tensor], list[Problem], int]:
    found, problems, used = gather(wanted, tensors, name_of)
    buffers = {key for key in tensors if key.endswith("position_ids")}
    problems += unexpected(tensors, used | buffers)
    named = [Problem(p.kind, f"{folder}/{p.key}", p.detail) for p in problems]
    return found, named, len(buffers)


def _naming(
    part: PartName, tensors: Mapping[str, Tensor], architecture: Architecture
) -> Callable[[str], str | None]:
    """Return the function that gives the folder's name of a tensor, old ones included."""
    if part == "text_encoder" and architecture.text_encoder_class == "CLIPTextModel":
        wrapped = keys.is_wrapped(tensors)
        return lambda key: keys.text_name(key, wrapped=wrapped)

    def name_of(key: str) -> str:
        old = keys.old_attention_name(key) if part == "autoencoder" else key
        return old if key not in tensors and old in tensors else key

    return name_of


def _weights(folder: Path) -> dict[str, Tensor]:
    """Read the weights of a part: safetensors before pickles, full before half precision."""
    for suffix in (".safetensors", ".bin"):
        for variant in ("", ".fp16"):
            for stem in _STEMS:
                path = folder / f"{stem}{variant}{suffix}"
                shards = folder / f"{stem}{suffix}.index{variant}.json"
                if path.is_file():
                    return pickles.read_tensors(path)[0]
                if shards.is_file():
                    return _shards(folder, shards)
    raise ModelError(
        f"{folder} holds no weights",
        got=f"{sorted(path.name for path in folder.glob('*'))}",
        do="download the whole pipeline",
    )


def _shards(folder: Path, index: Path) -> dict[str, Tensor]:
    names = sorted(set(read_json(index)["weight_map"].values()))
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors |= pickles.read_tensors(folder / Path(name).name)[0]
    return tensors


def write_plain(model: Model, path: Path) -> None:
    """Write a plain diffusers folder, without the model card.

    With four or eight input channels the pipelines for Stable Diffusion or for
    InstructPix2Pix open it; with twelve, or with styles, its parts open one by one.
    """
    from diffusers import __version__
    from diffusers.schedulers.scheduling_euler_ancestral_discrete import (
        EulerAncestralDiscreteScheduler,
    )

    model.save(path)
    with contextlib.suppress(FileNotFoundError):
        (path / CARD_NAME).unlink()
    index = read_json(path / INDEX_NAME)
    kind = pipeline_of(model)
    if kind is not None:
        # The pipelines warn unless the offset is 1, which evenly spaced steps do not use.
        solver = EulerAncestralDiscreteScheduler.from_config(model.scheduler.config, steps_offset=1)
        solver.save_pretrained(path / "scheduler")
        index |= {"_class_name": kind, "scheduler": ["diffusers", _ANCESTRAL]}
        absent = ("safety_checker", "feature_extractor", "image_encoder")
        index |= {name: [None, None] for name in absent}
        index["requires_safety_checker"] = False
    index["_diffusers_version"] = __version__
    write_json(path / INDEX_NAME, dict(sorted(index.items())))


def pipeline_of(model: Model) -> str | None:
    """Return the name of diffusers' pipeline that opens the model, if there is one."""
    unet = model.unet.config
    if unet.num_class_embeds or type(model.autoencoder).__name__ != "AutoencoderKL":
        return None
    if model.card.latent_std or model.card.scale_conditions or pools_text(model.unet):
        return None
    return _PIPELINES.get(unet.in_channels // unet.out_channels)
