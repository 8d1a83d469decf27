"""The one loop that trains every stage."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from v2ir.records import Progress, no_progress
from v2ir.training.average import start_averages, update_averages
from v2ir.training.checkpoint import (
    TrainingState,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from v2ir.training.objectives import Draw, Objective
from v2ir.training.run import Run
from v2ir.training.scenes import Deck, TrainingScene
from v2ir.training.stage import Stage

logger = logging.getLogger(__name__)
LOG_EVERY = 10


@dataclasses.dataclass(frozen=True)
class StageRun:
    """What the loop needs to know to run one stage.

    Attributes:
        stage: The stage.
        seed: Seed words: the recipe's seed and the stage's place.
        run: The run folder.
        facts: What a checkpoint must agree with to be continued.
        sample: Called with the step when a sample grid is due, with averaged weights.
    """

    stage: Stage
    seed: tuple[int, ...]
    run: Run
    facts: dict[str, Any]
    sample: Any = None


def learning_rate(stage: Stage, step: int) -> float:
    """Return the learning rate of optimiser step `step`, counted from 0."""
    rate = stage.learning_rate
    if step < stage.warmup_steps:
        return rate * (step + 1) / stage.warmup_steps
    if stage.decay_steps:
        span = max(stage.decay_steps - stage.warmup_steps, 1)
        rate *= 1.0 - (step - stage.warmup_steps) / span
    return rate


def bfloat16_pays(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16 in hardware, so that it is faster."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    cpu = torch.cpu
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(cpu, name, lambda: False)() for name in names)


def train_stage(
    objective: Objective,
    scenes: Sequence[TrainingScene],
    settings: StageRun,
    progress: Progress = no_progress,
) -> TrainingState:
    """Train until the stage's last step, continuing from its last checkpoint.

    Every draw is a function of the seed and the sample's place in the run; so a run that
    was killed and continued ends with the weights of an undisturbed one.

    Args:
        objective: What to minimise.
        scenes: Scenes of the stage.
        settings: Stage, seed, run folder.
        progress: Told (steps done, steps in all).

    Returns:
        The final state, its averages included.
    """
    stage, run = settings.stage, settings.run
    state = _start(objective, settings)
    precision: Any = contextlib.nullcontext()
    if bfloat16_pays(next(next(iter(objective.modules.values())).parameters()).device):
        precision = torch.autocast("cpu", torch.bfloat16)
    meter = _Meter()
    batches = _batches(objective, scenes, settings, state.step)
    progress(state.step, stage.steps)
    for step in range(state.step, stage.steps):
        with precision:
            loss = _step(objective, state, stage, step, batches)
        update_averages(state.averages, state.modules, stage.average_decay, state.step)
        meter.add(loss)
        progress(state.step, stage.steps)
        last = state.step == stage.steps
        if state.step % LOG_EVERY == 0 or last:
            run.log(stage.name, state.step, meter.read(learning_rate(stage, step)))
        if state.step % stage.checkpoint_every == 0 or last:
            save_checkpoint(run.checkpoints, stage.name, state, settings.facts)
        if settings.sample and stage.sample_every and state.step % stage.sample_every == 0:
            settings.sample(state)
    return state


def _start(objective: Objective, settings: StageRun) -> TrainingState:
    parameters = [p for module in objective.modules.values() for p in module.parameters()]
    for module in objective.modules.values():
        module.train().requires_grad_(True)
    stage = settings.stage
    state = TrainingState(
        modules=objective.modules,
        averages=start_averages(objective.modules),
        optimizer=torch.optim.AdamW(
            parameters, lr=stage.learning_rate, weight_decay=stage.weight_decay
        ),
    )
    found = list_checkpoints(settings.run.checkpoints, stage.name)
    if found:
        load_checkpoint(found[-1][1], state, settings.facts)
        logger.info("stage %s continues at step %d", stage.name, state.step)
    return state


def _step(
    objective: Objective,
    state: TrainingState,
    stage: Stage,
    step: int,
    batches: Iterator[Any],
) -> float:
    """Run one optimiser step over its accumulated forward passes; return the loss."""
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(stage, step)
    total = 0.0
    for batch in itertools.islice(batches, stage.accumulation):
        loss = objective.loss(batch) / stage.accumulation
        loss.backward()
        total += float(loss.detach())
    parameters = [p for module in state.modules.values() for p in module.parameters()]
    torch.nn.utils.clip_grad_norm_(parameters, stage.clip_norm)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.step = step + 1
    return total


def _batches(
    objective: Objective, scenes: Sequence[TrainingScene], settings: StageRun, start: int
) -> Iterator[Any]:
    """Yield the batches from step `start` on, the next one composed in a thread."""
    stage = settings.stage
    deck = Deck([item.scene.style for item in scenes], stage.balance, settings.seed)

    def compose(index: int) -> Any:
        first = index * stage.batch_size
        chosen = [scenes[place] for place in deck.draw(first, stage.batch_size)]
        draws = [
            Draw(first + place, np.random.default_rng([*settings.seed, first + place, 1]))
            for place in range(stage.batch_size)
        ]
        return objective.batch(chosen, draws)

    first, last = start * stage.accumulation, stage.steps * stage.accumulation
    with ThreadPoolExecutor(max_workers=1) as pool:
        upcoming = pool.submit(compose, first)
        for index in range(first, last):
            current = upcoming.result()
            if index + 1 < last:
                upcoming = pool.submit(compose, index + 1)
            yield current


class _Meter:
    """Mean loss and speed since the last reading."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.since = time.monotonic()

    def add(self, loss: float) -> None:
        self.losses.append(loss)

    def read(self, rate: float) -> dict[str, float]:
        seconds = time.monotonic() - self.since
        scalars = {
            "loss": float(np.mean(self.losses)),
            "learning_rate": rate,
            "steps_per_second": len(self.losses) / max(seconds, 1e-9),
        }
        self.losses, self.since = [], time.monotonic()
        return scalars
