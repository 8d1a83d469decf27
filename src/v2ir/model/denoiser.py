"""The denoiser: a network that is told the conditions, and the loss that trains it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from v2ir.model.conditions import Conditions
from v2ir.model.folding import embed_scales, takes_scales
from v2ir.model.pooling import pooled_text

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel


class Denoiser(Protocol):
    """Anything that predicts, from a noisy latent, what the noise schedule asks for."""

    def __call__(self, noisy: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        """Predict epsilon, v or the clean latent, as the model's scheduler says.

        Args:
            noisy: Scaled noisy latent, (N, c, h, w).
            timestep: Timestep 0..999, a scalar or (N,).
            conditions: Conditions of the N images.

        Returns:
            The prediction, (N, c, h, w).
        """


@dataclasses.dataclass(frozen=True)
class NetworkInputs:
    """What a network is given beside the noisy latent and the timestep.

    Attributes:
        planes: Latents beside the noisy one, in the order of the input channels: the visible
            image's (N, c + d, h, w) with d features, the map's (N, c, h, w).
        text: Text embedding, (N, L, D).
        labels: Style numbers, (N,), or None for a network without styles.
        scales: Embedding of the guidance scales, (N, E), or None where none are told.
        added: What joins the time embedding: the pooled text, or None; see `pooled_text`.
    """

    planes: tuple[Tensor, ...]
    text: Tensor
    labels: Tensor | None
    scales: Tensor | None
    added: dict[str, Tensor] | None


class NetworkDenoiser:
    """A UNet whose input is the noisy latent beside the visible and segmentation latents.

    Channel order: noisy infrared, visible, segmentation. The visible image's latent is
    followed by the features of an image encoder where the model has one.
    Source: DiffV2IR, Sec. 3.4 and its released code.

    Attributes:
        unet: The network; its number of input channels says which latents it takes.
        null_text: Embedding of the empty string, (1, L, D), used where text is None.
    """

    def __init__(self, unet: UNet2DConditionModel, null_text: Tensor | None) -> None:
        self.unet = unet
        self.null_text = null_text

    def __call__(self, noisy: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        """Run the network on (N, c, h, w); see `Denoiser`."""
        inputs = self.inputs(noisy, conditions)
        return self.unet(
            torch.cat([noisy, *inputs.planes], dim=1),
            timestep,
            encoder_hidden_states=inputs.text,
            class_labels=inputs.labels,
            timestep_cond=inputs.scales,
            added_cond_kwargs=inputs.added,
        ).sample

    def inputs(self, noisy: Tensor, conditions: Conditions) -> NetworkInputs:
        """Return what the network is given beside the noisy latent, (N, c, h, w)."""
        number = len(noisy)
        text = conditions.text
        if text is None:
            null_text = conditions.null_text if self.null_text is None else self.null_text
            if null_text is None:
                raise ValueError("neither text nor the null text's embedding is given")
            text = null_text.expand(number, -1, -1)
        labels = None
        if self.unet.config.num_class_embeds:
            labels = conditions.style
            if labels is None:
                labels = torch.zeros(number, dtype=torch.long, device=noisy.device)
        text = text.to(noisy.dtype)
        planes, scales = self._planes(noisy, conditions), self._scales(conditions)
        return NetworkInputs(planes, text, labels, scales, pooled_text(self.unet, text))

    def _planes(self, noisy: Tensor, conditions: Conditions) -> tuple[Tensor, ...]:
        """Return the planes beside the noisy latent: as many as the network has channels for.

        The visible plane is a latent wide, or wider by an image encoder's features.
        """
        channels = noisy.shape[1]
        planes: list[Tensor] = []
        left = self.unet.config.in_channels - channels
        for image in (conditions.visible, conditions.segmentation):
            if left:
                # The map's plane is the last one, and a latent wide.
                width = left - channels if not planes and left > channels else left
                blank = noisy.new_zeros(len(noisy), width, *noisy.shape[2:])
                planes.append(blank if image is None else image.to(noisy.dtype))
                left -= planes[-1].shape[1]
        return tuple(planes)

    @property
    def takes_scales(self) -> bool:
        """Whether guidance is folded in, so that the network wants the scales itself."""
        return takes_scales(self.unet)

    def _scales(self, conditions: Conditions) -> Tensor | None:
        """Return the embedding of the guidance scales, or None where none are told."""
        if conditions.scales is None:
            return None
        if not self.takes_scales:
            raise ValueError("the network cannot be told guidance scales")
        layer = self.unet.time_embedding.cond_proj
        return embed_scales(conditions.scales, layer.in_features).to(layer.weight.dtype)


class NoiseSchedule:
    """The forward process x_t = alpha_t x + sigma_t n with alpha_t^2 + sigma_t^2 = 1.

    Attributes:
        alphas_cumprod: alpha_t^2 for t = 0..T-1, (T,), float64.
        prediction_type: `epsilon`, `v_prediction` or `sample`.
    """

    def __init__(self, alphas_cumprod: Tensor, prediction_type: str) -> None:
        self.alphas_cumprod = alphas_cumprod.double()
        self.prediction_type = prediction_type

    @property
    def num_timesteps(self) -> int:
        """Number of timesteps T."""
        return len(self.alphas_cumprod)

    def coefficients(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha_t and sigma_t for (N,) timesteps, shaped to multiply `like`."""
        squared = self.alphas_cumprod.to(like.device)[timesteps]
        shape = (-1,) + (1,) * (like.dim() - 1)
        alpha = squared.sqrt().to(like.dtype).view(shape)
        sigma = (1 - squared).sqrt().to(like.dtype).view(shape)
        return alpha, sigma

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return x_t for clean latents and standard normal noise, both (N, c, h, w)."""
        alpha, sigma = self.coefficients(timesteps, clean)
        return alpha * clean + sigma * noise

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what the network must predict: n, alpha_t n - sigma_t x, or x.

        Source: Salimans and Ho 2022, Appendix D, for v.
        """
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return clean
        alpha, sigma = self.coefficients(timesteps, clean)
        return alpha * noise - sigma * clean

    def clean_estimate(self, noisy: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        """Return the one-step estimate of the clean latent from a prediction at x_t."""
        alpha, sigma = self.coefficients(timesteps, noisy)
        if self.prediction_type == "epsilon":
            return (noisy - sigma * prediction) / alpha.clamp_min(1e-6)
        if self.prediction_type == "sample":
            return prediction
        return alpha * noisy - sigma * prediction


def denoising_loss(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    clean: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    conditions: Conditions,
) -> Tensor:
    """Return the squared error of the prediction for each image, (N,).

    Source: DiffV2IR, Eq. 1 (for epsilon; the other predictions use the same form).

    Args:
        denoiser: The denoiser in training.
        schedule: Its noise schedule.
        clean: Scaled clean latents, (N, c, h, w).
        noise: Standard normal noise, (N, c, h, w).
        timesteps: Timesteps, (N,), int64.
        conditions: Conditions of the N images.
    """
    noisy = schedule.add_noise(clean, noise, timesteps)
    prediction = denoiser(noisy, timesteps, conditions)
    target = schedule.target(clean, noise, timesteps)
    return F.mse_loss(prediction.float(), target.float(), reduction="none").mean(dim=(1, 2, 3))
