"""Train the detector for a fixed number of steps, and let it look at the test images."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from v2ir.errors import InputError
from v2ir.evaluation.boxes import Box
from v2ir.proof.canvas import Lesson, canvas_shape, fitted, lesson_of, varied
from v2ir.proof.network import LARGEST_STRIDE, Detector, find_peaks, overlap_loss, peak_loss
from v2ir.proof.scenes import ProofScene
from v2ir.records import JsonRecord, Progress, no_progress

LEAST_SCORE = 0.01


@dataclasses.dataclass(frozen=True)
class Budget(JsonRecord):
    """What every row is given.

    Attributes:
        steps: Steps of the optimiser.
        batch_size: Images a step.
        size: Width of the canvas in pixels; a multiple of 32.
        learning_rate: Highest learning rate of AdamW; it rises over the first tenth of the
            steps and falls to 0 as a cosine.
    """

    steps: int = 1500
    batch_size: int = 8
    size: int = 320
    learning_rate: float = 2e-3

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 2 or self.size % LARGEST_STRIDE or self.size <= 0:
            raise InputError(
                "this budget cannot be trained with",
                got=f"{self.steps} steps of {self.batch_size} images of {self.size} px",
                do="give at least 1 step, 2 images and a size that is a multiple of 32",
            )


Sample = tuple[ProofScene, str]
"""A scene and the ingredient that its image is of."""


def train_detector(
    samples: Sequence[Sample],
    classes: tuple[str, ...],
    budget: Budget,
    seed: int,
    progress: Progress = no_progress,
    device: str = "cpu",
) -> Detector:
    """Train from scratch; the same seed gives every row the same first weights and draws.

    Args:
        samples: What to learn from.
        classes: Names of the classes.
        budget: Steps, images a step and size.
        seed: Draws the weights, the samples and their variations.
        progress: Told (steps done, steps).
        device: Where to train.

    Raises:
        ImageReadError: If an image cannot be read.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        detector = Detector(len(classes)).to(device)
    detector.train()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=budget.learning_rate, weight_decay=0.01)
    for step, (images, lessons) in enumerate(_batches(samples, classes, budget, seed)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(budget, step)
        optimizer.zero_grad(set_to_none=True)
        loss = detection_loss(detector(images.to(device)), lessons)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 5.0)
        optimizer.step()
        progress(step + 1, budget.steps)
    return detector.eval()


def learning_rate(budget: Budget, step: int) -> float:
    """Return the learning rate of a step, counted from 0."""
    warm = max(1, budget.steps // 10)
    if step < warm:
        return budget.learning_rate * (step + 1) / warm
    done = (step - warm) / max(1, budget.steps - warm)
    return budget.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


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


def _batches(
    samples: Sequence[Sample], classes: tuple[str, ...], budget: Budget, seed: int
) -> Iterator[tuple[torch.Tensor, list[Lesson]]]:
    shape = canvas_shape(budget.size)
    for step in range(budget.steps):
        # A function of seed and step alone, so that nothing depends on what came before.
        rng = np.random.default_rng([seed, step])
        placed = []
        for _ in range(budget.batch_size):
            scene, ingredient = samples[int(rng.random() * len(samples))]
            placed.append(varied(scene.read(ingredient), scene.boxes, shape, rng))
        images = torch.from_numpy(np.stack([p.pixels for p in placed]))[:, None]
        yield images, [lesson_of(p, classes) for p in placed]


def detect(
    detector: Detector, image: np.ndarray, classes: tuple[str, ...], budget: Budget
) -> tuple[Box, ...]:
    """Return the objects of an image, HW uint8, in its own pixels, by falling score."""
    placed = fitted(image, (), canvas_shape(budget.size))
    device = next(detector.parameters()).device
    with torch.inference_mode():
        outputs = detector(torch.from_numpy(placed.pixels)[None, None].to(device))
        edges, told = find_peaks(outputs[0][0], outputs[1][0])
    height, width = image.shape
    limits = np.array([width, height, width, height])
    corners = (edges.cpu().numpy() / placed.scale).clip(0, limits)
    boxes = []
    for (left, top, right, bottom), (score, label) in zip(corners, told.tolist(), strict=True):
        if score >= LEAST_SCORE and right > left and bottom > top:
            edges_of = (float(left), float(top), float(right), float(bottom))
            boxes.append(Box(classes[int(label)], *edges_of, score))
    return tuple(boxes)
