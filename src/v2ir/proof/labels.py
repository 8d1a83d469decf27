"""Labels of the scenes: files of boxes, or a detector's verdict on the true infrared image."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from v2ir.errors import DataError, V2IRError
from v2ir.evaluation.boxes import Box, BoxFile, BoxSource
from v2ir.evaluation.detectors import load_box_source
from v2ir.files import append_jsonl, read_jsonl
from v2ir.proof.scenes import ProofScene
from v2ir.records import Progress, no_progress

DETECTOR = "detector:"
LABELS_FILE = "labels.jsonl"


def open_labels(text: str, scenes: Sequence[ProofScene]) -> BoxSource:
    """Open what `--labels` names.

    Args:
        text: A COCO JSON file, a folder of YOLO or VOC files, or `detector:` and a detector,
            whose boxes on the true infrared images then count as the truth.
        scenes: Scenes whose sizes YOLO's relative boxes need.

    Raises:
        DataError: If the file cannot be read.
        ModelError: If the detector cannot be opened.
        MissingExtraError: If the detector's package is missing.
    """
    sizes = {scene.name: (scene.width, scene.height) for scene in scenes}
    if text.startswith(DETECTOR):
        return load_box_source(text.removeprefix(DETECTOR), sizes.get)
    source = load_box_source(text, sizes.get)
    if not isinstance(source, BoxFile):
        raise DataError(
            f"{text} is no file of boxes",
            do=f"give a COCO file or a folder of YOLO or VOC files, or --labels {DETECTOR}{text}",
        )
    return source


def label_scenes(
    scenes: Sequence[ProofScene],
    source: BoxSource,
    least_score: float,
    out: Path,
    progress: Progress = no_progress,
) -> tuple[list[ProofScene], list[tuple[str, str]]]:
    """Give each scene its boxes.

    A detector's boxes are kept in OUT/labels.jsonl with its version, so that it looks at
    each image once. Scenes that a file of boxes does not name are left out: that nobody
    looked is not the same as that nothing is there.

    Args:
        scenes: Scenes with the true infrared image `real`.
        source: Where the boxes come from.
        least_score: Least confidence of a box that counts.
        out: Folder of the proof.
        progress: Told (done, total) after each scene.

    Returns:
        The labelled scenes, and (name, reason) of those that cannot be labelled.
    """
    kept = _kept(out / LABELS_FILE, source)
    found, failures = [], []
    for done, scene in enumerate(scenes):
        try:
            boxes = _boxes(scene, source, kept, out)
        except V2IRError as error:
            failures.append((scene.name, str(error)))
        else:
            sure = tuple(box for box in boxes if box.score >= least_score)
            found.append(dataclasses.replace(scene, boxes=sure))
        progress(done + 1, len(scenes))
    return found, failures


def _kept(path: Path, source: BoxSource) -> dict[str, tuple[Box, ...]]:
    rows = (row for row in read_jsonl(path) if row["source"] == [source.name, source.version])
    return {row["scene"]: tuple(Box(**box) for box in row["boxes"]) for row in rows}


def _boxes(
    scene: ProofScene, source: BoxSource, kept: dict[str, tuple[Box, ...]], out: Path
) -> tuple[Box, ...]:
    if isinstance(source, BoxFile):
        if scene.name not in source.by_name:
            raise DataError("left out: the labels do not name it")
        return source.by_name[scene.name]
    if scene.name not in kept:
        boxes = source.boxes(scene.name, scene.read("real"))
        row = {"scene": scene.name, "source": [source.name, source.version]}
        append_jsonl(out / LABELS_FILE, {**row, "boxes": [dataclasses.asdict(b) for b in boxes]})
        return boxes
    return kept[scene.name]
