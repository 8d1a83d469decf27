"""Labels of the scenes: boxes or classes from files, or a detector's verdict on the truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from v2ir.errors import DataError, V2IRError
from v2ir.evaluation.boxes import Box, BoxFile, BoxSource
from v2ir.evaluation.detectors import load_box_source
from v2ir.evaluation.voc import is_voc
from v2ir.files import append_jsonl, read_jsonl
from v2ir.proof.image_classes import (
    ImageClasses,
    classes_of_field,
    is_class_folder,
    read_class_folder,
    read_class_list,
)
from v2ir.proof.scenes import ProofScene
from v2ir.records import Progress, no_progress

DETECTOR, SCENES = "detector:", "scenes:"
LABELS_FILE = "labels.jsonl"


class Labels(Protocol):
    """Whatever tells what a scene shows.

    Attributes:
        kind: Row of `TASKS` that learns such labels.
        name: Name for the report.
        version: Changes when the answers may change.
        least_score: Least confidence of a box that counts; None without boxes.
    """

    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def version(self) -> str: ...  # noqa: D102
    @property
    def least_score(self) -> float | None: ...  # noqa: D102

    def tell(self, scene: ProofScene) -> ProofScene:
        """Return the scene with its labels.

        Raises:
            DataError: If nobody looked at it.
        """
        ...


class BoxLabels:
    """Labels that are boxes.

    A detector's boxes are kept in OUT/labels.jsonl with its version, so that it looks at
    each image once.

    Args:
        source: Where the boxes come from.
        least_score: Least confidence of a box that counts.
        out: Folder of the proof.
    """

    kind = "detection"

    def __init__(self, source: BoxSource, least_score: float, out: Path) -> None:
        self.name, self.version, self.least_score = source.name, source.version, least_score
        self._source, self._path = source, out / LABELS_FILE
        rows = (r for r in read_jsonl(self._path) if r["source"] == [self.name, self.version])
        self._kept = {row["scene"]: tuple(Box(**box) for box in row["boxes"]) for row in rows}

    def tell(self, scene: ProofScene) -> ProofScene:
        """Return the scene with the boxes that are sure enough.

        Raises:
            DataError: If a file of boxes does not name it: that nobody looked is not the
                same as that nothing is there.
            ImageReadError: If a detector cannot see its image.
        """
        sure = tuple(box for box in self._boxes(scene) if box.score >= self.least_score)
        return dataclasses.replace(scene, boxes=sure)

    def _boxes(self, scene: ProofScene) -> tuple[Box, ...]:
        if isinstance(self._source, BoxFile):
            if scene.name not in self._source.by_name:
                raise DataError("left out: the labels do not name it")
            return self._source.by_name[scene.name]
        if scene.name not in self._kept:
            boxes = self._source.boxes(scene.name, scene.read("real"))
            row = {"scene": scene.name, "source": [self.name, self.version]}
            append_jsonl(self._path, {**row, "boxes": [dataclasses.asdict(b) for b in boxes]})
            return boxes
        return self._kept[scene.name]


def open_labels(text: str, scenes: Sequence[ProofScene], least_score: float, out: Path) -> Labels:
    """Open what `--labels` names; what it is decides what is learned.

    Args:
        text: Boxes: a COCO JSON file, a folder of YOLO or VOC files, or `detector:` and a
            detector, whose boxes on the true infrared images then count as the truth.
            Classes of images: a CSV file, a folder of `CLASS/NAME.*`, or `scenes:` and a
            field of the data set's scenes.
        scenes: All scenes of the proof.
        least_score: Least confidence of a box that counts.
        out: Folder of the proof.

    Raises:
        DataError: If the file cannot be read or names none of the scenes.
        ModelError: If the detector cannot be opened.
        MissingExtraError: If the detector's package is missing.
        UnknownNameError: If scenes have no such field.
    """
    classes = _open_classes(text, scenes)
    return classes or BoxLabels(_open_boxes(text, scenes), least_score, out)


def _open_classes(text: str, scenes: Sequence[ProofScene]) -> ImageClasses | None:
    names = {scene.name for scene in scenes}
    path = Path(text)
    if text.startswith(SCENES):
        return classes_of_field(text.removeprefix(SCENES), scenes)
    if path.suffix.lower() == ".csv":
        return read_class_list(path, names)
    if is_class_folder(path, names) and not is_voc(path):
        return read_class_folder(path, names)
    return None


def _open_boxes(text: str, scenes: Sequence[ProofScene]) -> BoxSource:
    sizes = {scene.name: (scene.width, scene.height) for scene in scenes}
    if text.startswith(DETECTOR):
        return load_box_source(text.removeprefix(DETECTOR), sizes.get)
    source = load_box_source(text, sizes.get)
    if not isinstance(source, BoxFile):
        raise DataError(
            f"{text} is no file of labels",
            do="give a COCO file, a folder of YOLO or VOC files, a CSV file of name,label, a "
            f"folder of CLASS/NAME files, or --labels {DETECTOR}{text}",
        )
    return source


def label_scenes(
    scenes: Sequence[ProofScene], labels: Labels, progress: Progress = no_progress
) -> tuple[list[ProofScene], list[tuple[str, str]]]:
    """Give each scene its labels.

    Args:
        scenes: Scenes with the true infrared image `real`.
        labels: What tells them.
        progress: Told (done, total) after each scene.

    Returns:
        The labelled scenes, and (name, reason) of those that cannot be labelled.
    """
    found, failures = [], []
    for done, scene in enumerate(scenes):
        try:
            found.append(labels.tell(scene))
        except V2IRError as error:
            failures.append((scene.name, str(error)))
        progress(done + 1, len(scenes))
    return found, failures
