"""Scenes from text beside real infrared images: distances of sets, and whether prompts are met.

    python benchmarks/text_scenes.py DATA MODEL [--features efficientnet-lite0] [--number 24]
        [--solver NAME] [--steps N] [--guidance S] [--pictures FOLDER]

DATA is an indexed and annotated data set. First, for each test scene one picture is made from
its caption, and the set is compared with the true images; beside it as many real training images
of the same cameras, the scenes' photographs in grey, and each camera's mean grey. All are cut
to the middle square and resized to the model's size, so that only the pictures differ.

Then KINDS of prompts that differ in one thing are asked for, `--number` pictures each. A picture
meets its prompt if it is nearest to the mean of the real training images whose captions say the
same: as pictures of 16 px, which show where it is bright, and on the feature network, which sees
detail. Real training images, each left out of its own mean, say how well the
question can be answered at all, and one over the number of kinds is chance.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from v2ir.evaluation.features import FeatureNetwork, load_features
from v2ir.evaluation.sets import compare_sets
from v2ir.images import read_infrared, read_visible, resize, to_uint8, write_infrared
from v2ir.model import load_model
from v2ir.sampling.prompts import Prompt
from v2ir.sampling.text_sampler import GenerateSettings, TextSampler
from v2ir.training.scenes import TrainingScene, training_scenes

KINDS = {
    "a street at night": "a street at night with a few lamps and a building",
    "a street during the day": "a street during the day with some trees and smooth asphalt",
    "a street seen from above": "a street seen from above",
    "a distant view": "a distant view",
    "the facade of a building": "the facade of a building",
    "rows of solar panels": "rows of solar panels seen from above on a cloudy day with grass",
}
"""How captions of a kind begin, and the prompt that asks for it."""
SMALL = 16
_LUMA = np.array([0.299, 0.587, 0.114])


def square(image: np.ndarray, side: int) -> np.ndarray:
    """Return the middle square of an HW image in [0, 1], resized."""
    least = min(image.shape)
    top, left = ((length - least) // 2 for length in image.shape)
    cut = to_uint8(image[top : top + least, left : left + least])
    return resize(cut, side, side) / 255.0


def infrared(item: TrainingScene, side: int) -> np.ndarray:
    """Return a scene's true image as a square."""
    return square(read_infrared(item.root / str(item.scene.infrared)), side)


def same_cameras(
    tests: Sequence[TrainingScene], trains: Sequence[TrainingScene]
) -> list[TrainingScene]:
    """Draw a training scene of the same camera for each test scene, none twice if it may be."""
    generator, chosen = np.random.default_rng(0), []
    left: dict[str | None, list[TrainingScene]] = {}
    for item in tests:
        style = item.scene.style
        if not left.get(style):
            mine = [other for other in trains if other.scene.style == style]
            left[style] = [mine[place] for place in generator.permutation(len(mine))]
        chosen.append(left[style].pop())
    return chosen


def compare(
    sampler: TextSampler,
    network: FeatureNetwork,
    tests: Sequence[TrainingScene],
    trains: Sequence[TrainingScene],
) -> None:
    """Print the table of distances to the true test images."""
    side = sampler.width
    means: dict[str | None, float] = {}
    for item in tests:
        style = item.scene.style
        if style not in means:
            found = [infrared(other, 32) for other in trains if other.scene.style == style]
            means[style] = float(np.mean(found))
    sets: dict[str, Callable[[], list[np.ndarray]]] = {
        "made from the captions": lambda: [picture(sampler, item.captions[0], 0) for item in tests],
        "real training images": lambda: [
            infrared(item, side) for item in same_cameras(tests, trains)
        ],
        "photographs in grey": lambda: [
            square(read_visible(item.root / str(item.scene.visible)) @ _LUMA / 255, side)
            for item in tests
        ],
        "each camera's mean grey": lambda: [
            np.full((side, side), means[item.scene.style]) for item in tests
        ],
    }
    truth = network.features([infrared(item, side) for item in tests])
    report = compare_sets(
        truth, {name: network.features(make()) for name, make in sets.items()}, network
    )
    heads = (f"{report.num_images} images a set, {side} px", report.frechet_name)
    print(f"| {' | '.join(heads)} | {report.kernel_name} | precision | recall |")
    print("|---|---:|---:|---:|---:|")
    for score in report.scores:
        print(
            f"| {score.method} | {score.frechet:.1f} | {score.kernel:.4f} "
            f"| {score.precision:.2f} | {score.recall:.2f} |"
        )
    if report.floor:
        print(f"\nreal half against real half: {report.floor.frechet:.1f}")
    for warning in report.warnings:
        print(warning)


def picture(sampler: TextSampler, text: str, number: int) -> np.ndarray:
    """Return picture `number` of a prompt."""
    return sampler.run([(Prompt(text), number)])[0]


def meet(
    sampler: TextSampler,
    network: FeatureNetwork,
    trains: Sequence[TrainingScene],
    number: int,
    pictures: Path | None,
) -> None:
    """Print how many pictures of each kind are nearest to real ones of the same kind."""
    real, made = {}, {}
    for kind, prompt in KINDS.items():
        found = [item for item in trains if item.captions and item.captions[0].startswith(kind)]
        chosen = [found[place] for place in np.random.default_rng(0).permutation(len(found))[:64]]
        real[kind] = [infrared(item, sampler.width) for item in chosen]
        made[kind] = [picture(sampler, prompt, k) for k in range(number)]
        for k, image in enumerate(made[kind] if pictures else ()):
            write_infrared(pictures / f"{kind.replace(' ', '-')}-{k}.png", image)
    for name, describe in {f"{SMALL} px": small, network.name: network.features}.items():
        rows = {kind: (describe(made[kind]), describe(real[kind])) for kind in KINDS}
        print(f"| by {name}: asked for | met | nearest to | real images of the kind |")
        print("|---|---:|---|---:|")
        print_met(rows)


def small(images: Sequence[np.ndarray]) -> np.ndarray:
    """Return the grey values of small versions of square images."""
    return np.stack([square(image, SMALL).ravel() for image in images])


def print_met(rows: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Print how many of the made rows, the first of each kind, are nearest to their kind's mean."""
    kinds, shares = list(rows), []
    means = np.stack([real.mean(axis=0) for _, real in rows.values()])
    for place, (kind, (made, real)) in enumerate(rows.items()):
        nearest = np.argmin(((made[:, None] - means) ** 2).sum(axis=2), axis=1)
        shares.append(np.mean(nearest == place))
        others = ", ".join(
            f"{kinds[k]} {np.sum(nearest == k)}" for k in range(len(kinds)) if (nearest == k).any()
        )
        print(f"| {kind} | {shares[-1]:.2f} | {others} | {left_out(real, means, place):.2f} |")
    print(f"\nmet in all: {np.mean(shares):.2f}; chance: {1 / len(kinds):.2f}\n")


def left_out(rows: np.ndarray, means: np.ndarray, place: int) -> float:
    """Return the share of real images nearest to the mean of the others of their kind."""
    hits = []
    for row in rows:
        without = means.copy()
        without[place] = (means[place] * len(rows) - row) / (len(rows) - 1)
        hits.append(int(np.argmin(((row - without) ** 2).sum(axis=1)) == place))
    return float(np.mean(hits))


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("model")
    parser.add_argument("--features", default="efficientnet-lite0")
    parser.add_argument("--number", type=int, default=24)
    parser.add_argument("--limit", type=int, help="test scenes, evenly spread")
    parser.add_argument("--only-prompts", action="store_true", help="leave out the distances")
    parser.add_argument("--solver")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args()
    settings = GenerateSettings(
        solver=options.solver, steps=options.steps, guidance=options.guidance
    )
    sampler = TextSampler(load_model(options.model), settings)
    network = load_features(options.features)
    trains = training_scenes(options.data, "train")
    tests = [item for item in training_scenes(options.data, "test") if item.captions]
    if options.limit:
        tests = [tests[k * len(tests) // options.limit] for k in range(options.limit)]
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
    print(
        f"{options.model}: {sampler.solver}, {sampler.steps} steps, "
        f"guidance {sampler.guidance.text}, {sampler.width} px\n"
    )
    if not options.only_prompts:
        compare(sampler, network, tests, trains)
    print()
    if options.number:
        meet(sampler, network, trains, options.number, options.pictures)


if __name__ == "__main__":
    main()
