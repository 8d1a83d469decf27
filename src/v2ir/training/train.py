"""Training: the stages of a recipe, one after the other, into a run folder."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from v2ir.errors import UnknownNameError
from v2ir.model import Model, ModelCard, add_styles, architecture, build_model
from v2ir.model.folder import load_model
from v2ir.records import Progress, no_progress
from v2ir.training.average import averaged
from v2ir.training.cache import Caches, LatentCache, TextCache, weights_hash
from v2ir.training.loop import StageRun, train_stage
from v2ir.training.objectives import OBJECTIVES
from v2ir.training.preview import preview
from v2ir.training.run import Run
from v2ir.training.scenes import TrainingScene, scenes_of, training_scenes
from v2ir.training.stage import Recipe, Stage

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """Where training reads and writes.

    Attributes:
        data_dir: Data set folder.
        run_dir: Run folder.
        stages: Names of the stages to run; empty runs all that are not finished.
        start_from: Model folder or name to start from instead of random weights.
        cache_dir: Folder of the latent cache; by default a hidden one in the data set.
    """

    data_dir: Path
    run_dir: Path
    stages: tuple[str, ...] = ()
    start_from: str | None = None
    cache_dir: Path | None = None


def train(
    recipe: Recipe,
    settings: TrainSettings,
    progress: Callable[[str], Progress] = lambda stage: no_progress,
) -> Path:
    """Run the stages of a recipe; the same call continues an interrupted run.

    Args:
        recipe: The recipe.
        settings: Folders and stages.
        progress: Asked for a progress function at the start of each stage.

    Returns:
        Folder of the last finished stage's model.

    Raises:
        RunError: If the run folder belongs to another recipe.
        DataError: If the data set does not have what a stage needs.
        UnknownNameError: If a stage is asked for that the recipe does not have.
    """
    # Gradients of saturated units underflow; on CPUs denormal numbers are many times slower.
    torch.set_flush_denormal(True)
    wanted = _chosen(recipe, settings.stages)
    run = Run(settings.run_dir)
    run.open(recipe)
    scenes = training_scenes(settings.data_dir)
    previous: Path | None = None
    with run.events():
        for place, stage in enumerate(recipe.stages):
            if stage.name in wanted and not run.is_finished(stage.name):
                model = _model_before(stage, recipe, settings, scenes, previous)
                _run_stage(stage, place, recipe, settings, scenes, model, progress(stage.name))
            if run.is_finished(stage.name):
                previous = run.model(stage.name)
    return previous or run.model(recipe.stages[-1].name)


def _chosen(recipe: Recipe, names: Sequence[str]) -> set[str]:
    known = [stage.name for stage in recipe.stages]
    for name in names:
        if name not in known:
            raise UnknownNameError.of(f"stage of the recipe {recipe.name}", name, known)
    return set(names or known)


def _model_before(
    stage: Stage,
    recipe: Recipe,
    settings: TrainSettings,
    scenes: Sequence[TrainingScene],
    previous: Path | None,
) -> Model:
    """Return the model that a stage starts from: the averaged weights of the last one.

    It is always read from its folder, so that a run in one go and a continued one start
    a stage from the same numbers.
    """
    start = previous or settings.start_from
    if start is None:
        every = {item.scene.style for item in scenes if item.scene.style}
        return _fresh(recipe, sorted(every), scenes)
    styles = {item.scene.style for item in scenes_of(stage, scenes) if item.scene.style}
    return _with_styles(load_model(start), sorted(styles))


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


def _run_stage(
    stage: Stage,
    place: int,
    recipe: Recipe,
    settings: TrainSettings,
    scenes: Sequence[TrainingScene],
    model: Model,
    progress: Progress,
) -> None:
    run = Run(settings.run_dir)
    chosen = scenes_of(stage, scenes)
    logger.info("stage %s: %d scenes, %d steps", stage.name, len(chosen), stage.steps)
    for module in (model.unet, model.autoencoder):
        torch.nn.Module.to(module, memory_format=torch.channels_last)  # type: ignore[call-overload]
    caches = _caches(model, settings.cache_dir or settings.data_dir / ".cache")
    objective = OBJECTIVES[stage.objective](model, stage, caches)
    sample = None
    if "unet" in stage.trains:
        sample = _previewer(run, stage, model, chosen)
    facts = {"recipe": recipe.name, "seed": recipe.seed, "stage": stage.model_dump(mode="json")}
    objective.prepare(chosen, progress)
    state = train_stage(
        objective,
        chosen,
        StageRun(stage, (recipe.seed, place), run, facts, sample),
        progress,
    )
    with averaged(state.averages, state.modules):
        _rest(state.modules.values())
        objective.finish(chosen)
        _save(objective.model, recipe, stage, run)
        if sample:
            sample(None)


def _rest(modules: Iterable[torch.nn.Module]) -> None:
    for module in modules:
        module.eval().requires_grad_(False)


def _caches(model: Model, folder: Path) -> Caches:
    from v2ir.model.networks import encode_mode

    def encode(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return encode_mode(model.autoencoder, images)

    # The decoder may be trained further without making the latents stale.
    encoder_hash = weights_hash(model.autoencoder, without=("decoder", "post_quant_conv"))
    return Caches(
        LatentCache(folder / "latents", encode, encoder_hash),
        TextCache(
            folder / "text",
            lambda prompt: model.embed_prompts([prompt])[0],
            f"{weights_hash(model.text_encoder)} {model.card.text_length}",
        ),
    )


def _previewer(run: Run, stage: Stage, model: Model, scenes: Sequence[TrainingScene]) -> Any:
    generator = np.random.default_rng(0)
    shown = [scenes[index] for index in generator.permutation(len(scenes))[:4]]

    def sample(state: Any) -> None:
        path = run.samples / f"{stage.name}-{'end' if state is None else f'{state.step:08d}'}.png"
        if state is None:
            preview(model, shown, stage, path)
            return
        with averaged(state.averages, state.modules):
            model.forget_prompts()
            preview(model, shown, stage, path)
        model.forget_prompts()

    return sample


def _save(model: Model, recipe: Recipe, stage: Stage, run: Run) -> None:
    card = model.card.model_copy(
        update={
            "name": recipe.name,
            "recipe": {**recipe.model_dump(mode="json"), "finished": stage.name},
        }
    )
    dataclasses.replace(model, card=card).save(run.model(stage.name))
