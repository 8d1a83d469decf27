"""What a network learns and how it is judged: the same for every row of a proof."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from v2ir.proof.canvas import Placed
from v2ir.proof.scenes import ProofScene

Lesson = TypeVar("Lesson")
Answer = TypeVar("Answer")
Loss = Callable[[Any, Sequence[Lesson]], Tensor]
Scores = dict[str, float]
"""Numbers in [0, 1] by name, in the order of `Task.heads`."""


def _nothing() -> None:
    """Need no package beyond those of the base."""


@dataclasses.dataclass(frozen=True)
class Task(Generic[Lesson, Answer]):
    """One kind of question that labels can answer. Its functions share three arguments.

    `classes` are the names of the classes in the order of the network's answers, `placed`
    is an image on the canvas, `outputs` is what the network gave for a batch of canvases.

    Attributes:
        learner: What is trained, as a noun.
        counted: What the labels tell, as a plural noun.
        version: Raise it when network, training, test or score change: runs of other
            versions are made again.
        least_classes: Fewest classes that are a question.
        network: (number of classes) -> untrained network for Nx1xHxW in [0, 1].
        lesson: (placed, scene, classes) -> what the network should answer for it.
        criterion: (training scenes, classes) -> the loss, (outputs, lessons) -> scalar.
        answer: (outputs of one image, placed, shape of the image, classes) -> its answer.
        score: (test scenes, answers by name of scene, classes) -> scores.
        measures: Head of the table by name of a score over all classes.
        class_measure: (name, head) of the score of one class.
        chance: (test scenes, classes) -> scores of guessing; None where a guess is worth 0.
        require: Says at once if a package is missing, and not after hours of training.
    """

    learner: str
    counted: str
    version: int
    least_classes: int
    network: Callable[[int], nn.Module]
    lesson: Callable[[Placed, ProofScene, tuple[str, ...]], Lesson]
    criterion: Callable[[Sequence[ProofScene], tuple[str, ...]], Loss[Lesson]]
    answer: Callable[[Any, Placed, tuple[int, ...], tuple[str, ...]], Answer]
    score: Callable[[Sequence[ProofScene], Mapping[str, Answer], tuple[str, ...]], Scores]
    measures: Mapping[str, str]
    class_measure: tuple[str, str]
    chance: Callable[[Sequence[ProofScene], tuple[str, ...]], Scores] | None = None
    require: Callable[[], None] = _nothing

    def heads(self, classes: Sequence[str]) -> dict[str, str]:
        """Return the head of the table by name of score: over all classes, then of each."""
        name, head = self.class_measure
        return {**self.measures, **{f"{name} {c}": f"{head} {c}" for c in classes}}
