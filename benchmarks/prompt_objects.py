"""Whether a text model's pictures show the people and cars that the prompt asks for.

    python benchmarks/prompt_objects.py CROPS MODEL DETECTOR [--number 32] [--guidance S]
        [--least-score 0.3] [--pictures FOLDER]

CROPS is what `benchmarks/object_crops.py` made, indexed and annotated; DETECTOR is what
`v2ir evaluate --detector` takes, and knows neither the model nor its prompts. Of each prompt
`--number` pictures are made, and the detector looks for people and cars. How well it could do is
said by real crops of the same content, as the model's autoencoder rebuilds them at the
model's size. Beside it stands the share of hot pixels, which a model can get right before it
has a shape for anything. Brackets are 95 % bootstrap intervals over pictures.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from text_scenes import infrared

from v2ir.evaluation.boxes import BoxSource
from v2ir.evaluation.detectors import load_box_source
from v2ir.images import to_uint8, write_infrared
from v2ir.model import load_model
from v2ir.sampling.prompts import Prompt
from v2ir.sampling.reconstruct import reconstruct
from v2ir.sampling.text_sampler import GenerateSettings, TextSampler
from v2ir.training.scenes import training_scenes

PLACES = ("a street at night", "a street during the day", "a street seen from above")
ENDINGS = (
    ", no people and no cars",
    ", a person",
    ", three people",
    ", a car",
    ", two cars",
    " with two pedestrians and a parked car",
)
LABELS = ("person", "car")
LEAST_WARMER = 0.2
"""A pixel counts as hot from so far above its picture's median on."""


def counts(pictures: Iterable[np.ndarray], source: BoxSource, least: float) -> np.ndarray:
    """Return how many people and cars are found in each picture, Nx2."""
    rows = []
    for number, picture in enumerate(pictures):
        boxes = source.boxes(f"picture {number}", to_uint8(picture))
        found = [box.label for box in boxes if box.score >= least]
        rows.append([found.count(label) for label in LABELS])
    return np.array(rows)


def heat(pictures: Iterable[np.ndarray]) -> np.ndarray:
    """Return the share of hot pixels of each picture, in percent."""
    return np.array([100 * np.mean(each > np.median(each) + LEAST_WARMER) for each in pictures])


def line(name: str, found: np.ndarray, hot: np.ndarray) -> str:
    """Return a row: the share of hot pixels, and of each label with one at least and how many."""
    chance = np.random.default_rng(0)
    draws = chance.integers(0, len(found), (2000, len(found)))
    low, high = np.percentile(hot[draws].mean(axis=1), (2.5, 97.5))
    cells = [f"{hot.mean():.1f} [{low:.1f}, {high:.1f}]"]
    for column in found.T:
        low, high = np.percentile((column[draws] > 0).mean(axis=1), (2.5, 97.5))
        cells += [f"{(column > 0).mean():.2f} [{low:.2f}, {high:.2f}]", f"{column.mean():.2f}"]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("crops", type=Path)
    parser.add_argument("model")
    parser.add_argument("detector")
    parser.add_argument("--number", type=int, default=32)
    parser.add_argument("--least-score", type=float, default=0.3)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args()
    settings = GenerateSettings(guidance=options.guidance, steps=options.steps)
    sampler = TextSampler(load_model(options.model), settings)
    source = load_box_source(options.detector, lambda _: None)
    print(f"{options.model}: {sampler.solver}, {sampler.steps} steps, {sampler.width} px,")
    print(f"guidance {sampler.guidance.text}, {options.number} pictures a row\n")
    print("| asked for | hot pixels, % | with a person | people each | with a car | cars each |")
    print("|---|---:|---:|---:|---:|---:|")
    by_ending: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {ending: [] for ending in ENDINGS}
    for place in PLACES:
        for ending in ENDINGS:
            jobs = [(Prompt(place + ending), number) for number in range(options.number)]
            pictures = [sampler.run([job])[0] for job in jobs]
            for number, picture in enumerate(pictures if options.pictures else ()):
                name = f"{place}{ending}-{number}.png".replace(" ", "-").replace(",", "")
                options.pictures.mkdir(parents=True, exist_ok=True)
                write_infrared(options.pictures / name, picture)
            row = counts(pictures, source, options.least_score), heat(pictures)
            by_ending[ending].append(row)
            print(line(place + ending, *row), flush=True)
    for ending, rows in by_ending.items():
        print(
            line(f"all three{ending}", *(np.concatenate(part) for part in zip(*rows, strict=True)))
        )
    items = training_scenes(options.crops, "train")
    chance = np.random.default_rng(0)
    for ending in ENDINGS[:-1]:
        mine = [
            item
            for item in items
            if "-crop" in item.scene.name and any(c.endswith(ending) for c in item.captions)
        ]
        chosen = [mine[k] for k in chance.permutation(len(mine))[: 3 * options.number]]
        real = [reconstruct(sampler.model, infrared(i, sampler.width)) for i in chosen]
        found = counts(real, source, options.least_score)
        print(line(f"real crops{ending}, rebuilt", found, heat(real)), flush=True)


if __name__ == "__main__":
    main()
