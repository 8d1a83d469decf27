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
from prompt_presence import Probe, interval, unseen
from text_scenes import infrared

from v2ir.evaluation.features import load_features
from v2ir.model import load_model
from v2ir.sampling.prompts import Prompt
from v2ir.sampling.reconstruct import reconstruct
from v2ir.sampling.text_sampler import GenerateSettings, TextSampler
from v2ir.training.scenes import TrainingScene, training_scenes

Rule = Callable[[int, int], bool]
"""Of the number of people and of cars, whether a crop belongs."""

STREETS = ("a street at night", "a street during the day", "a street seen from above")
NIGHT = ("a night street",)
WORDS = {"person": r"(person|people)", "car": r"cars?"}


@dataclasses.dataclass(frozen=True)
class Question:
    """What is compared: real crops by rule, and prompts by ending."""

    name: str
    more: Rule
    less: Rule
    asked_more: str
    asked_less: str
    places: tuple[str, ...] = STREETS


BOTH = " with two pedestrians and a parked car"
QUESTIONS = (
    Question("two people, not one", lambda p, c: p == 2 and not c, lambda p, c: p == 1 and not c,
             ", two people", ", a person"),
    Question("three people, not one", lambda p, c: p >= 3 and not c, lambda p, c: p == 1 and not c,
             ", three people", ", a person"),
    Question("two cars, not one", lambda p, c: c >= 2 and not p, lambda p, c: c == 1 and not p,
             ", two cars", ", a car"),
    Question("people beside a car", lambda p, c: p >= 1 and c >= 1, lambda p, c: c >= 1 and not p,
             ", two people and a car", ", a car"),
    Question("a car beside people", lambda p, c: p >= 1 and c >= 1, lambda p, c: p >= 1 and not c,
             ", two people and a car", ", two people"),
    Question("... two pedestrians beside a parked car", lambda p, c: p >= 1 and c >= 1,
             lambda p, c: c >= 1 and not p, BOTH, " with a parked car", NIGHT),
    Question("... a parked car beside two pedestrians", lambda p, c: p >= 1 and c >= 1,
             lambda p, c: p >= 1 and not c, BOTH, " with two pedestrians", NIGHT),
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

    @functools.cache
    def pictures(places: tuple[str, ...], ending: str) -> np.ndarray:
        each = options.number * len(STREETS) // len(places)
        jobs = [(Prompt(place + ending), k) for place in places for k in range(each)]
        return network.features([sampler.run([job])[0] for job in jobs])

    items = [i for i in training_scenes(options.crops, "train") if "-crop" in i.scene.name]
    shown = [(number(item, "person"), number(item, "car")) for item in items]
    order = np.random.default_rng(0).permutation(len(items))
    guidance = options.guidance or model.card.guidance.text
    print(
        f"{options.model}: {options.number * len(STREETS)} pictures a prompt, guidance {guidance},"
    )
    print(f"classifier on {network.name}\n")
    print("| question | crops (more, less) | crops of other scenes | pictures asked for |")
    print("|---|---:|---:|---:|")
    for question in QUESTIONS:
        chosen: list[tuple[TrainingScene, float]] = []
        for wanted, rule in ((1.0, question.more), (0.0, question.less)):
            mine = [items[k] for k in order if rule(*shown[k])]
            chosen += [(item, wanted) for item in mine[: options.number_of_crops]]
        images = [reconstruct(model, infrared(item, sampler.width)) for item, _ in chosen]
        real, present = network.features(images), np.array([wanted for _, wanted in chosen])
        scenes = [item.scene.name.rsplit("-crop", 1)[0] for item, _ in chosen]
        told, probe = unseen(real, present, scenes), Probe(real, present)
        more, less = (
            probe(pictures(question.places, ending))
            for ending in (question.asked_more, question.asked_less)
        )
        cells = (
            f"{int(present.sum())}, {int((1 - present).sum())}",
            interval(told[present == 1], told[present == 0]),
            interval(more, less),
        )
        print(f"| {question.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
