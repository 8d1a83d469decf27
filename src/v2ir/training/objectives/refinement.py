"""The refiner's objective: edges and grain for pictures that the network made."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from v2ir.model import Model
from v2ir.model.denoiser import NetworkDenoiser
from v2ir.model.refiner import build_refiner, refine
from v2ir.training.cache import Caches
from v2ir.training.objectives.denoising import DenoisingBatch
from v2ir.training.objectives.end_to_end import EndToEnd, PictureBatch
from v2ir.training.stage import Stage


class Refinement(EndToEnd):
    """The decoded expectation in, the true picture out, beside the visible image.

    Everything but the refiner rests. A model without one gets one.
    """

    def __init__(self, model: Model, stage: Stage, caches: Caches) -> None:
        if model.refiner is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model.refiner = build_refiner(len(model.card.styles)).to(model.device)
        to = torch.nn.Module.to
        to(model.refiner, memory_format=torch.channels_last)  # type: ignore[call-overload]
        super().__init__(model, stage, caches)
        modules: dict[str, nn.Module] = {"refiner": model.refiner}
        if self.discriminator is not None:
            modules["discriminator"] = self.discriminator
        self.modules = modules

    def loss(self, batch: DenoisingBatch) -> Tensor:
        """Return the loss of the refined pictures."""
        assert isinstance(batch, PictureBatch)
        with torch.no_grad():
            denoiser = NetworkDenoiser(self.model.unet, None)
            noisy = self.schedule.add_noise(batch.clean, batch.noise, batch.timesteps)
            prediction = denoiser(noisy, batch.timesteps, self.conditions(batch)).float()
            estimate = self.schedule.clean_estimate(noisy, prediction, batch.timesteps)
            coarse = self._decode(estimate[batch.pictured])
        made = refine(self.model.refiner, coarse, batch.beside, batch.styles[batch.pictured])
        return self._likeness(made, batch, self.model.refiner.conv_out.weight)
