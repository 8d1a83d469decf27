"""A data set for learning what words do: infrared scenes, and crops around their objects.

    python benchmarks/object_crops.py DATA DETECTOR OUT [--crops 3] [--compose 0]
        [--least-score 0.3] [--say hit_uav="a street seen from above" ...]
    v2ir index OUT && v2ir annotate OUT --captions OUT/captions-in.jsonl

DATA is an indexed and annotated data set; DETECTOR is what `v2ir evaluate --detector` takes. OUT
gets `ir/` (the training scenes as they are, and crops of them as PNG), `scenes.csv` and captions.
A person who is eight pixels high teaches a small model nothing, and the caption of a street is
hardly about them; in a crop both are of a size to learn from. Objects are looked for in the
visible and in the infrared image, whole and in overlapping quarters. `--compose` adds so many
pictures with a wanted number of objects (see `object_compositions.py`). A crop's captions say what
it shows in several wordings: "a street at night, two people and a car", "a street at night with two
pedestrians and a parked car", "two people and a car".
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import collections
import csv
import dataclasses
import json
import random
import shutil
from pathlib import Path

import numpy as np
from object_captions import NAMED, listed, own_caption, sayings, sentence
from object_compositions import Composer
from PIL import Image

from v2ir.data import load_scenes
from v2ir.evaluation.boxes import Box, BoxSource, overlaps
from v2ir.evaluation.detectors import load_box_source
from v2ir.training.objectives.objective import part_hash, read_part
from v2ir.training.scenes import TrainingScene, training_scenes

OTHER_WORDS = {"person": "pedestrian", "car": "parked car"}
LEAST_HEIGHT = 14
"""Objects below this many pixels are not cropped to."""
LEAST_SIDE = 32
"""No crop is smaller."""
LEAST_WARMTH = 5.0
"""Grey levels by which a person is brighter than the surroundings."""
SPAN = (0.5, 0.85)
"""An object's height as a share of its crop's side, if its width leaves it that."""
LEAST_SHARE = 0.3
"""Height of the lowest object of a group, as a share of the group's longer side."""
JITTER = 0.08
"""By how much of its side a crop's middle may be off its object's.

Were objects anywhere, a word would hardly move the mean picture, and that is learned first."""


def wordings(place: str, counts: dict[str, int]) -> list[str]:
    """Return the captions of a picture of this place with these objects."""
    if not sum(counts.values()):
        return [place, sentence(place, counts), f"{place} without people"]
    plain, other = listed(counts), listed(counts, OTHER_WORDS)
    said = [sentence(place, counts), f"{place} with {plain}", f"{place} with {other}", plain]
    if place.endswith(" at night"):
        said.append(f"{place.removesuffix(' at night').replace('a ', 'a night ', 1)} with {other}")
    return said


def tiles(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Return the whole picture and four quarters that overlap, as (top, left, height, width)."""
    high, wide = int(height * 0.6), int(width * 0.6)
    corners = [(top, left) for top in (0, height - high) for left in (0, width - wide)]
    return [(0, 0, height, width), *((*corner, high, wide) for corner in corners)]


def objects(item: TrainingScene, source: BoxSource, least: float) -> list[Box]:
    """Return the objects that either image shows, each once."""
    found: list[Box] = []
    for part in ("visible", "infrared"):
        if part_hash(item, part) is None:
            continue
        image = read_part(item, part)
        for top, left, high, wide in tiles(*image.shape[:2]):
            tile = np.ascontiguousarray(image[top : top + high, left : left + wide])
            found += [
                moved(box, left, top)
                for box in source.boxes(item.scene.name, tile)
                if box.score >= least and box.label in NAMED
            ]
    kept: list[Box] = []
    for box in sorted(found, key=lambda each: -each.score):
        if not kept or overlaps([box], kept).max() < 0.45:
            kept.append(box)
    infrared = read_part(item, "infrared")
    return [box for box in kept if box.label != "person" or warmer(infrared, box)]


def warmer(infrared: np.ndarray, box: Box) -> bool:
    """Whether an object is brighter than what is around it; shadows are found as people, too."""
    wide, high = box.right - box.left, box.bottom - box.top
    top, left = max(0, int(box.top - 0.4 * high)), max(0, int(box.left - 0.8 * wide))
    bottom, right = int(box.bottom + 0.4 * high) + 1, int(box.right + 0.8 * wide) + 1
    patch = infrared[top:bottom, left:right].astype(np.float64)
    y, x = int(box.top) - top, int(box.left) - left
    inner = np.zeros(patch.shape, dtype=bool)
    inner[y + int(0.1 * high) : y + int(0.9 * high), x + int(0.2 * wide) : x + int(0.8 * wide)] = 1
    if not inner.any() or inner.all():
        return False
    return bool(patch[inner].mean() > patch[~inner].mean() + LEAST_WARMTH)


def moved(box: Box, left: float, top: float) -> Box:
    """Return a box of a tile as one of the picture."""
    return dataclasses.replace(
        box,
        left=box.left + left,
        right=box.right + left,
        top=box.top + top,
        bottom=box.bottom + top,
    )


def gathered(box: Box, boxes: list[Box], chance: random.Random) -> Box:
    """Return an object's box, or, as often, one around it and up to three of its neighbours.

    The smallest of a group must not be lost in its crop.
    """

    def gap(other: Box) -> float:
        return abs(other.left + other.right - box.left - box.right) + abs(other.bottom - box.bottom)

    near = sorted((other for other in boxes if other is not box), key=gap)
    group = [box, *near[: max(0, chance.randint(-2, 3))]]
    edges = {
        name: choose(getattr(each, name) for each in group)
        for name, choose in {"left": min, "top": min, "right": max, "bottom": max}.items()
    }
    whole = dataclasses.replace(box, **edges)
    least = LEAST_SHARE * max(whole.right - whole.left, whole.bottom - whole.top)
    return whole if min(each.bottom - each.top for each in group) >= least else box


def around(box: Box, height: int, width: int, chance: random.Random) -> tuple[int, int, int] | None:
    """Return (top, left, side) of a crop with the box inside, or None if there is none."""
    high, wide = box.bottom - box.top, box.right - box.left
    least = max(LEAST_SIDE, 1.05 * wide)
    side = int(min(max(high / chance.uniform(*SPAN), least), height, width))
    middle = ((box.top + box.bottom) / 2, (box.left + box.right) / 2)
    top, left = (int(m + side * (chance.uniform(-JITTER, JITTER) - 0.5)) for m in middle)
    if not (0 <= top <= height - side and 0 <= left <= width - side):
        return None
    return top, left, side


def inside(boxes: list[Box], top: int, left: int, side: int) -> dict[str, int] | None:
    """Return how many objects of each label a crop shows, or None if one is cut in two."""
    counts = dict.fromkeys(NAMED, 0)
    for box in boxes:
        wide = min(box.right, left + side) - max(box.left, left)
        high = min(box.bottom, top + side) - max(box.top, top)
        seen = max(wide, 0) * max(high, 0) / ((box.right - box.left) * (box.bottom - box.top))
        if 0.2 < seen < 0.6:
            return None
        counts[box.label] += seen >= 0.6
    return counts


def crops(
    boxes: list[Box], height: int, width: int, number: int, chance: random.Random
) -> list[tuple[tuple[int, int, int], dict[str, int]]]:
    """Return up to so many crops around objects, and one without any, with what they show."""
    tall = [box for box in boxes if box.bottom - box.top >= LEAST_HEIGHT]
    made = []
    for _ in range(6 * number if tall else 0):
        place = around(gathered(chance.choice(tall), boxes, chance), height, width, chance)
        counts = place and inside(boxes, *place)
        if place and counts and len(made) < number:
            made.append((place, counts))
    for _ in range(6):
        side = chance.randint(min(height, width) // 3, min(height, width) // 2)
        place = (chance.randint(0, height - side), chance.randint(0, width - side), side)
        counts = inside(boxes, *place)
        if counts is not None and not sum(counts.values()):
            return [*made, (place, counts)]
    return made


def main() -> None:
    """Write the data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("detector")
    parser.add_argument("out", type=Path)
    parser.add_argument("--crops", type=int, default=3)
    parser.add_argument("--compose", type=int, default=0)
    parser.add_argument("--least-score", type=float, default=0.3)
    parser.add_argument("--say", nargs="*", default=[], metavar="STYLE=CAPTION")
    options = parser.parse_args()
    said = sayings(options.say)
    every = {scene.name: scene for scene in load_scenes(options.data)}
    source = load_box_source(
        options.detector, {name: (s.width, s.height) for name, s in every.items()}.get
    )
    folder = options.out / "ir"
    folder.mkdir(parents=True, exist_ok=True)
    total: collections.Counter[str] = collections.Counter()
    composer = Composer()
    with (
        (options.out / "captions-in.jsonl").open("w") as stream,
        (options.out / "scenes.csv").open("w", newline="") as lines,
    ):
        table = csv.writer(lines)
        table.writerow(["name", "group", "split", "style"])

        def note(name: str, captions: list[str], group: str | None, style: str | None) -> None:
            stream.write(json.dumps({"name": name, "captions": captions}) + "\n")
            table.writerow([name, group, "train", style])

        for item in training_scenes(options.data, "train"):
            scene, chance = item.scene, random.Random(item.scene.name)
            assert scene.infrared is not None
            path = options.data / scene.infrared
            shutil.copyfile(path, folder / path.name)
            whole = own_caption(item, said)
            place = whole.split(" with ")[0].split(",")[0]
            image = read_part(item, "infrared")
            boxes = objects(item, source, options.least_score)
            # What a detector of photographs misses in an infrared image may well be there.
            sure = bool(boxes) or scene.visible is not None
            # No word for objects: in the whole scene they are too small to learn them from.
            note(scene.name, [whole, place], scene.group, scene.style)
            composer.add_objects(place, image, boxes)
            cut = crops(boxes, *image.shape[:2], options.crops, chance) if sure else []
            for number, ((top, left, side), shown) in enumerate(cut):
                name = f"{scene.name}-crop{number}"
                pixels = np.ascontiguousarray(image[top : top + side, left : left + side])
                Image.fromarray(pixels).save(folder / f"{name}.png")
                note(name, wordings(place, shown), scene.group, scene.style)
                total.update(label for label in NAMED if shown[label])
                total["none"] += not sum(shown.values())
                if not sum(shown.values()):
                    composer.add_ground(place, pixels)
            total["scenes"] += 1
        chance = random.Random(0)
        for number, (place, shown) in enumerate(composer.wanted(options.compose, chance)):
            picture = composer.compose(place, shown, chance)
            Image.fromarray(picture).save(folder / f"composed-{number:05}.png")
            note(f"composed-{number:05}", wordings(place, shown), "composed", None)
            total["composed"] += 1
    print(dict(total))


if __name__ == "__main__":
    main()
