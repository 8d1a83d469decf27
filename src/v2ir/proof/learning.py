"""Train a network for a fixed number of steps, and let it look at the test images."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from v2ir.errors import InputError
from v2ir.proof.canvas import canvas_shape, fitted, varied
from v2ir.proof.network import LARGEST_STRIDE
from v2ir.proof.scenes import ProofScene
from v2ir.proof.task import Answer, Lesson, Task
from v2ir.records import JsonRecord, Progress, no_progress
from v2ir.seeding import own_seed


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


def train(
    task: Task[Lesson, Answer],
    samples: Sequence[Sample],
    classes: tuple[str, ...],
    budget: Budget,
    seed: int,
    progress: Progress = no_progress,
    device: str = "cpu",
) -> nn.Module:
    """Train from scratch; the same seed gives every row the same first weights and draws.

    Args:
        task: What to learn.
        samples: What to learn from.
        classes: Names of the classes.
        budget: Steps, images a step and size.
        seed: Draws the weights, the samples and their variations.
        progress: Told (steps done, steps).
        device: Where to train.

    Raises:
        ImageReadError: If an image cannot be read.
    """
    with own_seed(seed):
        network = task.network(len(classes)).to(device)
    network.train()
    criterion = task.criterion([scene for scene, _ in samples], classes)
    optimizer = torch.optim.AdamW(network.parameters(), lr=budget.learning_rate, weight_decay=0.01)
    for step, (images, lessons) in enumerate(_batches(task, samples, classes, budget, seed)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(budget, step)
        optimizer.zero_grad(set_to_none=True)
        loss = criterion(network(images.to(device)), lessons)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        progress(step + 1, budget.steps)
    return network.eval()


def learning_rate(budget: Budget, step: int) -> float:
    """Return the learning rate of a step, counted from 0."""
    warm = max(1, budget.steps // 10)
    if step < warm:
        return budget.learning_rate * (step + 1) / warm
    done = (step - warm) / max(1, budget.steps - warm)
    return budget.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def _batches(
    task: Task[Lesson, Answer],
    samples: Sequence[Sample],
    classes: tuple[str, ...],
    budget: Budget,
    seed: int,
) -> Iterator[tuple[torch.Tensor, list[Lesson]]]:
    shape = canvas_shape(budget.size)
    for step in range(budget.steps):
        # A function of seed and step alone, so that nothing depends on what came before.
        rng = np.random.default_rng([seed, step])
        pixels, lessons = [], []
        for _ in range(budget.batch_size):
            scene, ingredient = samples[int(rng.random() * len(samples))]
            placed = varied(scene.read(ingredient), scene.boxes, shape, rng)
            pixels.append(placed.pixels)
            lessons.append(task.lesson(placed, scene, classes))
        yield torch.from_numpy(np.stack(pixels))[:, None], lessons


def ask(
    task: Task[Any, Answer],
    network: nn.Module,
    image: np.ndarray,
    classes: tuple[str, ...],
    budget: Budget,
) -> Answer:
    """Return what a trained network says of an image, HW uint8."""
    placed = fitted(image, (), canvas_shape(budget.size))
    device = next(network.parameters()).device
    with torch.inference_mode():
        outputs = network(torch.from_numpy(placed.pixels)[None, None].to(device))
    return task.answer(outputs, placed, image.shape, classes)
