"""Training through the decoder: the picture after one step from nothing.

At the last timestep of a schedule without signal the network sees noise and conditions
alone. With zeros in the noise's place its one-step estimate is a function of the conditions,
which can be decoded and compared as a picture.
Source: Garcia et al. 2025, "Fine-tuning image-conditional diffusion models is easier than
you think", Sec. 4 (single step, zeros as noise, task loss); the losses on pictures are ours.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from v2ir.errors import ModelError
from v2ir.images import to_tensor
from v2ir.model import Model, NetworkDenoiser
from v2ir.training.cache import Caches
from v2ir.training.objectives.adversary import PatchDiscriminator, contest, make_judge
from v2ir.training.objectives.denoising import Denoising, DenoisingBatch
from v2ir.training.objectives.objective import Draw, read_part
from v2ir.training.objectives.pixels import (
    edge_l1,
    hot_weights,
    structural_dissimilarity,
    texture_difference,
    weighted_l1,
)
from v2ir.training.objectives.window import Window
from v2ir.training.scenes import TrainingScene
from v2ir.training.stage import Stage


@dataclasses.dataclass(kw_only=True)
class PictureBatch(DenoisingBatch):
    """A batch with the pictures of some of its samples.

    Attributes:
        pictured: Places in the batch of the K samples that are taken to pictures, (K,).
        true: Their infrared pictures, (K, 1, H, W) in [-1, 1].
        beside: Their visible pictures, (K, 3, H, W) in [-1, 1], zero where there is none.
    """

    pictured: Tensor
    true: Tensor
    beside: Tensor


class EndToEnd(Denoising):
    """One step for some samples of a batch, the denoising loss for the others.

    Both in one pass of the network, so that a model trained so keeps the steps after the
    first one. The decoder may train along: it makes pictures and takes no part in encoding.
    """

    def __init__(self, model: Model, stage: Stage, caches: Caches) -> None:
        super().__init__(model, stage, caches)
        last = float(self.schedule.alphas_cumprod[-1])
        if last > 1e-3:
            raise ModelError(
                "training end to end needs a noise schedule that ends in pure noise",
                got=f"a signal of {last**0.5:.3f} at the last timestep",
                do="use an architecture with rescale_betas_zero_snr, such as mini",
            )
        self.needs |= {"autoencoder"}
        # Gradients pass through the decoder; only weights that train may collect them.
        model.autoencoder.requires_grad_(False)
        if "decoder" in stage.trains:
            self.modules["decoder"] = model.autoencoder.decoder
        self.discriminator: PatchDiscriminator | None = None
        if stage.adversarial > 0:
            self.discriminator = make_judge(model.device, 3, len(model.card.styles))
            self.modules["discriminator"] = self.discriminator

    def batch(self, scenes: Sequence[TrainingScene], draws: Sequence[Draw]) -> PictureBatch:
        """Compose a batch and read the pictures of those samples that are at the last timestep."""
        composed = super().batch(scenes, draws)
        chosen = [place for place, draw in enumerate(draws) if self._is_pictured(draw)]
        true, beside = [], []
        for place in chosen:
            item, window = scenes[place], self._windows[place]
            true.append(self._picture(item, "infrared", window)[:1])
            if item.scene.visible:
                beside.append(self._picture(item, "visible", window))
            else:
                beside.append(torch.zeros_like(true[-1]).expand(3, -1, -1))
        fields = {f.name: getattr(composed, f.name) for f in dataclasses.fields(composed)}
        crop = self.stage.crop
        return PictureBatch(
            **{**fields, "noise": composed.noise.index_fill(0, torch.tensor(chosen).long(), 0.0)},
            pictured=torch.tensor(chosen, dtype=torch.long),
            true=torch.stack(true) if true else torch.zeros(0, 1, crop, crop),
            beside=torch.stack(beside) if beside else torch.zeros(0, 3, crop, crop),
        )

    def _is_pictured(self, draw: Draw) -> bool:
        """Whether a sample is taken to a picture: evenly spread, a function of its place."""
        share = self.stage.end_to_end
        return math.floor((draw.position + 1) * share) > math.floor(draw.position * share)

    def _timesteps(self, draws: Sequence[Draw]) -> Tensor:
        drawn = super()._timesteps(draws)
        pictured = torch.tensor([self._is_pictured(draw) for draw in draws])
        return drawn.where(~pictured, self.schedule.num_timesteps - 1)

    def _picture(self, item: TrainingScene, part: str, window: Window) -> Tensor:
        crop, factor = self.stage.crop, self.model.card.factor
        toned = part == "visible"
        return to_tensor(window.cut(read_part(item, part), crop, factor, toned=toned))

    def loss(self, batch: DenoisingBatch) -> Tensor:
        """Return the loss of the decoded samples and of the denoised others."""
        assert isinstance(batch, PictureBatch)
        noisy = self.schedule.add_noise(batch.clean, batch.noise, batch.timesteps)
        denoiser = NetworkDenoiser(self.model.unet, None)
        prediction = denoiser(noisy, batch.timesteps, self.conditions(batch)).float()
        others = torch.ones(len(noisy), dtype=torch.bool).index_fill(0, batch.pictured, False)
        total = prediction.new_zeros(()) + self._thermal_loss(noisy, prediction, batch)
        if len(batch.pictured):
            estimate = self.schedule.clean_estimate(noisy, prediction, batch.timesteps)
            total = total + self._picture_loss(estimate[batch.pictured], batch)
        if others.any():
            target = self.schedule.target(batch.clean, batch.noise, batch.timesteps)
            total = total + F.mse_loss(prediction[others], target[others])
        return total

    def _picture_loss(self, estimate: Tensor, batch: PictureBatch) -> Tensor:
        made = self._decode(estimate)
        kernels = [p for p in self.model.autoencoder.decoder.parameters() if p.dim() == 4]
        loss = self._likeness(made, batch, kernels[-1])
        # The clean latent's error keeps the estimate where the later steps expect it.
        return loss + 0.1 * F.mse_loss(estimate, batch.clean[batch.pictured])

    def _likeness(self, made: Tensor, batch: PictureBatch, last_layer: Tensor) -> Tensor:
        """Return the loss of pictures (K, 1, H, W) that `last_layer` made."""
        stage, true = self.stage, batch.true
        loss = weighted_l1(made, true, hot_weights(true, stage.hot)) + edge_l1(made, true)
        loss = loss + stage.structure * structural_dissimilarity(made, true)
        if stage.texture:
            loss = loss + stage.texture * texture_difference(made, true)
        if self.discriminator is None:
            return loss
        styles = batch.styles[batch.pictured]
        return loss + contest(
            self.discriminator, made, true, loss, last_layer, stage,
            beside=batch.beside, styles=styles,
        )  # fmt: skip
