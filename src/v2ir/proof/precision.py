"""Mean average precision by COCO's own tools."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from v2ir.evaluation.boxes import Box
from v2ir.extras import optional_module
from v2ir.proof.scenes import ProofScene
from v2ir.records import JsonRecord

EXTRA = "prove"


@dataclasses.dataclass(frozen=True)
class Precision(JsonRecord):
    """Average precision in [0, 1], as COCO counts it.

    Attributes:
        mean: Mean over the overlaps 0.50, 0.55, ... 0.95 and the classes.
        half: Mean over the classes at an overlap of 0.50.
        by_class: `mean` of each class.
    """

    mean: float
    half: float
    by_class: dict[str, float]


def require_tools() -> None:
    """Say at once if COCO's tools are missing, and not after hours of training.

    Raises:
        MissingExtraError: If they are.
    """
    optional_module("pycocotools.cocoeval", EXTRA)


def average_precision(
    scenes: Sequence[ProofScene],
    found: Mapping[str, Sequence[Box]],
    classes: tuple[str, ...],
) -> Precision:
    """Compare found boxes with the scenes' own.

    Args:
        scenes: Test scenes with their true boxes.
        found: Found boxes by name of scene.
        classes: Classes to count; boxes of others are passed over.

    Raises:
        MissingExtraError: If COCO's tools are missing.
    """
    coco = optional_module("pycocotools.coco", EXTRA)
    cocoeval = optional_module("pycocotools.cocoeval", EXTRA)
    rows = [
        _row(number, classes.index(box.label) + 1, box)
        for number, scene in enumerate(scenes, start=1)
        for box in found.get(scene.name, ())
        if box.label in classes
    ]
    if not rows:
        return Precision(0.0, 0.0, dict.fromkeys(classes, 0.0))
    with contextlib.redirect_stdout(io.StringIO()):  # the tools print as they go
        truth = coco.COCO()
        truth.dataset = _dataset(scenes, classes)
        truth.createIndex()
        evaluation = cocoeval.COCOeval(truth, truth.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    # overlaps x recalls x classes x areas (all) x detections an image (100)
    table = evaluation.eval["precision"][:, :, :, 0, -1]
    by_class = {label: _mean(table[:, :, place]) for place, label in enumerate(classes)}
    return Precision(_mean(table), _mean(table[0]), by_class)


def _mean(precision: np.ndarray) -> float:
    known = precision[precision > -1]  # -1 stands for a class without a true box
    return float(known.mean()) if known.size else 0.0


def _row(image: int, label: int, box: Box) -> dict[str, Any]:
    width, height = box.right - box.left, box.bottom - box.top
    return {
        "image_id": image,
        "category_id": label,
        "bbox": [box.left, box.top, width, height],
        "score": box.score,
    }


def _dataset(scenes: Sequence[ProofScene], classes: tuple[str, ...]) -> dict[str, Any]:
    rows = [
        _row(number, classes.index(box.label) + 1, box)
        for number, scene in enumerate(scenes, start=1)
        for box in scene.boxes
        if box.label in classes
    ]
    extra = (
        {"id": i, "iscrowd": 0, "area": r["bbox"][2] * r["bbox"][3]} for i, r in enumerate(rows, 1)
    )
    return {
        "info": {},
        "images": [
            {"id": i, "width": s.width, "height": s.height} for i, s in enumerate(scenes, start=1)
        ],
        "annotations": [{**row, **more} for row, more in zip(rows, extra, strict=True)],
        "categories": [{"id": i, "name": label} for i, label in enumerate(classes, start=1)],
    }
