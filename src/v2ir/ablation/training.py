"""The models of a study, each trained once, on an autoencoder that they share."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from v2ir.ablation.trials import Trial
from v2ir.errors import ModelError
from v2ir.model import Model, find_model, load_model
from v2ir.model.folder import CARD_NAME
from v2ir.records import Progress
from v2ir.training import Recipe, TrainSettings, train
from v2ir.training.objectives import FOR_AUTOENCODERS
from v2ir.training.run import Run
from v2ir.training.scenes import training_scenes
from v2ir.training.start import model_before

Bar = Callable[[str], Progress]
START_DIR = "start"


def trained_model(trial: Trial, bar: Bar) -> Path:
    """Return the folder of a trial's model, training it where that was not done yet.

    Of a finished run the last model and the log are kept; what only continuing needs goes.

    Raises:
        V2IRError: As `v2ir.training.train` does.
    """
    settings, recipe = trial.settings, trial.recipe
    if recipe is None:
        assert settings.model is not None
        return find_model(settings.model)
    run, last = Run(trial.run_dir), recipe.stages[-1].name
    if not run.is_finished(last):
        asked = TrainSettings(
            settings.data_dir, trial.run_dir, (), _start(trial, bar), settings.caches
        )
        train(recipe, asked, lambda stage: bar(f"{trial.name}: {stage}"))
        _tidy(run, recipe)
    return run.model(last)


def _start(trial: Trial, bar: Bar) -> str | None:
    """Return the model that a trial's phases start from; None where all is random."""
    settings = trial.settings
    if settings.start_from is not None:
        return settings.start_from
    if not any(stage.objective in FOR_AUTOENCODERS for stage in trial.row.recipe.stages):
        return None
    folder = trial.run_dir / START_DIR
    if not (folder / CARD_NAME).is_file():
        source = settings.autoencoder or shared_autoencoder(trial, bar)
        fresh_beside(trial, load_model(source)).save(folder)
    return str(folder)


def shared_autoencoder(trial: Trial, bar: Bar) -> Path:
    """Return a model whose autoencoder all trials with these stages before share."""
    recipe = shared_recipe(trial)
    settings = trial.settings
    folder = settings.out_dir / "shared" / recipe.name
    run, last = Run(folder), recipe.stages[-1].name
    if not run.is_finished(last):
        asked = TrainSettings(settings.data_dir, folder, cache_dir=settings.caches)
        train(recipe, asked, lambda stage: bar(f"shared: {stage}"))
        _tidy(run, recipe)
    return run.model(last)


def shared_recipe(trial: Trial) -> Recipe:
    """Return the recipe of the stages before the phases: equal for equal autoencoders."""
    recipe = trial.row.recipe
    # What the rows differ in is no matter of the autoencoder.
    card = {key: value for key, value in recipe.card.items() if key != "conditions"}
    bare = recipe.model_copy(update={"name": "shared", "stages": trial.before, "card": card})
    digest = hashlib.sha256(json.dumps(bare.model_dump(mode="json"), sort_keys=True).encode())
    return bare.model_copy(update={"name": f"autoencoder-{digest.hexdigest()[:12]}"})


def fresh_beside(trial: Trial, found: Model) -> Model:
    """Return random weights of a trial's own seed beside the autoencoder of a model.

    What else was made with the autoencoder comes along: the image encoder's projection and
    the decomposition network.

    Raises:
        ModelError: If the autoencoder is of another kind than the recipe's.
    """
    recipe = trial.recipe
    assert recipe is not None
    # The stages that were taken out have a say in the words that the tokenizer knows.
    whole = recipe.model_copy(update={"stages": (*trial.before, *recipe.stages)})
    scenes = training_scenes(trial.settings.data_dir)
    fresh = model_before(whole.stages[0], whole, scenes, None)
    facts = [_facts(model) for model in (fresh, found)]
    if facts[0] != facts[1]:
        raise ModelError(
            f"the autoencoder of {found.card.name} does not fit the recipe {recipe.name}",
            got=f"{facts[1]}, not {facts[0]}",
            do="give a model of the recipe's architecture, or leave --autoencoder out",
        )
    moments = {name: getattr(found.card, name) for name in ("latent_mean", "latent_std")}
    return dataclasses.replace(
        fresh,
        autoencoder=found.autoencoder,
        image_encoder=found.image_encoder,
        decomposition=found.decomposition,
        card=fresh.card.model_copy(update=moments),
    )


def _facts(model: Model) -> str:
    card = model.card
    encoder = "an image encoder" if model.image_encoder is not None else "no image encoder"
    kind = type(model.autoencoder).__name__
    return f"{kind} of {card.channels} channels and factor {card.factor}, {encoder}"


def _tidy(run: Run, recipe: Recipe) -> None:
    """Remove what only continuing a run needs."""
    gone = [run.checkpoints, run.folder / START_DIR]
    gone += [run.model(stage.name) for stage in recipe.stages[:-1]]
    for folder in gone:
        shutil.rmtree(folder, ignore_errors=True)
