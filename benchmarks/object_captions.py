"""Captions that count the objects of a data set, for models that learn from text.

    python benchmarks/object_captions.py DATA DETECTOR OUT.jsonl [--least-score 0.4]
        [--say hit_uav="a street seen from above" ...]
    v2ir annotate DATA --captions OUT.jsonl --force

DATA is an indexed and annotated data set; DETECTOR is what `v2ir evaluate --detector` takes: an
ONNX file, a detector of transformers, or boxes in COCO, YOLO or VOC form. An object counts where
it is found in the visible or in the infrared image, whichever shows more of its class. Every scene
gets two captions: its own one ("an infrared image" without a visible side), and the same with its
objects: "..., two people and a car".
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import collections
import json
from pathlib import Path

from v2ir.data import load_scenes
from v2ir.evaluation.boxes import BoxSource
from v2ir.evaluation.detectors import load_box_source
from v2ir.training.objectives.objective import part_hash, read_part
from v2ir.training.scenes import TrainingScene, training_scenes

NUMBERS = ("no", "one", "two", "three", "four", "five")
PLURALS = {"person": "people", "bus": "buses"}
NAMED = ("person", "car", "bus", "truck", "bicycle", "motorcycle")


def counted(label: str, number: int) -> str:
    """Return "a car", "two cars", "many cars"."""
    if number == 1:
        return f"a {label}"
    word = NUMBERS[number] if number < len(NUMBERS) else "many"
    return f"{word} {PLURALS.get(label, label + 's')}"


def listed(counts: dict[str, int], words: dict[str, str] | None = None) -> str:
    """Return "two people and a car" of counts, each label by its word or its name."""
    words, shown = words or {}, [label for label in NAMED if counts.get(label)]
    named = [counted(words.get(label, label), counts[label]) for label in shown]
    return " and ".join([", ".join(named[:-1]), named[-1]] if named[1:] else named)


def sentence(caption: str, counts: dict[str, int]) -> str:
    """Return a caption with its objects."""
    return f"{caption}, {listed(counts) or 'no people and no cars'}"


def own_caption(item: TrainingScene, said: dict[str, str]) -> str:
    """Return a scene's own caption, or what is said of its style."""
    if item.captions:
        return item.captions[0]
    return said.get(item.scene.style or "", "an infrared image")


def sayings(texts: list[str]) -> dict[str, str]:
    """Return captions by style of texts STYLE=CAPTION."""
    return dict(text.split("=", 1) for text in texts)


def count(item: TrainingScene, source: BoxSource, least: float) -> dict[str, int]:
    """Return how many objects of each class the fuller one of both images shows."""
    most: dict[str, int] = {}
    for part in ("visible", "infrared"):
        if part_hash(item, part) is None:
            continue
        boxes = source.boxes(item.scene.name, read_part(item, part))
        found = collections.Counter(box.label for box in boxes if box.score >= least)
        most = {label: max(most.get(label, 0), found[label]) for label in {*most, *found}}
    return most


def main() -> None:
    """Write the captions of all scenes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("detector")
    parser.add_argument("out", type=Path)
    parser.add_argument("--least-score", type=float, default=0.4)
    parser.add_argument("--say", nargs="*", default=[], metavar="STYLE=CAPTION")
    options = parser.parse_args()
    said = sayings(options.say)
    splits = sorted({scene.split for scene in load_scenes(options.data) if scene.split})
    scenes = [item for split in splits for item in training_scenes(options.data, split)]
    sizes = {item.scene.name: (item.scene.width, item.scene.height) for item in scenes}
    source = load_box_source(options.detector, sizes.get)
    total: collections.Counter[str] = collections.Counter()
    with options.out.open("w") as stream:
        for item in scenes:
            counts = count(item, source, options.least_score)
            total.update(label for label in NAMED if counts.get(label))
            plain = own_caption(item, said)
            # What a detector of photographs misses in an infrared image may well be there.
            sure = bool(counts) or item.scene.visible is not None
            captions = [plain, sentence(plain, counts)] if sure else [plain]
            row = {"name": item.scene.name, "captions": captions}
            stream.write(json.dumps(row) + "\n")
    print(f"{len(scenes)} scenes; with {dict(total)}")


if __name__ == "__main__":
    main()
