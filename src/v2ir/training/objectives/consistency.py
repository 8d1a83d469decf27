"""Latent consistency distillation: from anywhere on a path of the teacher to its end.

Source: Luo et al. 2023, "Latent consistency models", Sec. 4, Eqs. 14 to 17.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from v2ir.model import Conditions, Model, NetworkDenoiser, NoiseSchedule
from v2ir.model.card import SpeedChoice
from v2ir.training.cache import Caches
from v2ir.training.objectives.denoising import DenoisingBatch, draw_timestep
from v2ir.training.objectives.objective import Draw
from v2ir.training.objectives.teacher import Distilling, ToldBatch
from v2ir.training.scenes import TrainingScene
from v2ir.training.stage import Stage

PATH_STEPS = 50
"""Steps of the teacher's path; the solver `lcm` stops at the same timesteps."""
# How deep the boundary is: both are those of the solver, diffusers' LCMScheduler.
SIGMA_DATA, TIMESTEP_SCALING = 0.5, 10.0


def boundary_scalings(timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return c_skip and c_out for timesteps (N,); at timestep 0 they are exactly 1 and 0.

    Source: Karras et al. 2022, with the timestep in the place of the noise's level.
    """
    scaled = (timesteps.double() * TIMESTEP_SCALING).view(-1, *[1] * (like.dim() - 1))
    total = scaled**2 + SIGMA_DATA**2
    return (SIGMA_DATA**2 / total).to(like.dtype), (scaled / total.sqrt()).to(like.dtype)


def ddim_step(
    schedule: NoiseSchedule, noisy: Tensor, prediction: Tensor, start: Tensor, stop: Tensor
) -> Tensor:
    """Go along the path from timesteps `start` to `stop`, both (N,), in one step.

    Source: Song et al. 2021, Eq. 12 with eta = 0.
    """
    clean = schedule.clean_estimate(noisy, prediction, start)
    alpha, sigma = schedule.coefficients(start, noisy)
    noise = prediction
    if schedule.prediction_type == "v_prediction":
        noise = alpha * prediction + sigma * noisy
    elif schedule.prediction_type == "sample":
        noise = (noisy - alpha * clean) / sigma.clamp_min(1e-6)
    return schedule.add_noise(clean, noise, stop)


def pseudo_huber(made: Tensor, wanted: Tensor, width: float) -> Tensor:
    """Return the mean of sqrt(d^2 + c^2) - c over all elements; the squared error at c = 0."""
    squared = (made - wanted).square()
    if width == 0:
        return squared.mean()
    return ((squared + width**2).sqrt() - width).mean()


class Consistency(Distilling):
    """The student's answers at two neighbours on a path of its teacher agree.

    The path is the guided teacher's; its neighbours are 20 timesteps apart. The answer at
    the earlier one comes from a slow average of the student, its target network.

    Attributes:
        target: The target network; None takes the student itself, without gradients.
    """

    def __init__(self, model: Model, stage: Stage, caches: Caches) -> None:
        super().__init__(model, stage, caches)
        self.stride = self.schedule.num_timesteps // PATH_STEPS
        self.target = None
        if stage.target_decay > 0:
            self.target = copy.deepcopy(model.unet)
            # Among the modules, so that checkpoints hold it; no gradient ever reaches it.
            self.modules["target"] = self.target

    def _timesteps(self, draws: Sequence[Draw]) -> Tensor:
        """Draw a stop of the path for each sample; see `Stage.noise_shift`."""
        shift = self.stage.noise_shift
        stops = [draw_timestep(PATH_STEPS, shift, draw.generator) for draw in draws]
        return (torch.tensor(stops) + 1) * self.stride - 1

    def answer(self, unet: torch.nn.Module, noisy: Tensor, t: Tensor, told: Conditions) -> Tensor:
        """Return the end of the path that `noisy` lies on, as a network sees it: Eq. 9."""
        prediction = NetworkDenoiser(unet, None)(noisy, t, told).float()
        skip, out = boundary_scalings(t, noisy)
        return skip * noisy + out * self.schedule.clean_estimate(noisy, prediction, t)

    def loss(self, batch: DenoisingBatch) -> Tensor:
        """Return the mean disagreement of a batch; the target network follows first."""
        assert isinstance(batch, ToldBatch)
        late = batch.timesteps
        early = (late - self.stride).clamp_min(0)
        noisy = self.schedule.add_noise(batch.clean, batch.noise, late)
        conditions = self.conditions(batch)
        guided = self.teacher(noisy, late, conditions, batch.scales)
        told = dataclasses.replace(conditions, scales=batch.scales)
        with torch.no_grad():
            nearer = ddim_step(self.schedule, noisy, guided, late, early)
            wanted = self.answer(self._followed(), nearer, early, told)
        made = self.answer(self.model.unet, noisy, late, told)
        return pseudo_huber(made, wanted, self.stage.huber)

    @torch.no_grad()
    def _followed(self) -> torch.nn.Module:
        """Move the target network towards the student, and return it."""
        if self.target is None:
            return self.model.unet
        self.target.requires_grad_(False)
        pull = 1.0 - self.stage.target_decay
        ours, theirs = self.target.parameters(), self.model.unet.parameters()
        torch._foreach_lerp_(list(ours), [each.detach() for each in theirs], pull)
        return self.target

    def finish(self, scenes: Sequence[TrainingScene]) -> None:
        """Note that the model is sampled by jumps; the teacher's speeds are no longer its."""
        super().finish(scenes)
        steps = self.stage.sampling_steps
        speeds = {
            "fast": SpeedChoice(solver="lcm", steps=steps),
            "one-step": SpeedChoice(solver="lcm", steps=1),
        }
        update = {"solver": "lcm", "steps": steps, "speeds": speeds}
        self.model.card = self.model.card.model_copy(update=update)
