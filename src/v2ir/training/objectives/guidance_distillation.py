"""Folding guidance in: one evaluation that gives what several gave."""

from __future__ import annotations

import dataclasses

import torch.nn.functional as F
from torch import Tensor

from v2ir.training.objectives.denoising import DenoisingBatch
from v2ir.training.objectives.teacher import Distilling, ToldBatch


class GuidanceDistillation(Distilling):
    """The student, told the scales, predicts what the teacher predicts with guidance.

    Source: Meng et al. 2023, Eq. 4, in the space of the prediction and with three scales.
    """

    def loss(self, batch: DenoisingBatch) -> Tensor:
        """Return the mean squared error of the guided predictions of a batch."""
        assert isinstance(batch, ToldBatch)
        noisy = self.schedule.add_noise(batch.clean, batch.noise, batch.timesteps)
        conditions = self.conditions(batch)
        target = self.teacher(noisy, batch.timesteps, conditions, batch.scales)
        told = dataclasses.replace(conditions, scales=batch.scales)
        return F.mse_loss(self.student(noisy, batch.timesteps, told), target)
