"""The one loop that trains every stage."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from v2ir.errors import MissingExtraError
from v2ir.records import Progress, no_progress
from v2ir.training.average import start_averages, update_averages
from v2ir.training.checkpoint import (
    TrainingState,
    join_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from v2ir.training.objectives import Draw, Objective
from v2ir.training.run import Run
from v2ir.training.scenes import Deck, TrainingScene
from v2ir.training.stage import Stage
from v2ir.training.team import Team, on_device

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
        sample: Called with the state when a sample grid is due.
        team: The processes that train together.
        eight_bit: Whether AdamW keeps its moments in 8 bits (bitsandbytes).
        bfloat16: Whether to compute in bfloat16 even where it is not faster.
        averages_on: Device of the averaged weights; None is the weights' own.
    """

    stage: Stage
    seed: tuple[int, ...]
    run: Run
    facts: dict[str, Any]
    team: Team
    sample: Any = None
    eight_bit: bool = False
    averages_on: str | None = None
    bfloat16: bool = False


def learning_rate(stage: Stage, step: int) -> float:
    """Return the learning rate of optimiser step `step`, counted from 0."""
    rate = stage.learning_rate
    if step < stage.warmup_steps:
        return rate * (step + 1) / stage.warmup_steps
    if stage.decay_steps:
        span = max(stage.decay_steps - stage.warmup_steps, 1)
        rate *= 1.0 - (step - stage.warmup_steps) / span
    return rate


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
    stage, run, team = settings.stage, settings.run, settings.team
    state = _start(objective, settings)
    meter = _Meter()
    batches = _batches(objective, scenes, settings, state.step)
    progress(state.step, stage.steps)
    for step in range(state.step, stage.steps):
        loss = _step(objective, state, settings, step, batches)
        update_averages(state.averages, state.modules, stage.average_decay, state.step)
        meter.add(loss)
        progress(state.step, stage.steps)
        last = state.step == stage.steps
        if state.step % LOG_EVERY == 0 or last:
            scalars = meter.read(learning_rate(stage, step))
            scalars["loss"] = team.mean(scalars["loss"])
            if team.is_lead:
                run.log(stage.name, state.step, scalars)
        if state.step % stage.checkpoint_every == 0 or last:
            if team.is_lead:
                save_checkpoint(run.checkpoints, stage.name, state, settings.facts)
            elif team.sharding:
                join_checkpoint(state)
            team.wait()
        if settings.sample and stage.sample_every and state.step % stage.sample_every == 0:
            settings.sample(state)
    return state


def _start(objective: Objective, settings: StageRun) -> TrainingState:
    parameters = [p for module in objective.modules.values() for p in module.parameters()]
    for module in objective.modules.values():
        module.train().requires_grad_(True)
    state = TrainingState(
        modules=objective.modules,
        averages=start_averages(objective.modules, settings.averages_on),
        optimizer=_optimizer(parameters, settings),
    )
    found = list_checkpoints(settings.run.checkpoints, settings.stage.name)
    if found:
        load_checkpoint(found[-1][1], state, settings.facts)
        logger.info("stage %s continues at step %d", settings.stage.name, state.step)
    return state


def _optimizer(parameters: Sequence[torch.nn.Parameter], settings: StageRun) -> Any:
    """Return AdamW, with moments in 8 bits where the memory plan says so."""
    values: dict[str, Any] = {
        "lr": settings.stage.learning_rate,
        "weight_decay": settings.stage.weight_decay,
    }
    if not settings.eight_bit:
        return torch.optim.AdamW(parameters, **values)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise MissingExtraError(
            "8-bit AdamW needs the package bitsandbytes", do="run pip install 'v2ir[memory]'"
        ) from error
    return AdamW8bit(parameters, **values)


def _step(
    objective: Objective,
    state: TrainingState,
    settings: StageRun,
    step: int,
    batches: Iterator[Any],
) -> float:
    """Run one optimiser step over its accumulated forward passes; return the loss."""
    stage, team = settings.stage, settings.team
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(stage, step)
    total = 0.0
    for batch in itertools.islice(batches, stage.accumulation):
        with team.precision(settings.bfloat16):
            loss = objective.loss(on_device(batch, team.device)) / stage.accumulation
        loss.backward()
        total += float(loss.detach())
    parameters = [p for module in state.modules.values() for p in module.parameters()]
    team.mean_gradients(parameters)
    torch.nn.utils.clip_grad_norm_(parameters, stage.clip_norm)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.step = step + 1
    return total


def _batches(
    objective: Objective, scenes: Sequence[TrainingScene], settings: StageRun, start: int
) -> Iterator[Any]:
    """Yield the batches from step `start` on, the next one composed in a thread."""
    stage, team = settings.stage, settings.team
    deck = Deck([item.scene.style for item in scenes], stage.balance, settings.seed)

    def compose(index: int) -> Any:
        first = (index * team.size + team.rank) * stage.batch_size
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
