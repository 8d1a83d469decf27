"""Low-rank adapters: a small set of weights beside a frozen network.

Source: Hu et al. 2022, "LoRA", Eq. 3; through peft.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from v2ir.seeding import own_seed

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
NAME = "v2ir"


class Adapter(nn.Module):
    """The adapters' weights of a network, as a module of their own.

    The loop trains, averages and keeps these alone; the network that they sit in stays
    as it is.

    Attributes:
        parts: Adapter layers by their place in the network.
    """

    def __init__(self, parts: dict[str, nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name.replace(".", "/"): part for name, part in parts.items()})


def attach_lora(network: Any, rank: int, alpha: float, seed: int = 0) -> Adapter:
    """Put an adapter into every attention projection of a diffusers network.

    The network's own weights stop requiring gradients. The adapters add nothing at first.

    Args:
        network: A diffusers model.
        rank: Rank of the adapters.
        alpha: The adapters' output is multiplied by alpha / rank.
        seed: Seed of the adapters' initial weights.

    Returns:
        The adapters' weights.
    """
    from peft import LoraConfig, inject_adapter_in_model

    network.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(ATTENTION))
    with own_seed(seed):
        inject_adapter_in_model(config, network, adapter_name=NAME)
    found = {
        name: module
        for name, module in network.named_modules()
        if name.endswith((f"lora_A.{NAME}", f"lora_B.{NAME}"))
    }
    # Adapters are trained in float32, whatever the frozen weights are kept in.
    return Adapter({name: module.float() for name, module in found.items()})


def merge_lora(network: Any) -> Any:
    """Add the adapters to the network's weights and take them out, so that it is plain again.

    Returns:
        The network.
    """
    from peft.tuners.lora import LoraLayer

    layers = [(n, m) for n, m in network.named_modules() if isinstance(m, LoraLayer)]
    for name, layer in layers:
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, layer.get_base_layer())
    if hasattr(network, "peft_config"):
        del network.peft_config
    return network


@torch.no_grad()
def widen_weights(network: Any, source: Any) -> None:
    """Give a network with adapters, frozen in half precision, the weights of `source` back.

    Adapters must be merged into the weights that were there before they were rounded.
    Weights in training are left as they are.

    Args:
        network: Network with adapters.
        source: The network in float32, without adapters.
    """
    original = dict(source.named_parameters())
    for name, parameter in network.named_parameters():
        plain = name.replace(".base_layer.", ".")
        if plain in original and not parameter.requires_grad:
            parameter.data = original[plain].data.to(parameter.device)
