"""Rows of DiffV2IR's Table 3: phases and conditions left out."""

from __future__ import annotations

from v2ir.training.stage import Recipe


def ablations(recipe: Recipe) -> dict[str, Recipe]:
    """Return the rows of DiffV2IR's Table 3 for a recipe of three phases.

    First every combination of phases that has pairs to learn from, then the conditions:
    without the map, without the caption, and with neither.
    """
    rows = {}
    for kept in ((2,), (3,), (1, 2), (1, 3), (2, 3)):
        stages = tuple(stage for stage in recipe.stages if stage.phase in (0, *kept))
        name = f"{recipe.name}-phases-{''.join(map(str, kept))}"
        rows[name] = recipe.model_copy(update={"name": name, "stages": stages})
    for label, gone_conditions in (
        ("map", {"segmentation"}),
        ("caption", {"text"}),
        ("understanding", {"segmentation", "text"}),
    ):
        name = f"{recipe.name}-without-{label}"
        stages = tuple(
            stage.model_copy(
                update={
                    "conditions": tuple(c for c in stage.conditions if c not in gone_conditions)
                }
            )
            for stage in recipe.stages
        )
        rows[name] = recipe.model_copy(update={"name": name, "stages": stages})
    return rows
