"""Fill a study's table, trial by trial; what is done stays done."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from v2ir.ablation.measuring import (
    FLOOR,
    Failures,
    TestScenes,
    check_annotations,
    floor_key,
    floor_of,
    measured,
    read_test_scenes,
    translated,
)
from v2ir.ablation.settings import AblationSettings
from v2ir.ablation.studies import Study
from v2ir.ablation.tables import table_of_results, write_tables
from v2ir.ablation.training import trained_model
from v2ir.ablation.trials import Result, Trial, trials_of
from v2ir.errors import DataError, InputError, OutputError, V2IRError
from v2ir.evaluation.tables import Table
from v2ir.files import read_json, write_json
from v2ir.records import Progress, no_progress
from v2ir.training.recipes.budget import num_images

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class AblationReport:
    """What a call did.

    Attributes:
        table: The table, as far as it is filled.
        made: Number of trials that were run.
        kept: Number of trials that an earlier call had run.
        changed: Files of the table that changed.
        failures: (trial or image, reason) of what could not be done.
    """

    table: Table
    made: int
    kept: int
    changed: tuple[Path, ...]
    failures: Failures


def ablate(
    study: Study,
    settings: AblationSettings,
    progress: Callable[[str], Progress] = lambda what: no_progress,
) -> AblationReport:
    """Train, translate and measure every row with every seed.

    The table is written anew after each trial. A trial that fails is listed and the others
    go on; it is tried again by the next call. An interrupted training continues.

    Args:
        study: The rows.
        settings: What they have in common.
        progress: Asked for a progress function at the start of each step of a trial.

    Raises:
        InputError: If the settings do not fit the study.
        RunError: If the folder holds results of other settings.
        DataError: If there is nothing to measure on.
        OutputError: If the disk refuses.
    """
    check_settings(study, settings)
    trials = trials_of(study, settings)
    done = {trial.name: trial.result() for trial in trials}
    pending = [trial for trial in trials if done[trial.name] is None]
    kept = len(trials) - len(pending)
    failures: list[tuple[str, str]] = []
    changed: list[Path] = []
    floor = _kept_floor(settings)
    if pending or floor is None:
        scenes = read_test_scenes(settings)
        check_annotations(study, scenes)
    for trial in pending:
        try:
            done[trial.name], problems = _run(trial, scenes, progress)
            failures += problems
            if floor is None:
                floor = _measure_floor(trial, scenes, progress)
        except OutputError:
            raise
        except V2IRError as error:
            logger.warning("%s failed", trial.name, exc_info=True)
            failures.append((trial.name, str(error)))
        changed += write_tables(study, trials, _by_row(trials, done), floor)
    changed += write_tables(study, trials, _by_row(trials, done), floor)
    made = sum(done[trial.name] is not None for trial in pending)
    table = table_of_results(study, _by_row(trials, done), floor)
    return AblationReport(table, made, kept, tuple(dict.fromkeys(changed)), tuple(failures))


def check_settings(study: Study, settings: AblationSettings) -> None:
    """Refuse settings that have no effect on a study, or none that is meant.

    Raises:
        InputError: If there are any.
    """
    if settings.model is not None and study.trains_each:
        raise InputError(
            f"the rows of {study.name} are trained, so no model can be given",
            got=settings.model,
            do="give it to table4, or as --from or --autoencoder",
        )
    given = [settings.model, settings.start_from, settings.autoencoder]
    if sum(value is not None for value in given) > 1:
        raise InputError(
            "--model, --from and --autoencoder exclude each other",
            got=", ".join(str(value) for value in given if value is not None),
            do="give one of them",
        )
    if not settings.seeds or settings.images < 1 or (settings.limit or 1) < 1:
        raise InputError("seeds, budget and limit must be positive")


def _run(
    trial: Trial, scenes: TestScenes, progress: Callable[[str], Progress]
) -> tuple[Result | None, Failures]:
    """Run one trial; it counts only if every image was made and measured."""
    model_dir = trained_model(trial, progress)
    failures = translated(trial, model_dir, scenes, progress)
    if failures:
        return None, failures
    result, failures = measured(trial, scenes, progress)
    if failures:
        return None, failures
    write_json(trial.result_path, result.to_json())
    return result, ()


def _floor_path(settings: AblationSettings) -> Path:
    return settings.out_dir / "results" / f"{FLOOR}.json"


def _kept_floor(settings: AblationSettings) -> Result | None:
    try:
        found = Result.from_json(read_json(_floor_path(settings)))
    except (DataError, TypeError):
        return None
    return found if found.key == floor_key(settings) else None


def _measure_floor(trial: Trial, scenes: TestScenes, progress: Callable[[str], Progress]) -> Result:
    floor = floor_of(trial, scenes, progress)
    write_json(_floor_path(trial.settings), floor.to_json())
    return floor


def _by_row(trials: Sequence[Trial], done: Mapping[str, Result | None]) -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = {}
    for trial in trials:
        if (result := done[trial.name]) is not None:
            found.setdefault(trial.row.name, []).append(result)
    return found


def describe(study: Study, settings: AblationSettings) -> Sequence[str]:
    """Say, a line a trial, what is done and what would be; nothing is written.

    Raises:
        InputError: If the settings do not fit the study.
        RunError: If the folder holds results of other settings.
        DataError: If there is nothing to measure on.
    """
    check_settings(study, settings)
    scenes = read_test_scenes(settings)
    check_annotations(study, scenes)
    lines = [f"{study.name}: {len(scenes.styles)} images to measure on"]
    shared = {stage.name: stage.steps for t in trials_of(study, settings) for stage in t.before}
    lines += [f"shared stage {name}: {steps} steps" for name, steps in shared.items()]
    for trial in trials_of(study, settings):
        state = "done" if trial.result() else "to do"
        if trial.recipe is None:
            lines.append(f"{state}: {trial.name}: sample {settings.model}")
            continue
        steps = ", ".join(f"{stage.name} {stage.steps}" for stage in trial.recipe.stages)
        total = num_images(trial.recipe)
        lines.append(f"{state}: {trial.name}: {total} training images in steps of {steps}")
    return lines
