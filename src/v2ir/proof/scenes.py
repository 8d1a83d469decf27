"""The scenes of a proof: which images and which labels each row is trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from v2ir.errors import DataError, InputError, UnknownNameError, V2IRError
from v2ir.evaluation.baselines import luma_levels
from v2ir.evaluation.boxes import Box
from v2ir.evaluation.context import named_images, read_scenes
from v2ir.images import image_size, read_infrared, read_thumbnail, read_visible, to_uint8
from v2ir.proof import INGREDIENTS
from v2ir.records import Progress, no_progress

SHARED_FILES = {"inverted": "grey"}
_THUMBNAIL = 16


@dataclasses.dataclass(frozen=True)
class ProofScene:
    """One scene that a network learns from or is tested on.

    Attributes:
        name: Name of the scene.
        width: Width of its images in pixels.
        height: Height of its images in pixels.
        images: File of each ingredient; `grey` is the photograph.
        boxes: Labels, in pixels of the images.
        label: Class of the image as a whole, where the labels are of that kind.
        style: Name of the infrared camera's look, if it is known.
    """

    name: str
    width: int
    height: int
    images: Mapping[str, Path]
    boxes: tuple[Box, ...] = ()
    label: str | None = None
    style: str | None = None

    @property
    def labels(self) -> list[str]:
        """Every class that the labels name, as often as they do."""
        return [box.label for box in self.boxes] if self.label is None else [self.label]

    @property
    def truth(self) -> str | list[dict[str, Any]]:
        """The labels as JSON."""
        return self.label or [dataclasses.asdict(box) for box in self.boxes]

    def read(self, ingredient: str) -> np.ndarray:
        """Return the image of an ingredient, HW uint8.

        Raises:
            ImageReadError: If the file cannot be read.
        """
        path = self.images[SHARED_FILES.get(ingredient, ingredient)]
        if ingredient in {"real", "generated"}:
            return to_uint8(read_infrared(path))
        luma = luma_levels(read_visible(path))
        return 255 - luma if ingredient == "inverted" else luma


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Which images of a data set take part.

    Attributes:
        data: Indexed data set.
        generated: Folder with images made from the training photographs; None without.
        alignment: Only test pairs whose registration is stated as this; None for all.
    """

    data: Path
    generated: Path | None = None
    alignment: str | None = None


def ingredients_of(rows: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Split each row at `+`.

    Raises:
        UnknownNameError: If an ingredient is unknown.
        InputError: If there is no row, or an ingredient stands twice in one.
    """
    found = {}
    for row in rows:
        parts = tuple(row.split("+"))
        for part in parts:
            if part not in INGREDIENTS:
                raise UnknownNameError.of("ingredient of a row", part, INGREDIENTS)
        if len(set(parts)) < len(parts):
            raise InputError("an ingredient stands twice in a row", got=row)
        found[row] = parts
    if not found:
        raise InputError("there is no row to prove", do="give --rows real,generated")
    return found


def find_scenes(
    chosen: Chosen, ingredients: Iterable[str]
) -> tuple[list[ProofScene], list[ProofScene], list[tuple[str, str]]]:
    """List the training scenes that have every ingredient, and the test scenes.

    Returns:
        Training scenes, test scenes, and (name, reason) of training scenes left out
        because an image is missing. Scenes that never had a photograph are no failure.

    Raises:
        DataError: If there is no index, or nothing is left to train or to test on.
        InputError: If generated images are asked for and no folder is given.
    """
    wanted = sorted({SHARED_FILES.get(name, name) for name in ingredients})
    if "generated" in wanted and chosen.generated is None:
        raise InputError("a row needs generated images", do="add --generated FOLDER")
    made = named_images(chosen.generated)[0] if chosen.generated else {}
    training, testing, missing = [], [], []
    for scene in read_scenes(chosen.data):
        if scene.infrared is None:
            continue
        images = {"real": chosen.data / scene.infrared}
        if scene.visible is not None:
            images["grey"] = chosen.data / scene.visible
        if scene.name in made:
            images["generated"] = made[scene.name]
        found = ProofScene(scene.name, scene.width, scene.height, images, style=scene.style)
        if scene.split == "test" and chosen.alignment in {None, scene.alignment}:
            testing.append(found)
        elif scene.split == "train" and scene.visible is not None:
            absent = [name for name in wanted if name not in images]
            if absent:
                missing.append((scene.name, f"left out of every row: no {', '.join(absent)}"))
            else:
                training.append(found)
    _require(training, testing, chosen)
    return training, testing, missing


def _require(training: Sequence[ProofScene], testing: Sequence[ProofScene], chosen: Chosen) -> None:
    if not training or not testing:
        raise DataError(
            f"{chosen.data} does not hold what a proof needs",
            got=f"{len(training)} training scenes with every ingredient, {len(testing)} to test on",
            do="index it with a train and a test split, and translate with --split train",
        )


def readable(
    scenes: Sequence[ProofScene], ingredients: Iterable[str], progress: Progress = no_progress
) -> tuple[list[ProofScene], list[tuple[str, str]]]:
    """Leave out scenes of which an image cannot be read or has another size.

    Returns:
        The good scenes, and (file, reason) of what is wrong.
    """
    wanted = sorted({SHARED_FILES.get(name, name) for name in ingredients})
    good, failures = [], []
    for done, scene in enumerate(scenes):
        faults = [(str(scene.images[name]), _fault(scene, name)) for name in wanted]
        found = [(path, fault) for path, fault in faults if fault]
        failures += found
        if not found:
            good.append(scene)
        progress(done + 1, len(scenes))
    return good, failures


def _fault(scene: ProofScene, ingredient: str) -> str:
    path = scene.images[ingredient]
    try:
        size = image_size(path)
        read_thumbnail(path, _THUMBNAIL)  # to the end of the file
    except V2IRError as error:
        return str(error)
    if size != (scene.width, scene.height):
        return f"{size[0]}x{size[1]} px where the scene has {scene.width}x{scene.height}"
    return ""
