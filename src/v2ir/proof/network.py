"""A small network that learns in minutes, and the detector that stands on it.

Objects are peaks of a map, each with a box.

Source: Zhou, Wang and Kraehenbuehl, "Objects as points", 2019 (peaks instead of anchors);
Tian et al., "FCOS", 2019 (a box as the distances of a pixel to its four edges).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDE = 4
LARGEST_STRIDE = 32
WIDTHS = (16, 32, 64, 128, 128)
_DEPTHS = (0, 1, 2, 2, 1)
_PRIOR = 0.01


def stages_down() -> nn.ModuleList:
    """Build five stages, each half as large as the one before, of `WIDTHS` channels."""
    stages, before = nn.ModuleList(), 1
    for width, depth in zip(WIDTHS, _DEPTHS, strict=True):
        blocks = [_Block(width) for _ in range(depth)]
        stages.append(nn.Sequential(_convolution(before, width, stride=2), *blocks))
        before = width
    return stages


def centred(images: Tensor) -> Tensor:
    """Spread pixels in [0, 1] around 0, where the empty canvas (0.5) is."""
    return (images - 0.5) * 4.0


class Detector(nn.Module):
    """Five scales down, four up, two heads at a quarter of the size; about 1.3 M parameters.

    Args:
        num_classes: Number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stages = stages_down()
        neck = 32
        self.laterals = nn.ModuleList(nn.Conv2d(width, neck, 1) for width in WIDTHS[1:])
        self.smooth = _convolution(neck, neck)
        self.peaks = nn.Sequential(_convolution(neck, neck), nn.Conv2d(neck, num_classes, 1))
        self.edges = nn.Sequential(_convolution(neck, neck), nn.Conv2d(neck, 4, 1))
        # Nearly every place is empty: start from there, or the first steps only learn that.
        last = self.peaks[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.constant_(last.bias, -math.log((1 - _PRIOR) / _PRIOR))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of the peaks and the distances to the edges.

        Args:
            images: Nx1xHxW in [0, 1]; sides are multiples of 32.

        Returns:
            NxCx(H/4)x(W/4) logits, and Nx4x(H/4)x(W/4) distances in pixels to the left,
            upper, right and lower edge.
        """
        values, scales = centred(images), []
        for stage in self.stages:
            values = stage(values)
            scales.append(values)
        merged = self.laterals[-1](scales[-1])
        for lateral, scale in zip(
            reversed(self.laterals[:-1]), reversed(scales[1:-1]), strict=True
        ):
            merged = functional.interpolate(merged, scale_factor=2.0) + lateral(scale)
        merged = self.smooth(merged)
        # 16 px at the start; the limits keep an unlucky first step from overflowing.
        distances = torch.exp(self.edges(merged).clamp(-3, 4)) * 16.0
        return self.peaks(merged), distances


def _convolution(before: int, after: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.SiLU())


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = _convolution(width, width), _convolution(width, width)

    def forward(self, values: Tensor) -> Tensor:
        return values + self.second(self.first(values))


def peak_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the focal loss of the peaks, per object.

    Source: Zhou, Wang and Kraehenbuehl, 2019, equation 1, with alpha 2 and beta 4.

    Args:
        logits: NxCxhxw.
        targets: The same shape in [0, 1]: 1 at the centre of an object, falling off as a
            Gaussian around it.
    """
    chance = torch.sigmoid(logits)
    is_peak = targets == 1
    hits = functional.logsigmoid(logits) * (1 - chance) ** 2
    misses = functional.logsigmoid(-logits) * chance**2 * (1 - targets) ** 4
    total = torch.where(is_peak, hits, misses).sum()
    return -total / is_peak.sum().clamp(min=1)


def overlap_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean of 1 - generalised intersection over union; 0 without objects.

    Source: Rezatofighi et al., 2019, algorithm 1.

    Args:
        found: Mx4 distances of a pixel to the left, upper, right and lower edge.
        wanted: Mx4, the true ones, of the same pixels.
    """
    if not len(found):
        return found.sum()
    small, large = torch.minimum(found, wanted), torch.maximum(found, wanted)

    def area(edges: Tensor) -> Tensor:
        return (edges[:, 0] + edges[:, 2]) * (edges[:, 1] + edges[:, 3])

    shared = area(small)
    union = area(found) + area(wanted) - shared
    hull = area(large)
    generalised = shared / union - (hull - union) / hull
    return (1 - generalised).mean()


def find_peaks(logits: Tensor, distances: Tensor, number: int = 100) -> tuple[Tensor, Tensor]:
    """Return the highest peaks of one image: no place beside a higher one of its class.

    Args:
        logits: Cxhxw.
        distances: 4xhxw.
        number: At most this many.

    Returns:
        Mx4 edges (left, upper, right, lower) in input pixels, and Mx2 (score, class).
    """
    chance = torch.sigmoid(logits)
    highest = functional.max_pool2d(chance[None], 3, 1, padding=1)[0]
    peaks = torch.where(chance == highest, chance, torch.zeros_like(chance)).flatten()
    scores, places = peaks.topk(min(number, len(peaks)))
    height, width = logits.shape[1:]
    labels, cells = places // (height * width), places % (height * width)
    x, y = ((cells % width) + 0.5) * STRIDE, ((cells // width) + 0.5) * STRIDE
    left, upper, right, lower = distances.flatten(1)[:, cells]
    edges = torch.stack([x - left, y - upper, x + right, y + lower], dim=1)
    return edges, torch.stack([scores, labels.float()], dim=1)
