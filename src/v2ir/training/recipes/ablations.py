"""Recipes with something left out: the rows of DiffV2IR's Table 3."""

from __future__ import annotations

from collections.abc import Collection

from v2ir.model.conditions import CONDITION_NAMES
from v2ir.training.stage import Recipe

PHASES: tuple[tuple[int, ...], ...] = ((2,), (3,), (1, 2), (1, 3), (2, 3))
"""Every combination but the whole one that has pairs to learn from."""


def with_phases(recipe: Recipe, kept: Collection[int]) -> Recipe:
    """Return the recipe with these phases and what comes before them, named after them."""
    stages = tuple(stage for stage in recipe.stages if stage.phase in (0, *kept))
    name = f"{recipe.name}-phases-{''.join(map(str, kept))}"
    return recipe.model_copy(update={"name": name, "stages": stages})


def without_conditions(recipe: Recipe, gone: Collection[str], label: str) -> Recipe:
    """Return the recipe without some conditions in any stage, named `-without-LABEL`.

    A model that it builds does not know them either, so that nothing feeds them to weights
    that were never trained.
    """
    stages = tuple(
        stage.model_copy(update={"conditions": tuple(c for c in stage.conditions if c not in gone)})
        for stage in recipe.stages
    )
    known = recipe.card.get("conditions", CONDITION_NAMES)
    card = {**recipe.card, "conditions": [name for name in known if name not in gone]}
    name = f"{recipe.name}-without-{label}"
    return recipe.model_copy(update={"name": name, "stages": stages, "card": card})


def ablations(recipe: Recipe) -> dict[str, Recipe]:
    """Return the rows of DiffV2IR's Table 3 for a recipe of three phases.

    First every combination of phases that has pairs to learn from, then the conditions:
    without the map, without the caption, and with neither. They are as long as the phases
    that they keep; `v2ir ablate` gives all the same budget.
    """
    rows = [with_phases(recipe, kept) for kept in PHASES]
    rows += [
        without_conditions(recipe, {"segmentation"}, "map"),
        without_conditions(recipe, {"text"}, "caption"),
        without_conditions(recipe, {"segmentation", "text"}, "understanding"),
    ]
    return {row.name: row for row in rows}
