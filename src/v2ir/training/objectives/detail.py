"""The decoder that sees the visible image, trained behind the finished denoiser."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from v2ir.errors import ModelError
from v2ir.model import Model, NetworkDenoiser
from v2ir.model.detail_decoder import FACTOR, DetailDecoder
from v2ir.training.cache import Caches
from v2ir.training.objectives.denoising import Denoising, DenoisingBatch
from v2ir.training.objectives.end_to_end import EndToEnd, PictureBatch
from v2ir.training.objectives.objective import Draw
from v2ir.training.scenes import TrainingScene
from v2ir.training.stage import Stage


class Detail(EndToEnd):
    """Pictures from one-step estimates, and from true latents for the other samples.

    The denoiser stays as it is. `Stage.end_to_end` is the share of estimates; the true
    latents among them keep the decoder good for latents of many steps.
    """

    def __init__(self, model: Model, stage: Stage, caches: Caches) -> None:
        super().__init__(model, stage, caches)
        if model.card.factor != FACTOR or "visible" not in model.card.conditions:
            raise ModelError(
                "the decoder that sees the visible image does not fit the model",
                got=f"factor {model.card.factor}, conditions {', '.join(model.card.conditions)}",
                do=f"give a model that is told the visible image, with a factor of {FACTOR}",
            )
        self.needs -= {"autoencoder"}
        if model.detail_decoder is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model.detail_decoder = DetailDecoder(model.card.channels, model.seen_channels)
        self.decoder = model.detail_decoder
        self.modules["detail_decoder"] = self.decoder

    def batch(self, scenes: Sequence[TrainingScene], draws: Sequence[Draw]) -> PictureBatch:
        """Compose a batch with the pictures of all samples."""
        composed = Denoising.batch(self, scenes, draws)
        estimated = torch.tensor([self._is_pictured(draw) for draw in draws])
        windows = list(zip(scenes, self._windows, strict=True))
        fields = {name: getattr(composed, name) for name in DenoisingBatch.__dataclass_fields__}
        return PictureBatch(
            **{**fields, "noise": composed.noise * ~estimated.view(-1, 1, 1, 1)},
            pictured=torch.arange(len(scenes)),
            true=torch.stack([self._picture(i, "infrared", w)[:1] for i, w in windows]),
            beside=torch.stack([self._picture(i, "visible", w) for i, w in windows]),
        )

    def loss(self, batch: DenoisingBatch) -> Tensor:
        """Return the loss of all pictures; no gradient reaches the denoiser."""
        assert isinstance(batch, PictureBatch)
        conditions = self.conditions(batch)
        last = batch.timesteps == self.schedule.num_timesteps - 1
        with torch.no_grad():
            noisy = self.schedule.add_noise(batch.clean, batch.noise, batch.timesteps)
            denoiser = NetworkDenoiser(self.model.unet, None)
            prediction = denoiser(noisy, batch.timesteps, conditions).float()
            estimate = self.schedule.clean_estimate(noisy, prediction, batch.timesteps)
            latents = torch.where(last.view(-1, 1, 1, 1), estimate, batch.clean)
        seen = conditions.visible
        assert seen is not None
        made = self.decoder(latents, seen, batch.beside).float()
        return self._likeness(made, batch, self.decoder.last.weight)
