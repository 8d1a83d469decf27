"""The named recipes, and recipes from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from v2ir.errors import InputError, UnknownNameError
from v2ir.files import read_json
from v2ir.training.recipes.ablations import ablations
from v2ir.training.recipes.baselines import instruct_pix2pix, pid, pix2pix, regression
from v2ir.training.recipes.distillation import (
    distil,
    mini_distil,
    mini_one_step,
    mini_tiny_decoder,
    mini_tiny_encoder,
    tiny_decoder,
    tiny_encoder,
)
from v2ir.training.recipes.parts import INFRARED_PROMPT
from v2ir.training.recipes.text import ir_autoencoder, txt2ir, txt2ir_mini
from v2ir.training.recipes.thermal import mini_further, thermal_losses
from v2ir.training.recipes.translation import (
    camera,
    camera_lora,
    diffv2ir,
    mini,
    mini_detail,
    tiny,
)
from v2ir.training.stage import Recipe

__all__ = ["INFRARED_PROMPT", "RECIPES", "ablations", "load_recipe"]

_TRANSLATION = (
    mini(),
    mini_detail(),
    camera(),
    camera_lora(),
    tiny(),
    diffv2ir(256),
    diffv2ir(512),
)
_TEXT = (
    txt2ir(),
    txt2ir_mini(),
    ir_autoencoder("ir-autoencoder", "txt2ir", 128),
    ir_autoencoder("ir-autoencoder-f8", "txt2ir-f8", 64),
)
_TINY_DECOMPOSITION: dict[str, Any] = {
    "steps": 6, "decay_steps": 0, "batch_size": 2, "crop": 32, "checkpoint_every": 2,
}  # fmt: skip
_BASELINES = (
    regression(mini(), "pixels-mini"),
    regression(tiny(), "pixels-tiny", "-tiny"),
    pix2pix(mini(), "pixels-mini"),
    pix2pix(tiny(), "pixels-tiny", "-tiny"),
    instruct_pix2pix(mini()),
    instruct_pix2pix(tiny(), "-tiny"),
    pid(mini()),
    pid(tiny(), "-tiny", **_TINY_DECOMPOSITION),
)
_DISTILLATION = (
    distil(),
    mini_distil(),
    mini_one_step(),
    tiny_decoder(),
    mini_tiny_decoder(),
    tiny_encoder(),
    mini_tiny_encoder(),
)
RECIPES: dict[str, Recipe] = {
    **{r.name: r for r in (*_TRANSLATION, *_TEXT, *_BASELINES, *_DISTILLATION)},
    "diffv2ir": diffv2ir(256),
    **ablations(diffv2ir(256)),
    **ablations(mini()),
    **ablations(tiny()),
    **thermal_losses(mini_further()),
    **thermal_losses(diffv2ir(256), crop=256),
    **thermal_losses(txt2ir(), crop=256),
    **thermal_losses(txt2ir_mini()),
    **thermal_losses(tiny(), **_TINY_DECOMPOSITION),
}
"""`diffv2ir` is `diffv2ir-256`, as published; rows of the paper's Table 3 by their names, and
rows of the thermal losses as NAME-thermal-LOSS (`mini`: a further training of the bundled
model)."""


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Return a recipe by name or from a JSON file.

    A file holds a whole recipe, or `{"from": NAME, ...}` to change fields of a named one;
    under `stages` it may then give, by stage name, the fields to change, and under `card`
    those facts of the model that differ.

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
    if isinstance(changes.get("card"), dict):
        merged["card"] = {**base.card, **changes["card"]}
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
