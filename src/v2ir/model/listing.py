"""The parts of a model folder: their names, and `model_index.json` for diffusers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from v2ir.model.decomposition import DecompositionNetwork
from v2ir.model.detail_decoder import DetailDecoder
from v2ir.model.image_encoder import ImageEncoder
from v2ir.model.own_network import OwnNetwork
from v2ir.model.small_decoder import SmallDecoder
from v2ir.model.small_encoder import SmallEncoder

_CLASSES = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "scheduler": ("diffusers", "DDPMScheduler"),
}


OWN_PARTS: dict[str, Any] = {"image_encoder": ImageEncoder, "detail_decoder": DetailDecoder}
"""Networks of ours that diffusers saves, by the names of field and folder."""
OWN_NETWORKS: dict[str, type[OwnNetwork]] = {
    "decomposition": DecompositionNetwork,
    "decoder": SmallDecoder,
    "encoder": SmallEncoder,
}
"""Networks of ours that save themselves, in the same way."""


def part_names(has: Callable[[str], bool]) -> list[str]:
    """Return the names of a model's networks: three, and those of ours that it has."""
    return ["unet", "autoencoder", "text_encoder", *filter(has, OWN_PARTS)]


def part_classes(model: Any) -> dict[str, Any]:
    """Return the listing of a `Model`: library and class of each part by its folder."""
    parts = {name: list(value) for name, value in _CLASSES.items()}
    kind = type(model.autoencoder)
    own = kind.__module__.startswith("v2ir.")
    parts["vae"] = [kind.__module__ if own else "diffusers", kind.__name__]
    encoder = type(model.text_encoder)
    of_diffusers = encoder.__module__.startswith("diffusers.")
    # By this name diffusers finds its own pipeline's text encoder.
    library = "latent_diffusion" if of_diffusers else "transformers"
    parts["text_encoder"] = [library, encoder.__name__]
    parts["tokenizer"] = ["transformers", type(model.tokenizer).__name__]
    for name, part in OWN_PARTS.items():
        if getattr(model, name) is not None:
            parts[name] = [part.__module__, part.__name__]
    return {"_class_name": "DiffusionPipeline", **dict(sorted(parts.items()))}


def subfolder(name: str) -> str:
    """Return the name of a network's folder by the name of its field."""
    return "vae" if name == "autoencoder" else name


def hide_bars() -> None:
    """Keep transformers from drawing bars of its own: progress is the caller's to show."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
