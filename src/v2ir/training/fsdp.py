"""Accelerate's FSDP setting: what of it decides how networks are cut over the processes."""

from __future__ import annotations

import dataclasses
import os

from v2ir.errors import InputError

BLOCKS = ("ResnetBlock2D", "Transformer2DModel", "CLIPEncoderLayer")
"""Classes of the blocks that are cut by themselves unless the setting names others."""


@dataclasses.dataclass(frozen=True)
class Sharding:
    """How networks are cut: what is used of accelerate's FSDP setting.

    Attributes:
        blocks: Class names of the blocks that are gathered and let go one by one; empty
            gathers the whole network at once.
        reshard: Whether a block is let go after its forward pass and gathered again for
            its backward pass.
        recompute: Whether activations are computed again in the backward pass.
    """

    blocks: tuple[str, ...] = BLOCKS
    reshard: bool = True
    recompute: bool = False


def sharding_setting() -> Sharding | None:
    """Return what accelerate's environment says about sharding; None if it asks for none.

    Raises:
        InputError: If it asks for something that training does not do.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return None
    from accelerate import FullyShardedDataParallelPlugin
    from accelerate.utils import disable_fsdp_ram_efficient_loading
    from torch.distributed.fsdp import CPUOffloadPolicy

    plugin = FullyShardedDataParallelPlugin()
    policy = os.environ.get("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP").upper()
    refused = {
        f"fsdp_version: {plugin.fsdp_version}": plugin.fsdp_version != 2,
        "fsdp_offload_params: true": isinstance(plugin.cpu_offload, CPUOffloadPolicy),
        f"fsdp_auto_wrap_policy: {policy}": policy == "SIZE_BASED_WRAP",
        "fsdp_ignored_modules": plugin.ignored_modules is not None,
        "fsdp_activation_checkpointing_offload: true": plugin.activation_checkpointing_offload,
    }
    if any(refused.values()):
        raise InputError(
            "training does not shard weights in this way",
            got=", ".join(name for name, found in refused.items() if found),
            do="start from docs/accelerate/fsdp.yaml; --fit keeps averages off the device",
        )
    # Every process reads the weights itself; else transformers leaves all but one empty.
    disable_fsdp_ram_efficient_loading()
    blocks = () if policy == "NO_WRAP" else tuple(plugin.transformer_cls_names_to_wrap or BLOCKS)
    return Sharding(
        blocks, bool(plugin.reshard_after_forward), bool(plugin.activation_checkpointing)
    )
