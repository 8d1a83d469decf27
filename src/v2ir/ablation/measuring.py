"""Translate the test scenes with a trial's model and measure them."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from v2ir.ablation.settings import AblationSettings
from v2ir.ablation.studies import Study
from v2ir.ablation.trials import Result, Trial
from v2ir.errors import DataError
from v2ir.evaluation import SCORES
from v2ir.evaluation.cases import Knowledge, plan_comparison
from v2ir.evaluation.comparison import Evaluation, evaluate
from v2ir.evaluation.context import Context, context_of_data
from v2ir.evaluation.features import load_features
from v2ir.evaluation.sets import SetReport, evaluate_sets
from v2ir.evaluation.statistics import measure_reference
from v2ir.evaluation.tables import EVERYTHING
from v2ir.model import load_model
from v2ir.records import Progress
from v2ir.sampling import Annotators, TranslateSettings, Translator, translate
from v2ir.sampling.translate import SceneStyles
from v2ir.training import Recipe
from v2ir.training.scenes import training_scenes

Bar = Callable[[str], Progress]
Failures = tuple[tuple[str, str], ...]
FLOOR, FLOOR_ROW = "constant", "constant image"


@dataclasses.dataclass(frozen=True)
class TestScenes:
    """The scenes that every trial is measured on.

    Attributes:
        context: What the data set knows about them.
        styles: Camera style of each scene, in which it is translated.
        annotators: Their captions and maps, as the data set holds them.
    """

    __test__ = False  # no test class, whatever its name

    context: Context
    styles: SceneStyles
    annotators: Annotators


def read_test_scenes(settings: AblationSettings) -> TestScenes:
    """Choose the scenes that are measured, the same for every row.

    Raises:
        DataError: If there are none.
    """
    context = context_of_data(settings.data_dir, settings.selection)
    split = settings.selection.split
    known = {item.scene.name: item for item in training_scenes(settings.data_dir, split)}
    names = sorted(name for name in context.selected or () if name in context.visible)
    if not names:
        raise DataError(
            f"{settings.data_dir} has no pairs to measure on",
            got=f"split {settings.selection.split}, alignment {settings.selection.alignment}",
            do="index a data set with test pairs, or choose another --split",
        )
    if settings.limit is not None and settings.limit < len(names):
        places = np.linspace(0, len(names) - 1, settings.limit).round().astype(int)
        names = [names[place] for place in places]
    items = [known[name] for name in names]
    return TestScenes(
        context=dataclasses.replace(context, selected=frozenset(names)),
        styles={item.scene.name: item.scene.style for item in items},
        annotators=Annotators(
            captions={item.scene.name: item.captions[0] for item in items if item.captions},
            maps={item.scene.name: item.segmentation for item in items if item.segmentation},
        ),
    )


def check_annotations(study: Study, scenes: TestScenes) -> None:
    """Refuse a study whose rows learn from what the test scenes lack.

    Raises:
        DataError: If no test scene has a caption or a map and a row was trained with it.
    """
    used = {name for row in study.rows for name in trained_with(row.recipe)}
    for name, found in (
        ("text", scenes.annotators.captions),
        ("segmentation", scenes.annotators.maps),
    ):
        if name in used and not found:
            raise DataError(
                f"no test scene has what the rows learn from: {name}",
                do="run `v2ir annotate` on the data set first",
            )


def trained_with(recipe: Recipe) -> frozenset[str]:
    """Return the conditions that a recipe's stages give to the network."""
    return frozenset(name for stage in recipe.stages for name in stage.conditions)


def translated(trial: Trial, model_dir: Path, scenes: TestScenes, bar: Bar) -> Failures:
    """Translate the test scenes; images that are there already are kept.

    Conditions that the recipe never gave are left out, whatever the model's card says, so
    that a row which started from a larger model is not fed what it was to do without.
    """
    model = load_model(model_dir, trial.settings.device)
    sampling, trained = trial.row.sampling, trained_with(trial.row.recipe)
    gone = [
        word
        for word, name in (("caption", "text"), ("segmentation", "segmentation"))
        if name in model.card.conditions and name not in trained
    ]
    translator = Translator(
        model,
        TranslateSettings(
            seed=trial.seed,
            steps=sampling.steps,
            solver=sampling.solver,
            guidance=sampling.guidance(model.card.guidance),
            without=tuple(gone),  # type: ignore[arg-type]
        ),
    )
    report = translate(
        trial.settings.data_dir,
        trial.images_dir,
        translator,
        scenes.annotators,
        bar(f"{trial.name}: translate"),
        scenes.styles,
    )
    return tuple((f"{trial.name}: {name}", reason) for name, reason in report.failures)


def measured(trial: Trial, scenes: TestScenes, bar: Bar) -> tuple[Result, Failures]:
    """Measure a trial's images against the true ones."""
    evaluation, sets = _compared(trial, scenes, Knowledge(), bar(f"{trial.name}: compare"))
    result = _result(trial.row.name, trial.seed, trial.key, evaluation, 0, sets)
    failures = tuple((f"{trial.name}: {name}", reason) for name, reason in evaluation.failures)
    return result, failures


def floor_of(trial: Trial, scenes: TestScenes, bar: Bar) -> Result:
    """Measure the constant image of each style's mean, which knows no photograph.

    Args:
        trial: Any trial that has been translated; its settings are all that matters.
        scenes: The test scenes.
        bar: Asked for a progress function.
    """
    progress = bar(f"{FLOOR_ROW}: training images")
    reference, _ = measure_reference(scenes.context.training, progress)
    evaluation, sets = _compared(trial, scenes, Knowledge(reference), bar(f"{FLOOR_ROW}: compare"))
    place = evaluation.methods.index(FLOOR)
    return _result(FLOOR_ROW, 0, floor_key(trial.settings), evaluation, place, sets)


def floor_key(settings: AblationSettings) -> str:
    """SHA-256 of what the constant image's numbers depend on."""
    scenes = (settings.data_dir / "scenes.jsonl").read_bytes()
    facts = f"{settings.selection} {settings.limit} {settings.features}"
    return hashlib.sha256(facts.encode() + scenes).hexdigest()


def _compared(
    trial: Trial, scenes: TestScenes, knowledge: Knowledge, progress: Progress
) -> tuple[Evaluation, SetReport | None]:
    plan = plan_comparison({"trial": trial.images_dir}, trial.settings.data_dir, scenes.context)
    evaluation = evaluate(plan, knowledge, progress=progress)
    features = trial.settings.features
    if features is None or len(evaluation.names) < 2:
        return evaluation, None
    return evaluation, evaluate_sets(plan, evaluation, load_features(features), knowledge)


def _result(
    row: str, seed: int, key: str, evaluation: Evaluation, place: int, sets: SetReport | None
) -> Result:
    """Gather the numbers of the method at `place`."""
    method = evaluation.methods[place]
    metrics = [name for name in SCORES if any(name in r.scores for r in evaluation.rows)]

    def means(style: str | None) -> dict[str, float | None]:
        found = {name: evaluation.mean(method, name, style) for name in metrics}
        return {name: value if math.isfinite(value) else None for name, value in found.items()}

    scores = {score.method: score.frechet for score in sets.scores} if sets else {}
    return Result(
        row=row,
        seed=seed,
        key=key,
        images=evaluation.num_images(),
        means={**{style: means(style) for style in evaluation.styles}, EVERYTHING: means(None)},
        frechet=scores.get(method),
        frechet_name=sets.frechet_name if sets else None,
    )
