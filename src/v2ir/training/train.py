"""Training: the stages of a recipe, one after the other, into a run folder."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from v2ir.errors import InputError, UnknownNameError
from v2ir.model import Model
from v2ir.model.folder import find_model, load_model, load_part
from v2ir.model.networks import encode_mode
from v2ir.model.pooling import pools_text
from v2ir.records import Progress, no_progress
from v2ir.training.average import adopt, averaged
from v2ir.training.cache import Caches, LatentCache, TextCache, weights_hash
from v2ir.training.checkpoint import TrainingState
from v2ir.training.loop import StageRun, train_stage
from v2ir.training.lora import widen_weights
from v2ir.training.memory import GIGABYTE, MemoryPlan, choose_plan, footprint, peak_memory
from v2ir.training.objectives import FOR_AUTOENCODERS, FROM_A_MODEL, OBJECTIVES
from v2ir.training.preview import preview
from v2ir.training.resting import Resting
from v2ir.training.run import Run
from v2ir.training.scenes import TrainingScene, scenes_of, training_scenes
from v2ir.training.sharding import ShardedModules, can_shard
from v2ir.training.stage import Recipe, Stage
from v2ir.training.start import model_before
from v2ir.training.team import Team

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """Where training reads and writes.

    Attributes:
        data_dir: Data set folder.
        run_dir: Run folder.
        stages: Names of the stages to run; empty runs all that are not finished.
        start_from: Model folder or name to start from instead of random weights.
        cache_dir: Folder of the latent cache; by default a hidden one in the data set.
        memory: Memory of the device in bytes that every stage is made to fit; None takes
            the stages as they are.
    """

    data_dir: Path
    run_dir: Path
    stages: tuple[str, ...] = ()
    start_from: str | None = None
    cache_dir: Path | None = None
    memory: int | None = None


@dataclasses.dataclass(frozen=True)
class CacheShare:
    """Scenes whose latents and embeddings a stage needs.

    Attributes:
        stage: The stage.
        start: Model folder or name that it starts from.
        cache_dir: Folder of the caches.
        scenes: Scenes that lack something.
    """

    stage: Stage
    start: str
    cache_dir: Path
    scenes: Sequence[TrainingScene]


FillCaches = Callable[[CacheShare, Progress], None]
"""Fills the caches elsewhere, such as on a cluster."""


@dataclasses.dataclass(frozen=True)
class _Work:
    """What the stages of one call share."""

    run: Run
    team: Team
    scenes: Sequence[TrainingScene]
    cache_dir: Path
    memory: int | None
    bar: Callable[[str], Progress]
    fill: FillCaches | None = None


def train(
    recipe: Recipe,
    settings: TrainSettings,
    progress: Callable[[str], Progress] = lambda stage: no_progress,
    fill: FillCaches | None = None,
) -> Path:
    """Run the stages of a recipe; the same call continues an interrupted run.

    Started by `torchrun` or `accelerate launch`, all processes train together; a stage's
    batch size is that of each process.

    Args:
        recipe: The recipe.
        settings: Folders and stages.
        progress: Asked for a progress function at the start of each stage.
        fill: Fills the caches of each stage that starts from a model folder, before it
            trains; what it leaves is computed here.

    Returns:
        Folder of the last finished stage's model.

    Raises:
        RunError: If the run folder belongs to another recipe.
        DataError: If the data set does not have what a stage needs.
        InputError: If a stage does not fit the memory, or distils and there is no model.
        UnknownNameError: If a stage is asked for that the recipe does not have.
    """
    wanted = _chosen(recipe, settings.stages)
    run, team = Run(settings.run_dir), Team()
    if team.is_lead:
        run.open(recipe)
    team.wait()
    work = _Work(
        run,
        team,
        training_scenes(settings.data_dir),
        settings.cache_dir or settings.data_dir / ".cache",
        settings.memory,
        progress if team.is_lead else lambda stage: no_progress,
        fill if team.is_lead else None,
    )
    previous: Path | None = None
    with no_denormals(), run.events() if team.is_lead else contextlib.nullcontext():
        for place, stage in enumerate(recipe.stages):
            if stage.name in wanted and not run.is_finished(stage.name):
                _run_stage(stage, place, recipe, work, previous or settings.start_from)
            if run.is_finished(stage.name):
                previous = run.model(stage.name)
    return previous or run.model(recipe.stages[-1].name)


@contextlib.contextmanager
def no_denormals() -> Iterator[None]:
    """Flush denormal numbers to zero for the length of a block.

    Gradients of saturated units underflow, and on CPUs denormal numbers are many times slower.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _chosen(recipe: Recipe, names: Sequence[str]) -> set[str]:
    known = [stage.name for stage in recipe.stages]
    for name in names:
        if name not in known:
            raise UnknownNameError.of(f"stage of the recipe {recipe.name}", name, known)
    return set(names or known)


def _run_stage(
    stage: Stage, place: int, recipe: Recipe, work: _Work, start: str | Path | None
) -> None:
    """Train one stage and save the model that it ends with."""
    if start is None and stage.objective in FROM_A_MODEL:
        raise InputError(
            f"the stage {stage.name} distils a model, and there is none",
            do="name the model to start from: `v2ir train ... --from MODEL`",
        )
    run, team, scenes = work.run, work.team, scenes_of(stage, work.scenes)
    model = model_before(stage, recipe, work.scenes, start).to(team.device)
    plan = _plan(model, stage, work)
    if plan:
        stage = plan.applied(stage)
    logger.info("stage %s: %d scenes, %d steps", stage.name, len(scenes), stage.steps)
    progress = work.bar(stage.name)
    _prepare_networks(model, plan)
    caches = _caches(model, work.cache_dir)
    objective = OBJECTIVES[stage.objective](model, stage, caches)
    if work.fill and start is not None and (left := objective.unprepared(scenes)):
        work.fill(CacheShare(stage, str(start), work.cache_dir, left), progress)
    team.wait()
    caches.refresh()
    objective.prepare(scenes[team.rank :: team.size], progress)
    team.wait()
    resting = Resting(model, objective.needs, start, team.device)
    cut = _cut(objective.modules, stage, team)
    sample = _previewer(run, stage, model, scenes, resting, cut) if _shows(stage, team) else None
    settings = StageRun(
        stage,
        (recipe.seed, place),
        run,
        _facts(recipe, stage, team),
        team,
        sample,
        eight_bit=bool(plan and plan.eight_bit),
        averages_on="cpu" if plan and plan.averages_on_cpu else None,
        bfloat16=bool(plan and plan.half_frozen),
    )
    resting.unload()
    state = train_stage(objective, scenes, settings, progress)
    if plan:
        logger.info("measured peak: %.1f GB", peak_memory(team.device) / GIGABYTE)
    modules = _ended(model, state, cut)
    del state  # moments and averages are of no more use, and at full size they are 10 GB
    if modules:
        resting.load()
        if plan and plan.half_frozen:
            _widen(model, start)
        for module in modules.values():
            module.eval().requires_grad_(False)
        objective.finish(scenes)
    if team.is_lead:
        _save(objective.model, recipe, stage, run)
        if sample:
            sample(None)
    team.wait()


class CacheFiller:
    """Computes what a stage needs of some of its scenes, and keeps it.

    Args:
        share: The stage and its folders; the scenes are given with each call.
        device: Where the networks run.
    """

    def __init__(self, share: CacheShare, device: str = "cpu") -> None:
        model = load_model(share.start, device)
        self.caches = _caches(model, share.cache_dir)
        self.objective = OBJECTIVES[share.stage.objective](model, share.stage, self.caches)

    def fill(self, scenes: Sequence[TrainingScene]) -> None:
        """Compute what is missing; what others have written meanwhile is not made again.

        Raises:
            ImageReadError: If an image cannot be read; what was computed is kept.
            OutputError: If the disk refuses.
        """
        self.caches.refresh()
        try:
            self.objective.prepare(scenes, no_progress)
        finally:
            self.caches.flush()


def _plan(model: Model, stage: Stage, work: _Work) -> MemoryPlan | None:
    if work.memory is None or stage.objective in FOR_AUTOENCODERS:
        return None
    autocast = not isinstance(work.team.precision(), contextlib.nullcontext)
    found = footprint(model, stage, autocast)
    eight_bit = importlib.util.find_spec("bitsandbytes") is not None
    if work.team.sharding and can_shard(stage):
        # bitsandbytes keeps its moments in blocks that a cut would run through.
        found, eight_bit = found.shared(model.unet, work.team.size), False
    plan = choose_plan(found, stage, work.memory, eight_bit=eight_bit)
    logger.info("stage %s in %.0f GB: %s", stage.name, work.memory / GIGABYTE, plan.describe())
    return plan


def _prepare_networks(model: Model, plan: MemoryPlan | None) -> None:
    for module in (model.unet, model.autoencoder):
        torch.nn.Module.to(module, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if plan and plan.checkpointing:
        model.unet.enable_gradient_checkpointing()
    if plan and plan.half_frozen:
        torch.nn.Module.to(model.unet, torch.bfloat16)


def _widen(model: Model, start: str | Path | None) -> None:
    if start is None:
        model.unet.float()
    else:
        widen_weights(model.unet, load_part(find_model(start), "unet"))


def _shows(stage: Stage, team: Team) -> bool:
    wanted = stage.sample_every > 0 and stage.objective not in FOR_AUTOENCODERS
    return wanted and (team.is_lead or team.sharding is not None)


def _cut(modules: Mapping[str, torch.nn.Module], stage: Stage, team: Team) -> ShardedModules | None:
    """Cut the networks over the processes where accelerate is set to."""
    if team.sharding is None:
        return None
    if not can_shard(stage):
        logger.info("stage %s keeps whole weights in every process", stage.name)
        return None
    return ShardedModules(modules, team.sharding, team)


def _ended(
    model: Model, state: TrainingState, cut: ShardedModules | None
) -> dict[str, torch.nn.Module]:
    """Return the networks with their averages, in the model; none where others hold them."""
    if cut is None:
        adopt(state.averages, state.modules)
        return state.modules
    whole = cut.whole(state.averages) or {}
    for part, module in whole.items():
        setattr(model, part, module)
    return whole


def _facts(recipe: Recipe, stage: Stage, team: Team) -> dict[str, Any]:
    """Return what a checkpoint must agree with to be continued."""
    facts = {"recipe": recipe.name, "seed": recipe.seed, "stage": stage.model_dump(mode="json")}
    return {**facts, "processes": team.size}


def _caches(model: Model, folder: Path) -> Caches:
    def encode(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return encode_mode(model.autoencoder, images.to(model.device))

    # The decoder may be trained further without making the latents stale.
    encoder_hash = weights_hash(model.autoencoder, without=("decoder", "post_quant_conv"))
    visible = None
    if model.image_encoder is not None:
        visible = LatentCache(
            folder / "visible",
            model.visible_latents,
            f"{encoder_hash} {weights_hash(model.image_encoder)}",
        )
    return Caches(
        LatentCache(folder / "latents", encode, encoder_hash),
        TextCache(
            folder / "text",
            lambda prompt: model.embed_prompts([prompt])[0],
            f"{weights_hash(model.text_encoder)} {model.card.text_length}"
            + (" without padding" if pools_text(model.unet) else ""),
        ),
        visible,
    )


def _previewer(
    run: Run,
    stage: Stage,
    model: Model,
    scenes: Sequence[TrainingScene],
    resting: Resting,
    cut: ShardedModules | None = None,
) -> Any:
    generator = np.random.default_rng(0)
    shown = [scenes[index] for index in generator.permutation(len(scenes))[:4]]

    def sample(state: Any) -> None:
        path = run.samples / f"{stage.name}-{'end' if state is None else f'{state.step:08d}'}.png"
        if state is None:
            preview(model, shown, stage, path)
            return
        if cut:
            if whole := cut.whole(state.averages):
                with resting.awake():
                    preview(dataclasses.replace(model, **dict[str, Any](whole)), shown, stage, path)
            return
        with resting.awake(), averaged(state.averages, state.modules):
            model.forget_prompts()
            preview(model, shown, stage, path)
        model.forget_prompts()

    return sample


def _save(model: Model, recipe: Recipe, stage: Stage, run: Run) -> None:
    card = model.card.model_copy(
        update={
            "name": recipe.name,
            "recipe": {**recipe.model_dump(mode="json"), "finished": stage.name},
        }
    )
    dataclasses.replace(model, card=card).save(run.model(stage.name))
