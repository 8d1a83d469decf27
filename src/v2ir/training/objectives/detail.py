"""The decoder that sees the visible image, trained behind the finished denoiser."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from v2ir.errors import ModelError
from v2ir.model import Conditions, Model, NetworkDenoiser
from v2ir.model.detail_decoder import FACTOR, DetailDecoder
from v2ir.seeding import own_seed
from v2ir.training.cache import Caches
from v2ir.training.objectives.denoising import Denoising, DenoisingBatch
from v2ir.training.objectives.end_to_end import EndToEnd, PictureBatch
from v2ir.training.objectives.objective import Draw
from v2ir.training.scenes import TrainingScene
from v2ir.training.stage import Stage


@dataclasses.dataclass(kw_only=True)
class DetailBatch(PictureBatch):
    """A batch of which every sample is taken to the picture of a part of it.

    Attributes:
        estimated: Whether a sample's latent is the denoiser's estimate, (N,).
        corners: Upper left corner of each part in the latent, (N, 2), row first.
    """

    estimated: Tensor
    corners: Tensor


class Detail(EndToEnd):
    """Pictures from one-step estimates, and from true latents for the other samples.

    The denoiser stays as it is. `Stage.end_to_end` is the share of estimates; the true
    latents among them keep the decoder good for latents of many steps. The denoiser needs the
    whole scene around it, the decoder does not: `Stage.detail_crop` shows it a part.
    """

    def __init__(self, model: Model, stage: Stage, caches: Caches) -> None:
        super().__init__(model, stage, caches)
        if model.card.factor != FACTOR or "visible" not in model.card.conditions:
            raise ModelError(
                "the decoder that sees the visible image does not fit the model",
                got=f"factor {model.card.factor}, conditions {', '.join(model.card.conditions)}",
                do=f"give a model that is told the visible image, with a factor of {FACTOR}",
            )
        self.side = stage.detail_crop or stage.crop
        if self.side > stage.crop or self.side % FACTOR:
            raise ModelError(
                f"the part that the stage {stage.name} makes pictures of does not fit its crop",
                got=f"detail_crop {stage.detail_crop}, crop {stage.crop}",
                do=f"give a detail_crop of at most {stage.crop} that {FACTOR} divides",
            )
        self.needs -= {"autoencoder"}
        if model.detail_decoder is None:
            with own_seed():
                model.detail_decoder = DetailDecoder(model.card.channels, model.seen_channels)
        self.decoder = model.detail_decoder
        self.modules["detail_decoder"] = self.decoder

    def batch(self, scenes: Sequence[TrainingScene], draws: Sequence[Draw]) -> DetailBatch:
        """Compose a batch with the pictures of a part of every sample."""
        composed = Denoising.batch(self, scenes, draws)
        estimated = torch.tensor([self._is_pictured(draw) for draw in draws])
        windows = list(zip(scenes, self._windows, strict=True))
        fields = {f.name: getattr(composed, f.name) for f in dataclasses.fields(composed)}
        places = (self.stage.crop - self.side) // FACTOR + 1
        corners = torch.tensor(
            [[int(draw.generator.integers(places)) for _ in range(2)] for draw in draws]
        )
        true = torch.stack([self._picture(i, "infrared", w)[:1] for i, w in windows])
        beside = torch.stack([self._picture(i, "visible", w) for i, w in windows])
        return DetailBatch(
            **{**fields, "noise": torch.zeros_like(composed.noise)},
            pictured=torch.arange(len(scenes)),
            true=_parts(true, FACTOR * corners, self.side),
            beside=_parts(beside, FACTOR * corners, self.side),
            estimated=estimated,
            corners=corners,
        )

    def loss(self, batch: DenoisingBatch) -> Tensor:
        """Return the loss of all pictures; no gradient reaches the denoiser."""
        assert isinstance(batch, DetailBatch)
        conditions = self.conditions(batch)
        seen = conditions.visible
        assert seen is not None
        latents = batch.clean.clone()
        rows = batch.estimated.nonzero().flatten()
        if len(rows):
            with torch.no_grad():
                latents[rows] = self._estimate(batch, conditions, rows).to(latents)
        side = self.side // FACTOR
        shown = [_parts(x, batch.corners, side) for x in (latents, seen)]
        made = self.decoder(*shown, batch.beside).float()
        return self._likeness(made, batch, self.decoder.last.weight)

    def _estimate(self, batch: DetailBatch, conditions: Conditions, rows: Tensor) -> Tensor:
        """Return the one-step estimates of some rows, from zeros in the noise's place."""
        timesteps = batch.timesteps[rows]
        noisy = self.schedule.add_noise(batch.clean[rows], batch.noise[rows], timesteps)
        denoiser = NetworkDenoiser(self.model.unet, None)
        prediction = denoiser(noisy, timesteps, conditions.take(rows)).float()
        return self.schedule.clean_estimate(noisy, prediction, timesteps)


def _parts(planes: Tensor, corners: Tensor, side: int) -> Tensor:
    """Return a square of each plane, (N, C, side, side), by its upper left corner."""
    cut = [
        plane[:, top : top + side, left : left + side]
        for plane, (top, left) in zip(planes, corners.tolist(), strict=True)
    ]
    return torch.stack(cut)
