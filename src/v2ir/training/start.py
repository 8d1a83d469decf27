"""The model that a stage starts from."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from v2ir.errors import ModelError
from v2ir.model import Model, ModelCard, add_styles, architecture, build_model, narrow_input
from v2ir.model.folder import load_model
from v2ir.training.scenes import TrainingScene, scenes_of
from v2ir.training.stage import Recipe, Stage

logger = logging.getLogger(__name__)


def model_before(
    stage: Stage, recipe: Recipe, scenes: Sequence[TrainingScene], start: str | Path | None
) -> Model:
    """Return the model that a stage starts from: the averaged weights of the last one.

    It is always read from its folder, so that a run in one go and a continued one start
    a stage from the same numbers. Without a folder the weights are random. A recipe that is
    told text alone may start from a model that is told images too: it takes over its
    autoencoder, and where the denoisers are of one size what that one says without any image.

    Raises:
        ModelError: If such a recipe's denoiser does not fit the model's autoencoder.
    """
    if start is None:
        every = {item.scene.style for item in scenes if item.scene.style}
        return _fresh(recipe, sorted(every), scenes)
    model = load_model(start)
    if set(recipe.card.get("conditions", ())) == {"text"} != set(model.card.conditions):
        model = _told_text_alone(model, recipe, scenes)
    styles = {item.scene.style for item in scenes_of(stage, scenes) if item.scene.style}
    return _with_annotators(_with_styles(model, sorted(styles)), recipe)


def _told_text_alone(model: Model, recipe: Recipe, scenes: Sequence[TrainingScene]) -> Model:
    """Return the recipe's model on a translator's autoencoder.

    Where both denoisers are of one size, it is the translator's without its image conditions.
    """
    fresh = _fresh(recipe, [], scenes)
    kept = ["channels", "factor", "scale_conditions", "latent_mean", "latent_std"]
    if _sizes(fresh.unet) == _sizes(model.unet):
        unet = narrow_input(model.unet, model.card.channels)
        kept.append("styles")
    elif fresh.unet.config.in_channels == model.card.channels:
        logger.info("taking over the autoencoder of %s; the denoiser is new", model.card.name)
        unet = fresh.unet
    else:
        raise ModelError(
            f"the denoiser of {recipe.name} does not fit the autoencoder of {model.card.name}",
            got=f"{fresh.unet.config.in_channels} channels where it makes {model.card.channels}",
            do="start from another model, or from none",
        )
    return dataclasses.replace(
        fresh,
        unet=unet,
        autoencoder=model.autoencoder,
        card=fresh.card.model_copy(update={name: getattr(model.card, name) for name in kept}),
    )


def _sizes(unet: Any) -> tuple[Any, ...]:
    """Return what two denoisers have in common if one's weights are to serve the other."""
    names = ("out_channels", "block_out_channels", "layers_per_block", "cross_attention_dim")
    return tuple(unet.config[name] for name in names)


def _with_annotators(model: Model, recipe: Recipe) -> Model:
    """Name the recipe's captioner and segmenter in a model that learned from none before."""
    told = {what: recipe.card.get(what) for what in ("captioner", "segmenter")}
    new = {what: name for what, name in told.items() if name and not getattr(model.card, what)}
    return dataclasses.replace(model, card=model.card.model_copy(update=new)) if new else model


def _fresh(recipe: Recipe, styles: Sequence[str], scenes: Sequence[TrainingScene]) -> Model:
    """Build the recipe's model with random weights and a vocabulary for its prompts."""
    card = ModelCard(name=recipe.name, channels=1, **recipe.card)
    texts = [card.prompt_template, card.prompt_without_caption, *styles]
    texts += [stage.prompt for stage in recipe.stages if stage.prompt]
    texts += [caption for item in scenes for caption in item.captions]
    return build_model(
        architecture(recipe.architecture),
        name=recipe.name,
        seed=recipe.seed,
        styles=styles,
        words=sorted(_words(texts) | _annotator_words(card.captioner)),
        **recipe.card,
    )


def _words(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in re.findall(r"[a-z0-9]+", text.lower())}


def _annotator_words(captioner: str | None) -> set[str]:
    """Return the closed vocabulary of a captioner that has one."""
    from v2ir.annotation import make_captioner

    if captioner is None:
        return set()
    vocabulary = getattr(make_captioner(captioner), "vocabulary", None)
    return _words(vocabulary()) if vocabulary else set()


def _with_styles(model: Model, styles: Sequence[str]) -> Model:
    """Return the model with embedding rows for styles that it does not know yet."""
    new = [style for style in styles if style not in model.card.styles]
    if not new or not model.unet.config.num_class_embeds:
        return model
    known = (*model.card.styles, *new)
    return dataclasses.replace(
        model,
        unet=add_styles(model.unet, len(known)),
        card=model.card.model_copy(update={"styles": known}),
    )
