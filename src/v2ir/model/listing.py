"""The parts of a model folder: their names, and `model_index.json` for diffusers."""

from __future__ import annotations

from typing import Any

_CLASSES = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "scheduler": ("diffusers", "DDPMScheduler"),
}


def part_names(image_encoder: bool) -> list[str]:
    """Return the names of a model's networks, with or without an image encoder."""
    return ["unet", "autoencoder", "text_encoder", *(["image_encoder"] if image_encoder else [])]


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
    if model.image_encoder is not None:
        parts["image_encoder"] = ["v2ir.model.image_encoder", "ImageEncoder"]
    return {"_class_name": "DiffusionPipeline", **dict(sorted(parts.items()))}
