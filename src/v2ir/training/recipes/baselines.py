"""Trained baselines: other methods on the same scenes, for as many training images."""

from __future__ import annotations

from typing import Any

from v2ir.training.recipes.ablations import with_phases, without_conditions
from v2ir.training.recipes.budget import num_images, with_images
from v2ir.training.recipes.thermal import THERMAL_ROWS, decomposition_stage
from v2ir.training.stage import Recipe

_ONE_STEP: dict[str, Any] = {
    "conditions": ["visible"], "prompt_template": "{caption}", "prompt_without_caption": "",
    "solver": "mean", "steps": 1, "one_step": True,
    "guidance": {"text": 1.0, "visible": 1.0, "segmentation": 1.0},
}  # fmt: skip


def regression(base: Recipe, architecture: str, suffix: str = "", **stage: Any) -> Recipe:
    """Return a U-Net on pixels that learns the infrared picture by L1.

    Its stages are those of the base's phases 2 and 3: the same scenes, crops, batches and
    learning rates, and phase 1's images on top. The style is told as it is to the base.

    Args:
        base: Recipe whose budget and loader the baseline shares.
        architecture: Row of `v2ir.model.ARCHITECTURES` on pixels.
        suffix: Ending of the recipe's name.
        **stage: Further changes to every stage.
    """
    changes: dict[str, Any] = {
        "objective": "regression", "conditions": ("visible",), "trains": ("unet",),
        "drop": 0.0, "noise_shift": 1.0, "prompt": None, "sample_every": 0, **stage,
    }  # fmt: skip
    stages = tuple(
        one.model_copy(update=changes) for one in with_phases(base, (2, 3)).stages if one.phase
    )
    sizes: tuple[str, ...] = ("resolution", "multiple")
    facts = {key: base.card[key] for key in sizes if key in base.card}
    made = Recipe(
        name=f"{changes['objective']}{suffix}",
        architecture=architecture,
        stages=stages,
        card={**facts, **_ONE_STEP},
    )
    return with_images(made, num_images(base))


def pix2pix(base: Recipe, architecture: str, suffix: str = "") -> Recipe:
    """Return Pix2Pix: the same network with a patch discriminator, GAN + 100 L1.

    Source: Isola et al. 2017; the rate 2e-4 is theirs.
    """
    return regression(
        base, architecture, suffix, objective="pix2pix", adversarial=0.01, learning_rate=2e-4
    )


def instruct_pix2pix(base: Recipe, suffix: str = "") -> Recipe:
    """Return InstructPix2Pix: the base's denoiser without the map and without phase 1.

    Source: Brooks et al. 2023; DiffV2IR, Sec. 5, which starts from it.
    """
    made = without_conditions(with_phases(base, (2, 3)), {"segmentation"}, "map")
    made = made.model_copy(update={"name": f"instruct-pix2pix{suffix}"})
    return with_images(made, num_images(base))


def pid(base: Recipe, suffix: str = "", **decomposition: Any) -> Recipe:
    """Return a denoiser after PID: told the visible image alone, with its loss of heat's parts.

    The network is the base's, without map, caption and phase 1. A small network learns to take
    infrared images apart first, and the loss on what it says of the pictures acts in the last
    stage, where the camera's own look is learned. It learns from no pairs, so its images do
    not count in the budget.
    Source: Mao et al. 2024 (PID), with this project's form of the loss; docs/thermal-losses.md.

    Args:
        base: Recipe whose budget, loader and network the baseline shares.
        suffix: Ending of the recipe's name.
        **decomposition: Changes of the stage that trains that network.
    """
    bare = without_conditions(with_phases(base, (2, 3)), {"segmentation", "text"}, "understanding")
    *before, last = bare.stages
    phases = [stage for stage in before if stage.phase]
    first = [stage for stage in before if not stage.phase]
    loss = last.model_copy(update=THERMAL_ROWS["decomposition"])
    stages = (*first, decomposition_stage(**decomposition), *phases, loss)
    made = bare.model_copy(update={"name": f"pid{suffix}", "stages": stages})
    return with_images(made, num_images(base))
