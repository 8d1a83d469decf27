"""The thermal losses against each other and against none, at equal steps and seeds.

    python benchmarks/thermal_losses.py DATA WORK [--model mini] [--seeds 3] [--steps 300]
        [--rows none mask decomposition] [--styles llvip msrs] [--scenes 40] [--side 192]

DATA is an indexed and annotated data set with pairs in the splits train and test. Each row is
the recipe mini-thermal-ROW, started from the model; WORK keeps the runs, and the same command
continues. All rows of a seed share one decomposition network and every draw. The table shows,
on scenes of the test split resized to `side`, the mean over the seeds and its spread (standard
deviation): error inside and outside the hot regions in grey levels of 255, the contrast of hot
regions against their surroundings as a share of the true one, PSNR and SSIM. Last the mean
difference to the row `none` of the same seed, with its spread.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from pathlib import Path

import numpy as np

from v2ir.evaluation.infrared import Facts, Grey, cold_error, hot_contrast, hot_error
from v2ir.evaluation.metrics import peak_signal_to_noise, structural_similarity
from v2ir.files import write_json
from v2ir.images import read_infrared, read_map, read_visible, resize
from v2ir.model import load_model
from v2ir.sampling import TranslateSettings, Translator
from v2ir.sampling.geometry import undo
from v2ir.training import Recipe, TrainSettings, train
from v2ir.training.recipes import RECIPES
from v2ir.training.scenes import TrainingScene, scenes_of, training_scenes

MEASURES = ("hot error", "cold error", "contrast", "PSNR", "SSIM")


@dataclasses.dataclass(frozen=True)
class Trial:
    """What all rows have in common.

    Attributes:
        data: Data set folder.
        work: Folder of the runs and the latents.
        model: Model to start from.
        steps: Steps of the stage with the loss.
        parts_steps: Steps of the decomposition network.
        crop: Side of a training crop in pixels.
        batch: Batch size.
        styles: Camera styles to train on and to measure.
    """

    data: Path
    work: Path
    model: str
    steps: int
    parts_steps: int
    crop: int
    batch: int
    styles: tuple[str, ...]

    def recipe(self, row: str, seed: int) -> Recipe:
        """Return the recipe of a row."""
        recipe = RECIPES[f"mini-thermal-{row}"]
        common = {"styles": self.styles, "crop": self.crop, "batch_size": self.batch}
        parts, heat = recipe.stages
        stages = (
            _changed(parts, steps=self.parts_steps, **common),
            _changed(heat, steps=self.steps, **common),
        )
        return recipe.model_copy(update={"seed": seed, "stages": stages})

    def train(self, row: str, seed: int) -> Path:
        """Train a row from the seed's decomposition network on; return its model."""
        settings = TrainSettings(self.data, self.work, cache_dir=self.work / "cache")
        parts = train(
            self.recipe("none", seed),
            dataclasses.replace(
                settings,
                run_dir=self.work / f"parts-{seed}",
                stages=("decomposition",),
                start_from=self.model,
            ),
        )
        return train(
            self.recipe(row, seed),
            dataclasses.replace(
                settings,
                run_dir=self.work / f"{row}-{seed}",
                stages=("heat",),
                start_from=str(parts),
            ),
        )


def _changed(stage, **changes):
    steps = changes["steps"]
    return stage.model_copy(
        update={**changes, "decay_steps": steps, "checkpoint_every": max(steps, 1)}
    )


def measure(model: Path | str, scenes: list[TrainingScene], side: int) -> dict[str, float]:
    """Translate the scenes at a short side of `side` px and return the mean measures."""
    loaded = load_model(model)
    rows = []
    for item in scenes:
        visible, truth, segmentation = _views(item, side)
        translator = Translator(
            loaded, TranslateSettings(style=item.scene.style, resolution="native")
        )
        prepared = translator.prepare(
            visible,
            key=item.scene.name,
            caption=item.captions[0] if item.captions else None,
            segmentation=segmentation,
        )
        picture = undo(translator.run([prepared])[0], prepared.geometry)
        made, true = Grey(picture.clip(0, 1)), Grey(truth)
        facts = Facts(truth=true)
        rows.append(
            (
                255 * hot_error(made, facts),
                255 * cold_error(made, facts),
                hot_contrast(made, facts),
                peak_signal_to_noise(made.image, truth),
                structural_similarity(made.image, truth),
            )
        )
    means = np.nanmean(np.array(rows), axis=0)
    return dict(zip(MEASURES, means.tolist(), strict=True))


def _views(item: TrainingScene, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the visible image, the true infrared one and the map, at a short side of `side`."""
    visible = read_visible(item.root / str(item.scene.visible))
    height, width = visible.shape[:2]
    ratio = side / min(height, width)
    size = (round(width * ratio), round(height * ratio))
    truth = resize(read_infrared(item.root / str(item.scene.infrared)), *size, "area")
    found = item.segmentation
    segmentation = None if found is None else resize(read_map(found), *size, "nearest")
    return resize(visible, *size, "area"), truth.clip(0, 1), segmentation


def show(found: dict[str, list[dict[str, float]]]) -> None:
    """Print the table of means and spreads, and of differences to none."""
    print(f"| loss | {' | '.join(MEASURES)} |\n|---|{'---|' * len(MEASURES)}")
    for row, seeds in found.items():
        print(f"| {row} | {' | '.join(_cell([s[name] for s in seeds]) for name in MEASURES)} |")
    for row, seeds in found.items():
        if row in {"none", "start"} or "none" not in found:
            continue
        pairs = list(zip(seeds, found["none"], strict=False))
        cells = [_cell([one[name] - two[name] for one, two in pairs]) for name in MEASURES]
        print(f"| {row} - none | {' | '.join(cells)} |")


def _cell(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.3f} ± {spread:.3f}"


def main() -> None:
    """Train and measure what is not there yet; print the table after each seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--rows", nargs="+", default=["none", "mask", "decomposition"])
    parser.add_argument("--styles", nargs="+", default=["llvip", "msrs"])
    for name, default in (
        ("seeds", 3), ("steps", 300), ("parts-steps", 300), ("crop", 128), ("batch", 4),
        ("scenes", 40), ("side", 192),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    trial = Trial(
        asked.data, asked.work, asked.model, asked.steps, asked.parts_steps, asked.crop,
        asked.batch, tuple(asked.styles),
    )  # fmt: skip
    stage = trial.recipe("none", 0).stages[-1]
    scenes = scenes_of(stage, training_scenes(asked.data, "test"))
    scenes = scenes[:: max(1, len(scenes) // asked.scenes)][: asked.scenes]
    print(f"{len(scenes)} scenes of the test split", flush=True)
    found = {"start": [measure(asked.model, scenes, asked.side)]}
    for seed in range(asked.seeds):
        for row in asked.rows:
            kept = asked.work / f"{row}-{seed}" / "measured.json"
            if not kept.is_file():
                write_json(kept, measure(trial.train(row, seed), scenes, asked.side))
            found.setdefault(row, []).append(json.loads(kept.read_text()))
        show(found)
        print(flush=True)


if __name__ == "__main__":
    main()
