"""Where objects are: the task of labels that are boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from v2ir.evaluation.boxes import Box
from v2ir.proof.canvas import Lesson, Placed, lesson_of
from v2ir.proof.network import Detector, find_peaks, overlap_loss, peak_loss
from v2ir.proof.precision import average_precision, require_tools
from v2ir.proof.scenes import ProofScene
from v2ir.proof.task import Loss, Scores, Task

LEAST_SCORE = 0.01


def detection_loss(
    outputs: tuple[torch.Tensor, torch.Tensor], lessons: Sequence[Lesson]
) -> torch.Tensor:
    """Return the loss of a batch: that of the peaks, and that of the boxes at their cells."""
    logits, distances = outputs
    targets = torch.from_numpy(np.stack([lesson.peaks for lesson in lessons])).to(logits.device)
    found = [
        distances[i, :, lesson.places[:, 0], lesson.places[:, 1]].T
        for i, lesson in enumerate(lessons)
    ]
    wanted = torch.from_numpy(np.concatenate([lesson.distances for lesson in lessons]))
    boxes = overlap_loss(torch.cat(found), wanted.to(logits.device))
    return peak_loss(logits, targets) + boxes


def boxes_of(
    outputs: tuple[torch.Tensor, torch.Tensor],
    placed: Placed,
    shape: tuple[int, ...],
    classes: tuple[str, ...],
) -> tuple[Box, ...]:
    """Return the objects that the outputs of one image tell, by falling score.

    Args:
        outputs: Peaks and distances of a batch of one.
        placed: The image on the canvas.
        shape: (height, width) of the image, in whose pixels the boxes are.
        classes: Names of the classes.
    """
    edges, told = find_peaks(outputs[0][0], outputs[1][0])
    height, width = shape
    limits = np.array([width, height, width, height])
    corners = (edges.cpu().numpy() / placed.scale).clip(0, limits)
    boxes = []
    for (left, top, right, bottom), (score, label) in zip(corners, told.tolist(), strict=True):
        if score >= LEAST_SCORE and right > left and bottom > top:
            edges_of = (float(left), float(top), float(right), float(bottom))
            boxes.append(Box(classes[int(label)], *edges_of, score))
    return tuple(boxes)


def _lesson(placed: Placed, scene: ProofScene, classes: tuple[str, ...]) -> Lesson:
    return lesson_of(placed, classes)


def _criterion(scenes: Sequence[ProofScene], classes: tuple[str, ...]) -> Loss[Lesson]:
    return detection_loss


def _score(
    scenes: Sequence[ProofScene], found: Mapping[str, Sequence[Box]], classes: tuple[str, ...]
) -> Scores:
    reached = average_precision(scenes, found, classes)
    by_class = {f"ap {label}": reached.by_class[label] for label in classes}
    return {"ap": reached.mean, "ap50": reached.half, **by_class}


DETECTION: Task[Lesson, tuple[Box, ...]] = Task(
    learner="detector",
    counted="objects",
    version=1,
    least_classes=1,
    network=Detector,
    lesson=_lesson,
    criterion=_criterion,
    answer=boxes_of,
    score=_score,
    measures={"ap": "AP", "ap50": "AP at 0.5"},
    class_measure=("ap", "AP"),
    require=require_tools,
)
