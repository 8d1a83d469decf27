"""How much a recipe trains, in images, and the same recipe with more or less of it."""

from __future__ import annotations

from v2ir.errors import InputError
from v2ir.training.stage import Recipe, Stage


def images_a_step(stage: Stage) -> int:
    """Return how many training images an optimiser step of a stage takes in."""
    return stage.batch_size * stage.accumulation


def num_images(recipe: Recipe) -> int:
    """Return how many training images the phases 1 to 3 of a recipe take in.

    Images, not steps, because stages differ in their batches. What comes before phase 1,
    the autoencoder, does not count.
    """
    return sum(stage.steps * images_a_step(stage) for stage in recipe.stages if stage.phase)


def with_images(recipe: Recipe, number: int) -> Recipe:
    """Return the recipe with its phases made longer or shorter, all by one factor.

    Rounding to whole steps is carried from stage to stage, so that the total is met to
    within half a batch of the last stage, unless that would leave a stage without a step.

    Raises:
        InputError: If the number is not positive, or the recipe has no phase.
    """
    total = num_images(recipe)
    if number < 1 or total == 0:
        raise InputError(
            f"the recipe {recipe.name} cannot be given this budget",
            got=f"{number} images for {total}",
            do="give at least one image to a recipe with phases",
        )
    stages, planned, done = [], 0, 0
    for stage in recipe.stages:
        if stage.phase:
            planned += stage.steps * images_a_step(stage)
            wanted = number * planned / total - done
            scaled = with_steps(stage, max(1, round(wanted / images_a_step(stage))))
            done += scaled.steps * images_a_step(scaled)
            stages.append(scaled)
        else:
            stages.append(stage)
    return recipe.model_copy(update={"stages": tuple(stages)})


def with_steps(stage: Stage, steps: int) -> Stage:
    """Return a stage of another length, its learning rate stretched along."""
    factor = steps / stage.steps
    return stage.model_copy(
        update={
            "steps": steps,
            "warmup_steps": round(stage.warmup_steps * min(1.0, factor)),
            "decay_steps": max(steps, round(stage.decay_steps * factor))
            if stage.decay_steps
            else 0,
        }
    )
