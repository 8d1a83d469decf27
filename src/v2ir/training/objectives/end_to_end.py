"""Training through the decoder: the picture after one step from pure noise.

At the last timestep of a schedule without signal the network sees noise and conditions
alone, so its one-step estimate can be decoded and compared as a picture.
Source: Garcia et al. 2025, "Fine-tuning image-conditional diffusion models is easier than
you think", Sec. 4 (single step, task loss); the losses on pictures are ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from v2ir.errors import ModelError
from v2ir.images import to_tensor
from v2ir.model import Model, NetworkDenoiser
from v2ir.training.cache import Caches
from v2ir.training.objectives.adversary import (
    PatchDiscriminator,
    adaptive_weight,
    discriminator_loss,
    feature_distance,
)
from v2ir.training.objectives.denoising import Denoising, DenoisingBatch, draw_timesteps
from v2ir.training.objectives.objective import read_part
from v2ir.training.objectives.pixels import (
    edge_l1,
    hot_weights,
    structural_dissimilarity,
    weighted_l1,
)
from v2ir.training.scenes import TrainingScene
from v2ir.training.stage import Stage
from v2ir.training.variants import Variant


@dataclasses.dataclass
class PictureBatch(DenoisingBatch):
    """A batch with the pictures of its first samples.

    Attributes:
        true: Infrared pictures of the first K samples, (K, 1, H, W) in [-1, 1].
        beside: Their visible pictures, (K, 3, H, W) in [-1, 1], zero where there is none.
    """

    true: Tensor
    beside: Tensor


class EndToEnd(Denoising):
    """One step for the first samples of a batch, the denoising loss for the others.

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
        if "decoder" in stage.trains:
            self.modules["decoder"] = model.autoencoder.decoder
        self.discriminator: PatchDiscriminator | None = None
        if stage.adversarial > 0:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.discriminator = PatchDiscriminator(4, len(model.card.styles))
            self.modules["discriminator"] = self.discriminator

    def batch(
        self, scenes: Sequence[TrainingScene], generator: np.random.Generator
    ) -> PictureBatch:
        """Compose a batch and read the pictures of its first samples."""
        self._windows: list[tuple[Variant, int, int]] = []
        composed = super().batch(scenes, generator)
        number = max(1, round(len(scenes) * self.stage.end_to_end))
        true, beside = [], []
        for item, window in list(zip(scenes, self._windows, strict=True))[:number]:
            true.append(self._picture(item, "infrared", window)[:1])
            if item.scene.visible:
                beside.append(self._picture(item, "visible", window))
            else:
                beside.append(torch.zeros_like(true[-1]).expand(3, -1, -1))
        fields = {f.name: getattr(composed, f.name) for f in dataclasses.fields(composed)}
        return PictureBatch(**fields, true=torch.stack(true), beside=torch.stack(beside))

    def _note(self, variant: Variant, top: int, left: int) -> None:
        self._windows.append((variant, top, left))

    def _picture(self, item: TrainingScene, part: str, window: tuple[Variant, int, int]) -> Tensor:
        variant, top, left = window
        view = (variant if part == "visible" else variant.untoned).apply(read_part(item, part))
        factor, crop = self.model.card.factor, self.stage.crop
        rows = slice(top * factor, top * factor + crop)
        columns = slice(left * factor, left * factor + crop)
        return to_tensor(np.ascontiguousarray(view[rows, columns]))

    def loss(self, batch: DenoisingBatch, generator: torch.Generator) -> Tensor:
        """Return the loss of the decoded first samples and of the denoised others."""
        assert isinstance(batch, PictureBatch)
        number, pictured = len(batch.clean), len(batch.true)
        last = self.schedule.num_timesteps - 1
        noise = torch.randn(batch.clean.shape, generator=generator)
        timesteps = draw_timesteps(number, last + 1, self.stage.noise_shift, generator)
        timesteps[:pictured] = last
        noisy = self.schedule.add_noise(batch.clean, noise, timesteps)
        denoiser = NetworkDenoiser(self.model.unet, None)
        prediction = denoiser(noisy, timesteps, self.conditions(batch)).float()
        estimate = self.schedule.clean_estimate(noisy, prediction, timesteps)[:pictured]
        total = self._picture_loss(estimate, batch)
        if pictured < number:
            target = self.schedule.target(batch.clean, noise, timesteps)
            total = total + F.mse_loss(prediction[pictured:], target[pictured:])
        return total

    def _picture_loss(self, estimate: Tensor, batch: PictureBatch) -> Tensor:
        stage, true = self.stage, batch.true
        decoded = self.model.autoencoder.decode(self.model.unscale_latents(estimate)).sample
        made = decoded.float().mean(dim=1, keepdim=True)
        loss = weighted_l1(made, true, hot_weights(true, stage.hot)) + edge_l1(made, true)
        loss = loss + stage.structure * structural_dissimilarity(made, true)
        # The clean latent's error keeps the estimate where the later steps expect it.
        loss = loss + 0.1 * F.mse_loss(estimate, batch.clean[: len(true)])
        if self.discriminator is None:
            return loss
        return loss + self._adversarial(made, loss, batch)

    def _adversarial(self, made: Tensor, loss: Tensor, batch: PictureBatch) -> Tensor:
        """Return the losses of both players; each one's reaches its own weights alone."""
        judge = self.discriminator
        assert judge is not None
        styles = batch.styles[: len(batch.true)]
        true = torch.cat([batch.true, batch.beside], dim=1)
        for parameter in judge.parameters():
            parameter.requires_grad_(False)
        verdicts = judge(torch.cat([made, batch.beside], dim=1), styles)
        with torch.no_grad():
            wanted = judge(true, styles)
        fooled = -verdicts[-1].mean() + self.stage.features * feature_distance(verdicts, wanted)
        kernels = [p for p in self.model.autoencoder.decoder.parameters() if p.dim() == 4]
        last_layer = kernels[-1]
        weight: float | Tensor = self.stage.adversarial
        if last_layer.requires_grad:
            weight = weight * adaptive_weight(loss, fooled, last_layer)
        for parameter in judge.parameters():
            parameter.requires_grad_(True)
        both = torch.cat([true, torch.cat([made.detach(), batch.beside], dim=1)])
        seen = judge(both, styles.repeat(2))[-1]
        return weight * fooled + discriminator_loss(*seen.chunk(2))
