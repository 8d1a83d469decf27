"""Averaged weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from v2ir.training.sharding import own_rows


def start_averages(
    modules: Mapping[str, nn.Module], device: str | None = None
) -> dict[str, dict[str, Tensor]]:
    """Return a copy of the weights of each module, by part and parameter name.

    The copy of a weight that is cut over the processes is cut alike.

    Args:
        modules: The modules.
        device: Where the copy is kept; None keeps it beside the weights.
    """
    return {
        part: {
            name: value.detach().to(device or value.device, copy=True)
            for name, value in module.named_parameters()
        }
        for part, module in modules.items()
    }


def warmed_decay(decay: float, step: int) -> float:
    """Return min(decay, (1 + n) / (10 + n)) after n steps.

    Source: the averaging of latent diffusion's released code, which DiffV2IR uses.
    """
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_averages(
    averages: Mapping[str, Mapping[str, Tensor]],
    modules: Mapping[str, nn.Module],
    decay: float,
    step: int,
) -> None:
    """Move the averages towards the weights after optimiser step `step` (from 1)."""
    pull = 1.0 - warmed_decay(decay, step)
    for part, module in modules.items():
        current = dict(module.named_parameters())
        mine = [own_rows(value) for value in averages[part].values()]
        towards = [own_rows(current[name]).detach() for name in averages[part]]
        torch._foreach_lerp_(
            mine, [new.to(old.device) for new, old in zip(towards, mine, strict=True)], pull
        )


@contextlib.contextmanager
def averaged(
    averages: Mapping[str, Mapping[str, Tensor]], modules: Mapping[str, nn.Module]
) -> Iterator[None]:
    """Put the averaged weights into the modules for the length of a block."""
    held = start_averages(modules)
    adopt(averages, modules)
    try:
        yield
    finally:
        adopt(held, modules)


@torch.no_grad()
def adopt(values: Mapping[str, Mapping[str, Tensor]], modules: Mapping[str, nn.Module]) -> None:
    """Put weights into the modules, for good."""
    for part, module in modules.items():
        for name, parameter in module.named_parameters():
            own_rows(parameter).copy_(own_rows(values[part][name]))
