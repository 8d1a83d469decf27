"""Whether a prompt's numbers and combinations can be told from a text model's pictures.

    python benchmarks/prompt_counts.py CROPS MODEL [--number 32] [--guidance S] [--crops 250]
        [--features efficientnet-lite0]

As `prompt_presence.py`, with questions of more and less: a classifier is fitted to real crops that
show more against real crops that show less (three people against one; people and a car against a
car alone), as the model's autoencoder rebuilds them. Printed are the area under its curve on crops
of scenes that it has not seen, and the area for pictures that were asked for with more against
pictures that were asked for with less, from the same noise; 0.5 is chance. Composed pictures of
the training are not among the crops. Brackets are 95 % bootstrap intervals over pictures.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import dataclasses
import functools
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from object_captions import NUMBERS
from prompt_presence import PLACES, Probe, fitted, interval, real_crops

from v2ir.evaluation.features import load_features
from v2ir.model import load_model
from v2ir.sampling.prompts import Prompt
from v2ir.sampling.text_sampler import GenerateSettings, TextSampler
from v2ir.training.scenes import TrainingScene

Rule = Callable[[int, int], bool]
"""Of the number of people and of cars, whether a crop belongs."""

NIGHT = ("a night street",)
WORDS = {"person": r"(person|people)", "car": r"cars?"}


@dataclasses.dataclass(frozen=True)
class Question:
    """What is compared: real crops, each by the name of its rule, and prompts by ending."""

    name: str
    more: str
    less: str
    asked_more: str
    asked_less: str
    places: tuple[str, ...] = PLACES


RULES: dict[str, Rule] = {
    "one person": lambda people, cars: people == 1 and not cars,
    "two people": lambda people, cars: people == 2 and not cars,
    "three people": lambda people, cars: people >= 3 and not cars,
    "people": lambda people, cars: people >= 1 and not cars,
    "one car": lambda people, cars: cars == 1 and not people,
    "two cars": lambda people, cars: cars >= 2 and not people,
    "cars": lambda people, cars: cars >= 1 and not people,
    "both": lambda people, cars: people >= 1 and cars >= 1,
}
BOTH = " with two pedestrians and a parked car"
QUESTIONS = (
    Question("two people, not one", "two people", "one person", ", two people", ", a person"),
    Question("three people, not one", "three people", "one person", ", three people", ", a person"),
    Question("two cars, not one", "two cars", "one car", ", two cars", ", a car"),
    Question("people beside a car", "both", "cars", ", two people and a car", ", a car"),
    Question("a car beside people", "both", "people", ", two people and a car", ", two people"),
    Question("... two pedestrians beside a parked car", "both", "cars",
             BOTH, " with a parked car", NIGHT),
    Question("... a parked car beside two pedestrians", "both", "people",
             BOTH, " with two pedestrians", NIGHT),
)  # fmt: skip


def number(item: TrainingScene, label: str) -> int:
    """Return how many objects of a label a crop's captions name."""
    for caption in item.captions:
        found = re.search(rf"\b(an?|{'|'.join(NUMBERS)}|many) {WORDS[label]}\b", caption)
        if found:
            word = found[1]
            return NUMBERS.index(word) if word in NUMBERS else 1 if word in ("a", "an") else 6
    return 0


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("crops", type=Path)
    parser.add_argument("model")
    parser.add_argument("--number", type=int, default=32)
    parser.add_argument("--crops", dest="number_of_crops", type=int, default=250)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--features", default="efficientnet-lite0")
    options = parser.parse_args()
    network, model = load_features(options.features), load_model(options.model)
    sampler = TextSampler(model, GenerateSettings(guidance=options.guidance))
    made = options.number * len(PLACES)

    @functools.cache
    def pictures(places: tuple[str, ...], ending: str) -> np.ndarray:
        each = made // len(places)
        jobs = [(Prompt(place + ending), k) for place in places for k in range(each)]
        return network.features([sampler.run([job])[0] for job in jobs])

    shown = [(i, number(i, "person"), number(i, "car")) for i in real_crops(options.crops)]

    @functools.cache
    def classifier(more: str, less: str) -> tuple[Probe, str, str]:
        crops = [
            [item for item, *counts in shown if RULES[rule](*counts)][: options.number_of_crops]
            for rule in (more, less)
        ]
        probe, seen = fitted(network, model, sampler.width, *crops)
        return probe, ", ".join(str(len(each)) for each in crops), seen

    guidance = options.guidance or model.card.guidance.text
    print(f"{options.model}: {made} pictures a prompt, guidance {guidance},")
    print(f"classifier on {network.name}\n")
    print("| question | crops (more, less) | crops of other scenes | pictures asked for |")
    print("|---|---:|---:|---:|")
    for question in QUESTIONS:
        probe, numbers, seen = classifier(question.more, question.less)
        more, less = (
            probe(pictures(question.places, ending))
            for ending in (question.asked_more, question.asked_less)
        )
        cells = (numbers, seen, interval(more, less))
        print(f"| {question.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
