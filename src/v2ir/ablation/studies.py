"""What is compared: rows that differ in one thing, and the two tables of the paper."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from v2ir.errors import InputError, UnknownNameError
from v2ir.model import CONDITION_NAMES, Guidance, ModelCard
from v2ir.records import JsonRecord
from v2ir.sampling.solvers import FROM_ZEROS
from v2ir.training import Recipe
from v2ir.training.recipes.ablations import with_phases, without_conditions
from v2ir.training.recipes.thermal import thermal_losses
from v2ir.training.stage import THERMAL_OBJECTIVES

YES, NO, NOT_ASKED = "yes", "no", "-"


@dataclasses.dataclass(frozen=True)
class Sampling(JsonRecord):
    """How a row's model is sampled; None takes what the model's card says.

    Attributes:
        solver: Name of the solver.
        steps: Number of its steps.
        text: Guidance scale s_T.
        visible: Guidance scale s_V.
        segmentation: Guidance scale s_S.
    """

    solver: str | None = None
    steps: int | None = None
    text: float | None = None
    visible: float | None = None
    segmentation: float | None = None

    def guidance(self, default: Guidance) -> Guidance:
        """Return the guidance with the scales that are given here."""
        given = {name: getattr(self, name) for name in CONDITION_NAMES}
        return default.model_copy(update={k: v for k, v in given.items() if v is not None})


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        name: Name, unlike that of any other row; its results and images stand under it.
        recipe: What is trained; several rows may share one.
        marks: What the row has, one text for each of the study's heads.
        sampling: How the model is sampled.
    """

    name: str
    recipe: Recipe
    marks: tuple[str, ...] = ()
    sampling: Sampling = Sampling()


@dataclasses.dataclass(frozen=True)
class Study:
    """A table to be filled.

    Attributes:
        name: Name of the table.
        heads: Heads of the columns that say what a row has.
        rows: The rows.
        trains_each: Whether every seed trains a model of its own; else one model is trained
            and every seed samples it anew.
        scores: Scores that the table shows, names of `v2ir.evaluation.SCORES`.
    """

    name: str
    heads: tuple[str, ...]
    rows: tuple[Row, ...]
    trains_each: bool = True
    scores: tuple[str, ...] = ("psnr", "ssim", "correlation", "sharpness")


def table3(base: Recipe) -> Study:
    """Return DiffV2IR's Table 3 for a recipe of three phases.

    First the phases, each combination that has pairs to learn from, with the visible image
    for the only condition; then all phases with the caption, with the map, with both.
    Source: DiffV2IR, Table 3 and Sec. 5.4.
    """
    phases = sorted({stage.phase for stage in base.stages if stage.phase})
    if phases != [1, 2, 3]:
        raise InputError(
            f"table3 needs a recipe of three phases, and {base.name} is none",
            got=f"phases {', '.join(map(str, phases)) or 'none'}",
            do="give --base mini, tiny or diffv2ir, or name the recipes themselves",
        )
    rows = []
    for kept in ((2,), (1, 2), (3,), (1, 3), (2, 3), (1, 2, 3)):
        bare = without_conditions(base, {"segmentation", "text"}, "understanding")
        recipe = bare if len(kept) == 3 else with_phases(bare, kept)
        marks = [YES if phase in kept else NO for phase in (1, 2, 3)]
        rows.append(Row(recipe.name, recipe, (*marks, NOT_ASKED, NOT_ASKED)))
    for gone, label, marks in (
        ({"segmentation"}, "map", [NO, YES]),
        ({"text"}, "caption", [YES, NO]),
    ):
        recipe = without_conditions(base, gone, label)
        rows.append(Row(recipe.name, recipe, (YES, YES, YES, *marks)))
    rows.append(Row(base.name, base, (YES,) * 5))
    return Study("table3", ("phase 1", "phase 2", "phase 3", "map", "caption"), tuple(rows))


def table4(base: Recipe) -> Study:
    """Return DiffV2IR's Table 4: one model, other numbers of steps and other scales.

    Around the model's own setting: steps times 1/2, 1, 3/2 and 2, each scale times 2/3, 1
    and 4/3. Around 100 steps and 7.5 / 1.5 / 1.5 these are the published rows. A model
    whose own setting has no chance in it or no guidance is sampled by `dpmpp` around 8
    steps and scales of 1.5.
    Source: DiffV2IR, Table 4.
    """
    card = ModelCard(name=base.name, channels=1, **base.card)
    if card.one_step:
        raise InputError(f"{base.name} has no steps and no guidance", do="give another --base")
    solver, steps = card.solver, card.steps
    if solver in FROM_ZEROS:
        solver, steps = "dpmpp", 8
    scales = {name: getattr(card.guidance, name) for name in CONDITION_NAMES}
    if set(scales.values()) == {1.0}:
        scales = dict.fromkeys(scales, 1.5)
    centre = Sampling(solver=solver, steps=steps, **scales)
    changes: dict[str, Sampling] = {}
    for factor in (0.5, 1.0, 1.5, 2.0):
        number = max(1, round(steps * factor))
        changes[f"steps-{number}"] = dataclasses.replace(centre, steps=number)
    for name, value in scales.items():
        for factor in (2 / 3, 1.0, 4 / 3):
            scale = round(value * factor, 3)
            label = f"{name}-{scale:g}"
            changes[label] = dataclasses.replace(centre, **{name: scale})
    rows = tuple(
        Row(label, base, tuple(f"{value:g}" for value in _shown(sampling)), sampling)
        for label, sampling in changes.items()
        if sampling != centre or label == f"steps-{steps}"
    )
    return Study("table4", ("steps", "s_T", "s_V", "s_S"), rows, trains_each=False)


def thermal(base: Recipe) -> Study:
    """Return the thermal losses in the last stage of a recipe: none, mask, decomposition.

    The table shows the error inside and outside the hot regions and their contrast.
    """
    denoises = base.stages[-1].objective in THERMAL_OBJECTIVES
    if not denoises:
        raise InputError(
            f"thermal needs a recipe whose last stage denoises, and {base.name} is none",
            got=f"objective {base.stages[-1].objective}",
            do="give --base mini, mini-thermal-none, tiny or diffv2ir",
        )
    bare = base.model_copy(update={"name": base.name.removesuffix("-thermal-none")})
    known = any(stage.objective == "decomposition" for stage in base.stages)
    rows = tuple(
        Row(recipe.name, recipe, (last.thermal_loss if last.thermal else "none", last.thermal_form))
        for recipe in thermal_losses(bare, first=not known).values()
        for last in recipe.stages[-1:]
    )
    scores = ("hot error", "cold error", "hot contrast", "psnr", "ssim")
    return Study("thermal", ("loss", "form"), rows, scores=scores)


def _shown(sampling: Sampling) -> tuple[float, ...]:
    found = (sampling.steps, sampling.text, sampling.visible, sampling.segmentation)
    return tuple(float(value) for value in found if value is not None)


def table_of(recipes: Sequence[Recipe]) -> Study:
    """Return a study with a row for each recipe.

    Raises:
        InputError: If two have the same name.
    """
    names = [recipe.name for recipe in recipes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError("rows need different names", got=", ".join(twice))
    return Study("recipes", (), tuple(Row(recipe.name, recipe) for recipe in recipes))


STUDIES: dict[str, Callable[[Recipe], Study]] = {
    "table3": table3,
    "table4": table4,
    "thermal": thermal,
}
"""Ready-made lists: a base recipe becomes a table."""


def study_of(words: Sequence[str], base: Recipe, load: Callable[[str], Recipe]) -> Study:
    """Return the study that a user's words name.

    Args:
        words: One name of `STUDIES`, or names and files of recipes.
        base: Recipe that a ready-made list varies.
        load: Finds a recipe by name or file.

    Raises:
        InputError: If a ready-made list stands beside others.
        UnknownNameError: If a name is unknown.
    """
    if len(words) == 1 and words[0] in STUDIES:
        return STUDIES[words[0]](base)
    if mixed := [word for word in words if word in STUDIES]:
        raise InputError(
            "a ready-made list stands alone", got=", ".join(mixed), do="give it a folder of its own"
        )
    try:
        return table_of([load(word) for word in words])
    except UnknownNameError as error:
        raise InputError(
            "there is no such list or recipe",
            got=error.got,
            do=f"{error.do}; lists: {', '.join(STUDIES)}",
        ) from error
