"""A trial: one row with one seed, and the file that says it is done."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from v2ir.ablation.settings import AblationSettings
from v2ir.ablation.studies import Row, Study
from v2ir.errors import DataError, RunError
from v2ir.files import hash_file, read_json
from v2ir.model import find_model
from v2ir.records import JsonRecord
from v2ir.training import Recipe, Stage
from v2ir.training.objectives import FOR_AUTOENCODERS
from v2ir.training.recipes.budget import with_images, with_steps


@dataclasses.dataclass(frozen=True)
class Result(JsonRecord):
    """What a trial measured.

    Attributes:
        row: Name of the row.
        seed: The seed.
        key: Changes with anything that the numbers depend on.
        images: Number of images that were measured.
        means: Mean of each score by style, and under `all`.
        frechet: Frechet distance as a set, if a feature network was given.
        frechet_name: Its name.
    """

    row: str
    seed: int
    key: str
    images: int
    means: dict[str, dict[str, float | None]]
    frechet: float | None = None
    frechet_name: str | None = None


@dataclasses.dataclass(frozen=True)
class Trial:
    """One row with one seed.

    Attributes:
        row: The row.
        seed: Added to the recipe's seed; it is the seed of the sampling too.
        recipe: The phases to train, within the budget and with their own seed; None where a
            given model is sampled as it is.
        before: Stages of the autoencoder, which trials share.
        settings: What all trials have in common.
    """

    row: Row
    seed: int
    recipe: Recipe | None
    before: tuple[Stage, ...]
    settings: AblationSettings

    @property
    def name(self) -> str:
        """Name of the trial for people."""
        return f"{self.row.name} seed {self.seed}"

    @property
    def run_dir(self) -> Path:
        """Run folder of the training; trials that sample one model share it."""
        assert self.recipe is not None
        return self.settings.out_dir / "runs" / self.recipe.name / f"seed-{self.recipe.seed}"

    @property
    def images_dir(self) -> Path:
        """Folder of the translated images."""
        return self.settings.out_dir / "images" / self.row.name / f"seed-{self.seed}"

    @property
    def result_path(self) -> Path:
        """The file that is there when the trial is done."""
        return self.settings.out_dir / "results" / f"{self.row.name}-seed-{self.seed}.json"

    @property
    def key(self) -> str:
        """SHA-256 of everything that the numbers depend on, besides the code."""
        settings = self.settings
        facts: dict[str, Any] = {
            "recipe": self.recipe.model_dump(mode="json") if self.recipe else None,
            "before": [stage.model_dump(mode="json") for stage in self.before],
            "sampling": self.row.sampling.to_json(),
            "seed": self.seed,
            "start": [
                _weights(name)
                for name in (settings.autoencoder, settings.start_from, settings.model)
            ],
            "selection": settings.selection.to_json(),
            "limit": settings.limit,
            "features": settings.features,
            "data": hash_file(settings.data_dir / "scenes.jsonl"),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def result(self) -> Result | None:
        """Return what was measured before, or None.

        Raises:
            RunError: If it was measured under other settings.
        """
        if not self.result_path.exists():
            return None
        try:
            found = Result.from_json(read_json(self.result_path))
        except (DataError, TypeError):
            return None
        if found.key != self.key:
            raise RunError(
                f"{self.result_path} was measured under other settings",
                got=f"key {found.key[:12]}, not {self.key[:12]}",
                do="give another folder, or the budget, data and options of the first call",
            )
        return found


@functools.lru_cache
def _weights(name: str | None) -> str | None:
    """Return a hash of a model's weights, since a folder may be trained anew."""
    if name is None:
        return None
    files = sorted(find_model(name).glob("*/*.safetensors"))
    total = hashlib.sha256(" ".join(hash_file(path) for path in files).encode())
    return total.hexdigest()


def trials_of(study: Study, settings: AblationSettings) -> list[Trial]:
    """Return all trials, seed by seed, so that an early end leaves whole tables.

    Raises:
        InputError: If a recipe cannot be given the budget.
    """
    return [_trial(row, seed, study, settings) for seed in settings.seeds for row in study.rows]


def _trial(row: Row, seed: int, study: Study, settings: AblationSettings) -> Trial:
    if settings.model is not None:
        return Trial(row, seed, None, (), settings)
    recipe = row.recipe
    before = tuple(stage for stage in recipe.stages if stage.objective in FOR_AUTOENCODERS)
    has_weights = settings.autoencoder is not None or settings.start_from is not None
    shared = () if has_weights else tuple(_shortened(stage, settings.scale) for stage in before)
    phases = tuple(_silent(stage) for stage in recipe.stages if stage not in before)
    own = recipe.seed + seed if study.trains_each else recipe.seed
    trained = recipe.model_copy(update={"stages": phases, "seed": own})
    return Trial(row, seed, with_images(trained, settings.images), shared, settings)


def _silent(stage: Stage) -> Stage:
    return stage.model_copy(update={"sample_every": 0})


def _shortened(stage: Stage, scale: float) -> Stage:
    return with_steps(stage, max(1, round(stage.steps * scale)))
