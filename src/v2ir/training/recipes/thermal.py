"""Rows that compare the thermal losses: none, the mask, the decomposition."""

from __future__ import annotations

from typing import Any

from v2ir.training.recipes.parts import ANNOTATORS
from v2ir.training.stage import Recipe, Stage

THERMAL_ROWS: dict[str, dict[str, Any]] = {
    "none": {},
    "mask": {"thermal": 50.0},
    "mask-published": {"thermal": 50.0, "thermal_form": "published"},
    "decomposition": {"thermal": 50.0, "thermal_loss": "decomposition"},
    "decomposition-published": {
        "thermal": 50.0, "thermal_loss": "decomposition", "thermal_form": "published",
    },
}  # fmt: skip
"""What each row changes in the last stage of a recipe."""


def thermal_losses(
    recipe: Recipe, *, first: bool = True, **decomposition: Any
) -> dict[str, Recipe]:
    """Return a recipe with each of the thermal losses in its last stage, and with none.

    All begin with the stage that trains the decomposition network, needed or not, so that
    all of them draw the same scenes, noise and timesteps from the same seed.

    Args:
        recipe: The recipe; its last stage is one that denoises.
        first: Whether that stage is put first; else the recipe has it already.
        **decomposition: Changes of that first stage.
    """
    before = (decomposition_stage(**decomposition),) if first else ()
    *others, last = recipe.stages
    rows = {}
    for label, changes in THERMAL_ROWS.items():
        name = f"{recipe.name}-thermal-{label}"
        stages = (*before, *others, Stage(**{**last.model_dump(), **changes}))
        rows[name] = recipe.model_copy(update={"name": name, "stages": stages})
    return rows


def decomposition_stage(**changes: Any) -> Stage:
    """Return the stage that learns temperature, emissivity and environment."""
    settings: dict[str, Any] = {
        "name": "decomposition", "objective": "decomposition", "scenes": "infrared",
        "conditions": (), "trains": ("decomposition",), "balance": 0.5, "batch_size": 8,
        "crop": 96, "scales": (1.0, 2.0), "learning_rate": 2e-3, "warmup_steps": 20,
        "steps": 300, "decay_steps": 300, "average_decay": 0.99, "smoothness": 1e-2,
        "drop": 0.0, "drop_style": 0.0,
    }  # fmt: skip
    return Stage(**{**settings, **changes})


def mini_further() -> Recipe:
    """Return a short further training of the bundled model, `--from mini`.

    The bundled model makes pictures in one step from pure noise, so most of its samples are
    noisy ones, as in its own last stage.
    """
    return Recipe(
        name="mini",
        architecture="mini",
        stages=(
            Stage(
                name="heat", phase=3, trains=("unet", "text_encoder"), steps=300, decay_steps=300,
                styles=("llvip", "metu_vistir", "msrs", "roadscene"),
                alignment=("strict", "near"), balance=0.5, batch_size=4, learning_rate=2e-4,
                warmup_steps=20, noise_shift=10.0, average_decay=0.99, crop=128,
                scales=(1.0, 1.5), thermal_share=0.5, variants=2, checkpoint_every=150,
            ),
        ),
        card={**ANNOTATORS, "resolution": 384, "multiple": 32},
    )  # fmt: skip
