"""Whether what a prompt asks for can be told from a text model's pictures, by a classifier.

    python benchmarks/prompt_presence.py CROPS MODEL [--number 32] [--guidance S] [--negative]
        [--crops 400] [--features efficientnet-lite0]

CROPS is what `benchmarks/object_crops.py` made, indexed and annotated. Detectors of photographs
see little in soft pictures; so here a classifier is fitted to what the model's autoencoder can
show: real crops with a person (or a car) against crops with none, as it rebuilds them at the
model's size, on the features of a network that knows neither. How well it tells crops of scenes
that it has not seen is printed first: the area under its curve, where 1 is always and 0.5 is
chance. Then the same number for pictures that were asked for with a person (or car) against
pictures that were asked for without, and for people against cars: does the classifier of people
tell one from the other? `--negative` leads guidance away from "no people and no cars" in the
former, and from the bare place in the latter, so that both are guided as much. Brackets are
95 % bootstrap intervals over pictures.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import rankdata
from text_scenes import infrared

from v2ir.evaluation.features import FeatureNetwork, load_features
from v2ir.model import Model, load_model
from v2ir.sampling.prompts import Prompt
from v2ir.sampling.reconstruct import reconstruct
from v2ir.sampling.text_sampler import GenerateSettings, TextSampler
from v2ir.training.scenes import TrainingScene, training_scenes

PLACES = ("a street at night", "a street during the day", "a street seen from above")
WITHOUT = ", no people and no cars"
ASKED = {"person": (", a person", ", three people"), "car": (", a car", ", two cars")}
WORDS = {"person": re.compile(r"\b(a person|people)\b"), "car": re.compile(r"\bcars?\b")}
FOLDS, RIDGE = 5, 100.0


def shows(item: TrainingScene, label: str) -> bool | None:
    """Return whether a crop's captions name a label; None if they leave it open."""
    if any(WITHOUT in caption for caption in item.captions):
        return False
    named = any(WORDS[label].search(caption) for caption in item.captions)
    return True if named else None


class Probe:
    """A linear classifier on standardised features, by ridge regression."""

    def __init__(self, rows: np.ndarray, present: np.ndarray) -> None:
        self.mean, self.spread = rows.mean(0), rows.std(0) + 1e-6
        self.middle = present.mean()
        scaled = self._scaled(rows)
        # As many unknowns as rows, not as features: the same answer for less work.
        gram = scaled @ scaled.T + RIDGE * np.eye(len(rows))
        self.weights = scaled.T @ np.linalg.solve(gram, present - self.middle)

    def _scaled(self, rows: np.ndarray) -> np.ndarray:
        return (rows - self.mean) / self.spread

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return how much each row speaks for presence."""
        return self._scaled(rows) @ self.weights


def area(present: np.ndarray, absent: np.ndarray) -> float:
    """Return the chance that one drawn with is above one drawn without; ties count half."""
    ranks = rankdata(np.concatenate([present, absent]))[: len(present)].sum()
    return float((ranks - len(present) * (len(present) + 1) / 2) / (len(present) * len(absent)))


def interval(present: np.ndarray, absent: np.ndarray) -> str:
    """Return the area and its interval."""
    chance = np.random.default_rng(0)
    drawn = [area(chance.choice(present, len(present)), chance.choice(absent, len(absent)))
             for _ in range(1000)]  # fmt: skip
    low, high = np.percentile(drawn, (2.5, 97.5))
    return f"{area(present, absent):.2f} [{low:.2f}, {high:.2f}]"


def unseen(rows: np.ndarray, present: np.ndarray, scenes: Sequence[str]) -> np.ndarray:
    """Return the answers for crops of scenes that the classifier has not seen."""
    names = sorted(set(scenes))
    folds = dict(zip(names, np.random.default_rng(0).permutation(len(names)) % FOLDS, strict=True))
    fold = np.array([folds[name] for name in scenes])
    found = np.zeros(len(rows))
    for each in range(FOLDS):
        found[fold == each] = Probe(rows[fold != each], present[fold != each])(rows[fold == each])
    return found


def real_crops(data: Path) -> list[TrainingScene]:
    """Return the crops of real scenes, in an order of chance that is always the same."""
    items = [item for item in training_scenes(data, "train") if "-crop" in item.scene.name]
    return [items[k] for k in np.random.default_rng(0).permutation(len(items))]


def fitted(
    network: FeatureNetwork,
    model: Model,
    side: int,
    more: Sequence[TrainingScene],
    less: Sequence[TrainingScene],
) -> tuple[Probe, str]:
    """Fit a classifier to crops as a model's autoencoder shows them at its size.

    Returns:
        The classifier, and its area and interval on crops of scenes that it has not seen.
    """
    items = [*more, *less]
    rows = network.features([reconstruct(model, infrared(item, side)) for item in items])
    present = np.repeat([1.0, 0.0], [len(more), len(less)])
    told = unseen(rows, present, [item.scene.name.rsplit("-crop", 1)[0] for item in items])
    return Probe(rows, present), interval(told[present == 1], told[present == 0])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("crops", type=Path)
    parser.add_argument("model")
    parser.add_argument("--number", type=int, default=32)
    parser.add_argument("--crops", dest="number_of_crops", type=int, default=400)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--negative", action="store_true")
    parser.add_argument("--features", default="efficientnet-lite0")
    options = parser.parse_args()
    network, model = load_features(options.features), load_model(options.model)

    def pictures(ending: str, away_from: str) -> np.ndarray:
        found = []
        for place in PLACES:
            settings = GenerateSettings(
                guidance=options.guidance,
                steps=options.steps,
                negative_prompt=place + away_from if options.negative else None,
            )
            sampler = TextSampler(model, settings)
            jobs = [(Prompt(place + ending), number) for number in range(options.number)]
            found += [sampler.run([job])[0] for job in jobs]
        return network.features(found)

    guidance = options.guidance or model.card.guidance.text
    how = "with negative prompts, " if options.negative else ""
    print(f"{options.model}: {options.number} pictures for each of {len(PLACES)} places,")
    print(f"guidance {guidance}, {how}classifier on {network.name}\n")
    absent = pictures(WITHOUT, "")
    made = {ending: pictures(ending, WITHOUT) for pair in ASKED.values() for ending in pair}
    side = TextSampler(model).width
    items = real_crops(options.crops)
    print(f"| classifier | crops of other scenes | {' | '.join(e[2:] for e in made)} | the other |")
    print("|---|---:|" + "---:|" * (len(made) + 1))
    for label, endings in ASKED.items():
        present, none = (
            [item for item in items if shows(item, label) is wanted][: options.number_of_crops]
            for wanted in (True, False)
        )
        probe, seen = fitted(network, model, side, present, none)
        marks = {ending: probe(rows) for ending, rows in made.items()}
        own, others = (
            np.concatenate([m for e, m in marks.items() if (e in endings) is wanted])
            for wanted in (True, False)
        )
        cells = [
            seen,
            *(interval(mark, probe(absent)) for mark in marks.values()),
            interval(own, others),
        ]
        print(f"| {label} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
