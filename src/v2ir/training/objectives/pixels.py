"""Losses on infrared pictures in [-1, 1]."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from v2ir.model.detail_decoder import local_energy, split_bands

_SMALL = 9


def hot_weights(true: Tensor, hot: float) -> Tensor:
    """Return pixel weights 1 to 1 + `hot` that rise with heat, (N, 1, H, W), with mean 1.

    A pixel counts as hot from half a standard deviation above its picture's mean, and
    wholly from one and a half: a soft thermal mask.

    Args:
        true: True infrared pictures, (N, 1, H, W).
        hot: Further weight of a hot pixel; 0 weighs all alike.
    """
    mean = true.mean(dim=(1, 2, 3), keepdim=True)
    deviation = true.std(dim=(1, 2, 3), keepdim=True).clamp_min(1e-3)
    weights = 1.0 + hot * ((true - mean) / deviation - 0.5).clamp(0.0, 1.0)
    return weights / weights.mean(dim=(1, 2, 3), keepdim=True)


def small_hot_mask(true: Tensor) -> Tensor:
    """Return where hot things below 9 px are, (N, 1, H, W), 0..1.

    What stands out of the picture's opening by a square of 9 px (the white top-hat): wholly
    from 0.225 of the range on, not at all up to 0.075. Whatever such a square fits into is a
    part of the opening, up to its edges.
    Source: Serra 1982, "Image analysis and mathematical morphology".

    Args:
        true: True pictures in [-1, 1], (N, 1, H, W).
    """
    eroded = -F.max_pool2d(-true, _SMALL, stride=1, padding=_SMALL // 2)
    opened = F.max_pool2d(eroded, _SMALL, stride=1, padding=_SMALL // 2)
    return (((true - opened) / 2 - 0.075) / 0.15).clamp(0.0, 1.0)


def small_hot_error(made: Tensor, true: Tensor) -> Tensor:
    """Return the mean absolute error within the small hot things of a batch, a scalar.

    Targets are a few of ten thousand pixels; a mean over their own area lets them count
    however rare they are. 16 px are added to the area, so that a stray one counts little.

    Args:
        made: Pictures, (N, 1, H, W).
        true: True pictures in [-1, 1].
    """
    mask = small_hot_mask(true)
    return (mask * (made - true).abs()).sum() / (mask.sum() + 16.0)


def weighted_l1(made: Tensor, true: Tensor, weights: Tensor) -> Tensor:
    """Return the mean weighted absolute error of (N, 1, H, W)."""
    return (weights * (made - true).abs()).mean()


def edge_l1(made: Tensor, true: Tensor) -> Tensor:
    """Return the mean absolute error of the differences between neighbours."""
    across = F.l1_loss(made.diff(dim=-1), true.diff(dim=-1))
    return across + F.l1_loss(made.diff(dim=-2), true.diff(dim=-2))


def texture_difference(made: Tensor, true: Tensor) -> Tensor:
    """Return the mean absolute difference of the local strength of detail, a scalar.

    The strength is the root of the mean square within 31 px of three bands below 15 px. It
    asks for as much detail as the true picture has and not for where each edge lies, which a
    pair from two cameras cannot tell to the pixel.
    Source: local statistics of bands as in Portilla and Simoncelli 2000, Sec. 3.

    Args:
        made: Pictures, (N, 1, H, W).
        true: True ones.
    """

    def strength(pictures: Tensor) -> Tensor:
        return (local_energy(split_bands(pictures)) + 1e-5).sqrt()

    return F.l1_loss(strength(made), strength(true))


def structural_dissimilarity(made: Tensor, true: Tensor) -> Tensor:
    """Return 1 - SSIM of pictures in [-1, 1], (N, 1, H, W), without their borders.

    Source: Wang et al. 2004, Eq. 13; Gaussian window of 11 px with sigma 1.5.
    """
    window = _window(made.dtype, made.device)
    x, y = (made + 1) / 2, (true + 1) / 2
    count = len(x)
    stack = torch.cat([x, y, x * x, y * y, x * y])
    for kernel in (window.view(1, 1, -1, 1), window.view(1, 1, 1, -1)):
        stack = F.conv2d(stack, kernel)
    mean_x, mean_y, xx, yy, xy = stack.split(count)
    c1, c2 = 0.01**2, 0.03**2
    covariance = xy - mean_x * mean_y
    variances = (xx - mean_x**2) + (yy - mean_y**2)
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return 1.0 - (likeness / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))).mean()


@functools.lru_cache
def _window(dtype: torch.dtype, device: torch.device) -> Tensor:
    places = torch.arange(-5, 6, dtype=torch.float64)
    window = torch.exp(-0.5 * (places / 1.5) ** 2)
    return (window / window.sum()).to(dtype=dtype, device=device)
