"""One step that gives what a teacher gives in many, compared as pictures."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from v2ir.errors import InputError
from v2ir.model import Conditions, GuidanceRange, Model, NetworkDenoiser
from v2ir.model.card import SpeedChoice
from v2ir.sampling.guidance import GuidedDenoiser
from v2ir.sampling.solvers import solve
from v2ir.training.cache import Caches
from v2ir.training.objectives.denoising import DenoisingBatch
from v2ir.training.objectives.end_to_end import EndToEnd, PictureBatch
from v2ir.training.objectives.objective import Draw
from v2ir.training.scenes import TrainingScene
from v2ir.training.stage import Stage

_NO_GUIDANCE = {"text": 1.0, "visible": 1.0, "segmentation": 1.0}


@dataclasses.dataclass(kw_only=True)
class TaughtBatch(PictureBatch):
    """A batch whose pictures the teacher makes.

    Attributes:
        starts: Standard normal noise that the teacher starts from, (K, c, h, w).
        seeds: Seeds of what the teacher's solver draws on the way, (K,), int64.
    """

    starts: Tensor
    seeds: Tensor


class OneStep(EndToEnd):
    """`EndToEnd` with the teacher's pictures in the place of the true ones.

    The teacher is the model that the stage starts from, with its default guidance. The
    student's one step has no chance in it, so it learns the middle of what the teacher
    makes of many noises; and guidance is folded in at the teacher's scales.
    Source: the losses and the step are those of `EndToEnd`; targets from a teacher's own
    samples are Luhman and Luhman's, 2021, Eq. 4.
    """

    def __init__(self, model: Model, stage: Stage, caches: Caches) -> None:
        if set(stage.trains) != {"unet"}:
            raise InputError(
                f"the stage {stage.name} distils the denoiser alone",
                got=f"trains {', '.join(stage.trains)}",
                do='give "trains": ["unet"]',
            )
        teacher = copy.deepcopy(model.unet).eval().requires_grad_(False)
        self.teacher = GuidedDenoiser(NetworkDenoiser(teacher, None), model.card.guidance)
        super().__init__(model, stage, caches)
        self.solver = stage.teacher_solver or model.card.solver
        self.steps = stage.teacher_steps or model.card.steps

    def batch(self, scenes: Sequence[TrainingScene], draws: Sequence[Draw]) -> TaughtBatch:
        """Compose a batch and draw what the teacher starts from."""
        composed = super().batch(scenes, draws)
        fields = {f.name: getattr(composed, f.name) for f in dataclasses.fields(composed)}
        chosen = [draws[place] for place in composed.pictured.tolist()]
        shape = composed.clean.shape[1:]
        starts = [draw.normal(shape) for draw in chosen]
        seeds = [int(draw.generator.integers(2**62)) for draw in chosen]
        return TaughtBatch(
            **fields,
            starts=torch.stack(starts) if starts else composed.clean[:0],
            seeds=torch.tensor(seeds, dtype=torch.int64),
        )

    def loss(self, batch: DenoisingBatch) -> Tensor:
        """Return the loss of the pictured samples, as taught, and of the denoised others."""
        assert isinstance(batch, TaughtBatch)
        if len(batch.pictured):
            batch = self._taught(batch)
        return super().loss(batch)

    @torch.no_grad()
    def _taught(self, batch: TaughtBatch) -> TaughtBatch:
        """Return the batch with the teacher's latents and pictures."""
        made = solve(
            self.teacher,
            batch.starts,
            _chosen(self._guided_conditions(batch), batch.pictured),
            config=self.model.scheduler.config,
            solver=self.solver,
            steps=self.steps,
            generators=[torch.Generator("cpu").manual_seed(s) for s in batch.seeds.tolist()],
        )
        clean = batch.clean.index_copy(0, batch.pictured, made.to(batch.clean))
        return dataclasses.replace(batch, clean=clean, true=self._decode(made))

    def _guided_conditions(self, batch: TaughtBatch) -> Conditions:
        null_text = self.caches.text.get([""]).to(batch.clean.device)
        return dataclasses.replace(self.conditions(batch), null_text=null_text)

    def finish(self, scenes: Sequence[TrainingScene]) -> None:
        """Note that one step, without further guidance, is how the model is sampled."""
        super().finish(scenes)
        card = self.model.card
        guidance = card.guidance.model_copy(update=_NO_GUIDANCE)
        update = {
            "solver": "mean",
            "steps": 1,
            "guidance": guidance,
            "speeds": {"one-step": SpeedChoice(solver="mean", steps=1)},
        }
        if card.guidance_range is not None:
            ones = dict.fromkeys(_NO_GUIDANCE, (1.0, 1.0))
            update["guidance_range"] = GuidanceRange(**ones)
        self.model.card = card.model_copy(update=update)


def _chosen(conditions: Conditions, places: Tensor) -> Conditions:
    """Return the conditions of some images of a batch."""
    parts = {
        name: None if value is None else value[places]
        for name in ("visible", "segmentation", "text", "style")
        for value in (getattr(conditions, name),)
    }
    return dataclasses.replace(conditions, **parts)
