"""What an image shows as a whole: the task of labels that are classes of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from v2ir.proof.accuracy import chance, score
from v2ir.proof.canvas import Placed
from v2ir.proof.network import WIDTHS, centred, stages_down
from v2ir.proof.scenes import ProofScene
from v2ir.proof.task import Loss, Task


class Classifier(nn.Module):
    """The detector's five scales down, their mean over the canvas, and one linear layer.

    Args:
        num_classes: Number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stages = stages_down()
        self.told = nn.Linear(WIDTHS[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the classes, NxC.

        Args:
            images: Nx1xHxW in [0, 1]; sides are multiples of 32.
        """
        values = centred(images)
        for stage in self.stages:
            values = stage(values)
        return self.told(values.mean(dim=(2, 3)))


def balanced_loss(scenes: Sequence[ProofScene], classes: tuple[str, ...]) -> Loss[int]:
    """Return the cross-entropy in which all classes together weigh the same.

    The score is balanced, too: without this, a rare class would not be worth learning in
    a small number of steps.

    Source: King and Zeng, "Logistic regression in rare events data", 2001, section 4.2
    (weighted likelihood), with equal shares of the classes.

    Args:
        scenes: What is learned from, at least one of each class.
        classes: Names of the classes.
    """
    counts = Counter(scene.label for scene in scenes)
    weights = torch.tensor([len(scenes) / len(classes) / counts[c] for c in classes])

    def loss(logits: Tensor, lessons: Sequence[int]) -> Tensor:
        wanted = torch.tensor(lessons, device=logits.device)
        each = functional.cross_entropy(logits, wanted, reduction="none")
        return (each * weights.to(logits.device)[wanted]).mean()

    return loss


def _lesson(placed: Placed, scene: ProofScene, classes: tuple[str, ...]) -> int:
    assert scene.label is not None  # a claim holds only scenes of its classes
    return classes.index(scene.label)


def _answer(
    logits: Tensor, placed: Placed, shape: tuple[int, ...], classes: tuple[str, ...]
) -> str:
    return classes[int(logits[0].argmax())]


CLASSIFICATION: Task[int, str] = Task(
    learner="classifier",
    counted="images",
    version=1,
    least_classes=2,
    network=Classifier,
    lesson=_lesson,
    criterion=balanced_loss,
    answer=_answer,
    score=score,
    measures={"accuracy": "balanced accuracy", "f1": "macro F1"},
    class_measure=("recall", "recall"),
    chance=chance,
)
