"""What is known about the compared images besides their pixels.

A data set tells which images belong to which split and style, where the photographs are
and which infrared images are for training; two plain folders can stand in for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from v2ir.errors import DataError, InputError, UnknownNameError
from v2ir.evaluation.statistics import TrainingImage
from v2ir.files import image_paths, read_jsonl
from v2ir.records import SPLITS, JsonRecord, Scene

SCENES_FILE = "scenes.jsonl"
MAPS_FOLDER = "seg"
EVERY_SPLIT = "all"


@dataclasses.dataclass(frozen=True)
class Selection(JsonRecord):
    """Which scenes of a data set are compared.

    Attributes:
        split: Name of the split, or `all`.
        alignment: Only pairs whose registration is stated as this, or None for all.
    """

    split: str = "test"
    alignment: str | None = None

    def __post_init__(self) -> None:
        if self.split not in (*SPLITS, EVERY_SPLIT):
            raise UnknownNameError.of("split", self.split, (*SPLITS, EVERY_SPLIT))

    def takes(self, scene: Scene) -> bool:
        """Return whether a scene belongs to the selection."""
        return self.split in {EVERY_SPLIT, scene.split} and (
            self.alignment is None or self.alignment == scene.alignment
        )


@dataclasses.dataclass(frozen=True)
class Context:
    """What is known about the compared images besides their pixels.

    Attributes:
        selection: What was selected from a data set; None where there is no data set.
        selected: Names of the images to compare; None means all.
        truth: True infrared images by name, as far as the data set knows them.
        visible: Photographs by name; without them there are no baselines.
        maps: Segmentation maps by name, for the pictures of a report.
        styles: Camera's look by name, as far as it is known.
        groups: Scene group by name: images of one place, which are no independent samples.
        training: Infrared images of the training set; without them there are no baselines.
    """

    selection: Selection | None = None
    selected: frozenset[str] | None = None
    truth: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    visible: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    maps: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    styles: Mapping[str, str] = dataclasses.field(default_factory=dict)
    groups: Mapping[str, str] = dataclasses.field(default_factory=dict)
    training: tuple[TrainingImage, ...] = ()

    @property
    def has_baselines(self) -> bool:
        """Whether photographs and training images are there to make the baselines from."""
        return bool(self.visible) and bool(self.training)


def context_of_data(data: Path, selection: Selection) -> Context:
    """Read what an indexed data set knows.

    Args:
        data: Folder with `scenes.jsonl`.
        selection: Which scenes to compare.

    Raises:
        DataError: If there is no index or it holds no scene of the selection.
    """
    return context_of_scenes(data, read_scenes(data), selection)


def read_scenes(data: Path) -> list[Scene]:
    """Return the scenes of an indexed data set.

    Raises:
        DataError: If there is no index.
    """
    scenes = [Scene.from_json(row) for row in read_jsonl(data / SCENES_FILE)]
    if not scenes:
        raise DataError(
            f"{data} is not an indexed data set",
            got=f"no scenes in {data / SCENES_FILE}",
            do=f"make the index with: v2ir index {data}",
        )
    return scenes


def context_of_scenes(data: Path, scenes: Sequence[Scene], selection: Selection) -> Context:
    """Say what the scenes of a data set tell about its images.

    The training images are the infrared halves of its training pairs: images without a
    photograph are left out, because they need not come from the same camera or place.

    Raises:
        DataError: If no scene is selected.
    """
    chosen = [scene for scene in scenes if scene.infrared and selection.takes(scene)]
    if not chosen:
        raise DataError(
            f"{data} has no scenes to compare",
            got=f"split {selection.split}, alignment {selection.alignment or 'any'}",
            do="choose another --split or --alignment; the index has " + _overview(scenes),
        )
    maps = named_images(data / MAPS_FOLDER)[0] if (data / MAPS_FOLDER).is_dir() else {}
    return Context(
        selection=selection,
        selected=frozenset(scene.name for scene in chosen),
        truth={scene.name: data / scene.infrared for scene in scenes if scene.infrared},
        visible={scene.name: data / scene.visible for scene in scenes if scene.visible},
        maps=maps,
        styles={scene.name: scene.style for scene in scenes if scene.style},
        groups={scene.name: scene.group for scene in scenes},
        training=tuple(
            TrainingImage(
                data / scene.infrared, scene.style, _key(data, scene), data / scene.visible
            )
            for scene in scenes
            if scene.split == "train" and scene.infrared and scene.visible
        ),
    )


def _key(data: Path, scene: Scene) -> str:
    return scene.infrared_hash or _file_key(data / str(scene.infrared))


def _file_key(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return f"{path} absent"
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def _overview(scenes: Iterable[Scene]) -> str:
    counts: dict[str, int] = {}
    for scene in scenes:
        kind = f"{scene.split}/{scene.alignment or 'unstated'}"
        counts[kind] = counts.get(kind, 0) + 1
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))


def context_of_folders(visible: Path, reference: Path) -> Context:
    """Take the photographs from one folder and the training images from another.

    Args:
        visible: Photographs with the stems of the compared images.
        reference: Infrared images of the training set, in any layout.

    Raises:
        InputError: If one of them holds no image.
    """
    training = [TrainingImage(path, None, _file_key(path)) for path in image_paths(reference)]
    photographs = named_images(visible)[0]
    for folder, found in ((visible, photographs), (reference, training)):
        if not found:
            raise InputError(f"{folder} holds no image", do="check the path")
    return Context(visible=photographs, training=tuple(training))


def named_images(place: Path) -> tuple[dict[str, Path], list[tuple[str, str]]]:
    """List the images of a folder (or one file) by name: the path without its extension.

    Files that are not named like images, such as sidecars, are passed over.

    Args:
        place: A folder, searched with its subfolders, or one image file.

    Returns:
        Path by name, and (name, reason) for files whose name is already taken.

    Raises:
        InputError: If `place` does not exist.
    """
    if place.is_file():
        return {place.stem: place}, []
    if not place.is_dir():
        raise InputError(f"{place} does not exist", do="check the path")
    found: dict[str, Path] = {}
    taken: list[tuple[str, str]] = []
    for path in image_paths(place):
        name = path.relative_to(place).with_suffix("").as_posix()
        if name in found:
            taken.append((name, f"{path} has the same stem as {found[name]}; it is passed over"))
        else:
            found[name] = path
    return found, taken
