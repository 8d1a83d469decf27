"""Pictures with as many objects as wanted: objects cut out of some scenes, set on empty grounds.

Used by `object_crops.py --compose`. Of a thousand crops around objects, ten show two people beside
a car: too few to learn from that words count. Here objects that stand alone are cut out with a
margin, and a row of them is set on a crop of a street without any, seen in the same light (night,
day, or from above): levels are shifted so that what surrounds an object is as bright as where it is
set, and the margin fades.
"""

from __future__ import annotations

import collections
import random

import numpy as np
from PIL import Image

from v2ir.evaluation.boxes import Box

SIDE = 128
"""Side of a composed picture, in pixels."""
MARGIN = 0.15
"""What is cut out around an object and fades, as a share of its sides."""
LEAST = {"person": 26, "car": 18}
"""Height of the smallest objects that are cut out, in pixels."""
LEAST_SCORE = 0.4
"""What a detector says at least of an object that is cut out."""
LEAST_SPREAD = {"person": 8.0, "car": 18.0}
"""Deviation of its patch at least, in grey levels; a car that stands out is quicker learned."""
HEIGHTS = {"person": (0.5, 0.66), "car": (0.34, 0.46)}
"""An object's height as a share of the picture's, where the row is not too long for it."""
WIDEST = 0.92
"""Length of a row at most, as a share of the picture's side."""
LEAST_GROUNDS, LEAST_OBJECTS = 8, 8
"""A place with fewer empty crops, or objects of a label in its light, is not composed for."""
COUNTS = (
    {"person": 1},
    {"person": 2},
    {"person": 3},
    {"person": 4},
    {"car": 1},
    {"car": 2},
    {"person": 1, "car": 1},
    {"person": 2, "car": 1},
    {"person": 1, "car": 2},
    {"person": 3, "car": 1},
    {"person": 2, "car": 1},
    {"car": 3},
)
"""What is composed, each as often, so two people and a car twice as often as the others; one
object alone, too, or a seam would tell how many there are."""
PEOPLE_LEFT = 0.75
"""How often people stand left of cars; a row in any order would be learned last."""


def ring(height: int, width: int, share: float) -> np.ndarray:
    """Return how much of a patch covers what it is set on: 1 inside, 0 at its edge."""
    ramps = []
    for length in (height, width):
        fade = max(1.0, length * share / (1 + 2 * share))
        there = np.minimum(np.arange(length) + 0.5, length - np.arange(length) - 0.5)
        ramps.append(np.clip(there / fade, 0, 1))
    return ramps[0][:, None] * ramps[1][None, :]


def level(patch: np.ndarray, cover: np.ndarray) -> float:
    """Return how bright the surroundings of a patch are."""
    return float(np.median(patch[cover < 0.6]))


def light(place: str) -> str:
    """Return in what light objects of a place are seen."""
    return next((word for word in ("above", "night") if word in place), "day")


class Composer:
    """What was seen: objects alone, by light and label, and empty grounds, by place."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], list[np.ndarray]] = collections.defaultdict(list)
        self.grounds: dict[str, list[np.ndarray]] = collections.defaultdict(list)

    def add_ground(self, place: str, pixels: np.ndarray) -> None:
        """Keep a crop of a street without objects."""
        if "street" not in place:
            return
        small = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        self.grounds[place].append(np.asarray(small, dtype=np.float32))

    def add_objects(self, place: str, image: np.ndarray, boxes: list[Box]) -> None:
        """Cut out the objects that touch no other one nor the edge."""
        height, width = image.shape[:2]
        for box in boxes:
            high, wide = box.bottom - box.top, box.right - box.left
            top, bottom = int(box.top - MARGIN * high), int(box.bottom + MARGIN * high)
            left, right = int(box.left - MARGIN * wide), int(box.right + MARGIN * wide)
            sure = high >= LEAST.get(box.label, np.inf) and box.score >= LEAST_SCORE
            inside = top >= 0 and bottom <= height and left >= 0 and right <= width
            alone = all(
                other is box
                or other.left >= right
                or other.right <= left
                or other.top >= bottom
                or other.bottom <= top
                for other in boxes
            )
            if sure and inside and alone:
                patch = image[top:bottom, left:right].astype(np.float32)
                if patch.std() >= LEAST_SPREAD[box.label]:
                    self.objects[light(place), box.label].append(patch)

    def wanted(self, number: int, chance: random.Random) -> list[tuple[str, dict[str, int]]]:
        """Return for so many pictures their place and what they are to show."""
        there = {p: len(g) for p, g in sorted(self.grounds.items()) if len(g) >= LEAST_GROUNDS}
        able = {
            place: [c for c in COUNTS if all(self.enough(place, label) for label in c)]
            for place in there
        }
        places = [place for place in there if able[place]]
        weights = [there[place] for place in places]
        drawn = chance.choices(places, weights, k=number) if places else []
        return [(place, chance.choice(able[place])) for place in drawn]

    def enough(self, place: str, label: str) -> bool:
        """Whether there are objects of a label in the light of a place."""
        return len(self.objects[light(place), label]) >= LEAST_OBJECTS

    def compose(self, place: str, counts: dict[str, int], chance: random.Random) -> np.ndarray:
        """Return a picture of a place with these objects, uint8 of (SIDE, SIDE)."""
        picture = chance.choice(self.grounds[place]).copy()
        if chance.random() < 0.5:
            picture = picture[:, ::-1].copy()
        row = [label for label in sorted(counts, reverse=True) for _ in range(counts[label])]
        if chance.random() > PEOPLE_LEFT:
            row.reverse()
        patches = [chance.choice(self.objects[light(place), label]) for label in row]
        sizes = []
        for label, patch in zip(row, patches, strict=True):
            high = SIDE * chance.uniform(*HEIGHTS[label]) * (1 + 2 * MARGIN)
            sizes.append((high, high * patch.shape[1] / patch.shape[0]))
        length = sum(wide for _, wide in sizes)
        shrink = min(1.0, WIDEST * SIDE / length)
        gap = SIDE * (1 - shrink * length / SIDE) / (len(row) + 1)
        foot, left = SIDE * chance.uniform(0.78, 0.88), gap
        for (high, wide), patch in zip(sizes, patches, strict=True):
            shape = max(2, round(high * shrink)), max(2, round(wide * shrink))
            top = round(min(foot + MARGIN * shape[0], SIDE) - shape[0])
            place_at = left + chance.uniform(-0.4, 0.4) * gap
            settle(picture, patch, shape, (top, round(place_at)))
            left += shape[1] + gap
        return np.rint(picture.clip(0, 255)).astype(np.uint8)


def settle(
    picture: np.ndarray, patch: np.ndarray, shape: tuple[int, int], corner: tuple[int, int]
) -> None:
    """Set a patch into a picture, in place, as bright around as what is there."""
    scaled = Image.fromarray(patch).resize(shape[::-1], Image.Resampling.BICUBIC)
    top, left = (min(max(0, c), SIDE - length) for c, length in zip(corner, shape, strict=True))
    there = picture[top : top + shape[0], left : left + shape[1]]
    cover = ring(*shape, MARGIN)
    pixels = np.asarray(scaled)
    moved = pixels + level(there, cover) - level(pixels, cover)
    there += cover * (moved - there)
