"""The named recipes, and recipes from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from v2ir.errors import InputError, UnknownNameError
from v2ir.files import read_json
from v2ir.training.stage import Recipe, Stage

INFRARED_PROMPT = "an infrared image"
_STREET = ("llvip", "metu_vistir", "msrs", "roadscene")
_ANNOTATORS = {"captioner": "statistics", "segmenter": "regions"}


def _autoencoder(**changes: Any) -> Stage:
    settings: dict[str, Any] = {
        "name": "autoencoder",
        "objective": "reconstruction",
        "scenes": "infrared",
        "conditions": (),
        "trains": ("autoencoder",),
        "balance": 0.5,
        "crop": 128,
        "scales": (1.0, 3.0),
        "batch_size": 8,
        "warmup_steps": 50,
        "average_decay": 0.995,
        "learning_rate": 1e-3,
        "drop": 0.0,
        "drop_style": 0.0,
    }
    return Stage(**{**settings, **changes})


def _mini() -> Recipe:
    # Small batches: more updates for the same work. Most samples are noisy ones, because where
    # heat is gets decided there.
    small: dict[str, Any] = {
        "trains": ("unet", "text_encoder"), "batch_size": 8, "average_decay": 0.999,
        "balance": 0.5, "scales": (1.0, 1.5), "learning_rate": 6e-4, "warmup_steps": 50,
        "sample_every": 500,
    }  # fmt: skip
    pairs = {**small, "noise_shift": 10.0, "jitter": 0.3}
    street = {
        **pairs, "styles": _STREET, "alignment": ("strict", "near"), "batch_size": 4,
        "objective": "end_to_end", "end_to_end": 0.75, "hot": 1.0, "structure": 0.5,
    }  # fmt: skip
    return Recipe(
        name="mini",
        architecture="mini",
        stages=(
            _autoencoder(steps=2000, decay_steps=2000),
            Stage(
                name="infrared", scenes="infrared", conditions=(), prompt=INFRARED_PROMPT,
                steps=300, variants=1, drop=0.0, noise_shift=3.0, **small,
            ),
            Stage(name="pairs", steps=500, **pairs),
            Stage(name="style", steps=2400, decay_steps=4000, **street),
            # The decoder learns the style's edges and grain with a discriminator's help.
            Stage(
                name="sharpen", steps=1000, decay_steps=1000, adversarial=0.2, features=5.0,
                **{**street, "trains": ("unet", "text_encoder", "decoder"), "learning_rate": 2e-4},
            ),
        ),
        card={
            **_ANNOTATORS,
            "resolution": 384, "multiple": 32, "solver": "dpmpp", "steps": 3,
            "prompt_without_caption": "",
            "guidance": {"text": 1.0, "visible": 1.0, "segmentation": 1.0},
        },
    )  # fmt: skip


def _camera() -> Recipe:
    """Return phase 3 alone: the look of one camera from a small set, `--from` a model."""
    return Recipe(
        name="camera",
        architecture="mini",
        stages=(
            Stage(
                name="style", trains=("unet", "text_encoder"), steps=400, learning_rate=2e-4,
                warmup_steps=20, decay_steps=400, noise_shift=4.0, average_decay=0.99,
                scales=(1.0, 1.5), sample_every=100, checkpoint_every=50,
            ),
        ),
    )  # fmt: skip


def _tiny() -> Recipe:
    """Return a recipe of all stages that trains in seconds, for tests and first tries."""
    small: dict[str, Any] = {
        "steps": 6, "batch_size": 2, "crop": 32, "variants": 2,
        "trains": ("unet", "text_encoder"), "average_decay": 0.9, "checkpoint_every": 2,
    }  # fmt: skip
    return Recipe(
        name="tiny",
        architecture="tiny",
        stages=(
            _autoencoder(steps=6, batch_size=2, crop=32, checkpoint_every=2),
            Stage(
                name="infrared", scenes="infrared", conditions=(), prompt=INFRARED_PROMPT,
                drop=0.0, **small,
            ),
            Stage(name="pairs", sample_every=3, **small),
            Stage(name="style", **small),
        ),
        card={
            **_ANNOTATORS, "resolution": 64, "multiple": 16, "solver": "dpmpp", "steps": 2,
            "guidance": {"text": 1.5, "visible": 1.5, "segmentation": 1.5},
        },
    )  # fmt: skip


RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (_mini(), _camera(), _tiny())}


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Return a recipe by name or from a JSON file.

    A file holds a whole recipe, or `{"from": NAME, ...}` to change fields of a named one;
    under `stages` it may then give, by stage name, the fields to change.

    Raises:
        UnknownNameError: If there is no recipe of that name.
        InputError: If the file's values are not valid.
    """
    path = Path(name_or_path)
    if path.suffix != ".json":
        if str(name_or_path) not in RECIPES:
            raise UnknownNameError.of("recipe", str(name_or_path), RECIPES)
        return RECIPES[str(name_or_path)]
    values = read_json(path)
    try:
        if isinstance(values, dict) and "from" in values:
            return _changed(load_recipe(values["from"]), values)
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{path} is not a valid recipe", got=str(error)) from error


def _changed(base: Recipe, values: dict[str, Any]) -> Recipe:
    changes = {key: value for key, value in values.items() if key not in {"from", "stages"}}
    merged = {**base.model_dump(), **changes}
    per_stage = values.get("stages", {})
    if isinstance(per_stage, list):
        merged["stages"] = per_stage
        return Recipe.model_validate(merged)
    known = {stage.name for stage in base.stages}
    for name in per_stage:
        if name not in known:
            raise UnknownNameError.of(f"stage of the recipe {base.name}", name, known)
    merged["stages"] = [
        {**stage.model_dump(), **per_stage.get(stage.name, {})} for stage in base.stages
    ]
    return Recipe.model_validate(merged)
