"""Networks cut over the processes, so that none holds more than its share.

Weights, gradients, moments and averages are cut alike, along the first dimension of each
tensor; a block's weights are whole only while the block computes.
Source: Zhao et al. 2023, "PyTorch FSDP"; through torch's `fully_shard`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from v2ir.errors import InputError
from v2ir.training.fsdp import BLOCKS, Sharding
from v2ir.training.stage import Stage
from v2ir.training.team import Team


def can_shard(stage: Stage) -> bool:
    """Whether the parts that a stage trains can be cut over the processes.

    Adapters are small. The other objectives read weights beside the forward pass: teachers
    and targets, last layers, the two halves of an autoencoder.
    """
    return stage.objective == "denoising" and not stage.lora_rank


class ShardedModules:
    """The networks of a stage, cut in place over the processes, and the way back.

    Args:
        modules: Networks in training, by part. The first dimension of every tensor in
            them is cut; names and shapes stay.
        setting: How they are cut.
        team: The processes.

    Raises:
        InputError: If none of the blocks that the setting names is in the networks.
    """

    def __init__(self, modules: Mapping[str, nn.Module], setting: Sharding, team: Team) -> None:
        from torch.distributed.device_mesh import init_device_mesh

        if setting.blocks and not any(_blocks(m, setting) for m in modules.values()):
            raise InputError(
                "the FSDP setting names no class of a block in the networks",
                got=", ".join(setting.blocks),
                do=f"name some of {', '.join(BLOCKS)}, or leave the classes out",
            )
        self.team = team
        mesh = init_device_mesh(team.device.type, (team.size,))
        self._bare = {}
        for part, module in modules.items():
            module.requires_grad_(True)  # must be known before the cut
            self._bare[part] = _without_memory(module)
            _shard(module, setting, mesh)

    def whole(self, values: Mapping[str, Mapping[str, Tensor]]) -> dict[str, nn.Module] | None:
        """Return plain networks with these weights; None in all processes but the lead.

        All processes take part, tensor by tensor.

        Args:
            values: Weights by part and parameter name, cut or not.
        """
        made = {}
        for part, bare in self._bare.items():
            state = {}
            for name, value in values[part].items():
                gathered = whole_tensor(value)
                if self.team.is_lead:
                    state[name] = gathered.to(self.team.device)
            if self.team.is_lead:
                module = copy.deepcopy(bare)
                module.load_state_dict({**module.state_dict(), **state}, assign=True)
                made[part] = module.to(self.team.device).requires_grad_(False).eval()
        return made if self.team.is_lead else None


def _without_memory(module: nn.Module) -> nn.Module:
    """Return a copy of a network whose parameters have shapes alone."""
    empty = {
        id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"))
        for parameter in module.parameters()
    }
    return copy.deepcopy(module, dict[int, Any](empty))


def _blocks(module: nn.Module, setting: Sharding) -> list[nn.Module]:
    return [block for block in module.modules() if type(block).__name__ in setting.blocks]


def _shard(module: nn.Module, setting: Sharding, mesh: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    recompute = getattr(module, "enable_gradient_checkpointing", None)
    if setting.recompute and recompute:
        recompute()
    for parameter in module.parameters():
        parameter.data = parameter.data.contiguous()  # rows are cut, so they must lie together
    # Blocks within blocks come later in the list, and must be cut first.
    for block in [*reversed(_blocks(module, setting)), module]:
        fully_shard(block, mesh=mesh, reshard_after_forward=setting.reshard)


def own_rows(tensor: Tensor) -> Tensor:
    """Return this process's rows of a tensor that is cut, or the tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole_tensor(tensor: Tensor) -> Tensor:
    """Return a tensor gathered from all processes, who must all ask; or the tensor itself."""
    if not isinstance(tensor, DTensor):
        return tensor
    # Rows may be kept on the CPU, but they travel between the devices of the mesh.
    rows = tensor.to_local().detach().to(tensor.device_mesh.device_type)
    there = DTensor.from_local(
        rows, tensor.device_mesh, tensor.placements,
        run_check=False, shape=tensor.shape, stride=tensor.stride(),
    )  # fmt: skip
    gathered: Tensor = there.full_tensor()
    return gathered


def cut_like(value: Tensor, like: Tensor) -> Tensor:
    """Return this process's share of a whole tensor, as a tensor cut like another one.

    Every process has the whole tensor, so that nothing is sent.
    """
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


@torch.no_grad()
def put(value: Tensor, target: Tensor) -> None:
    """Copy a whole tensor into one that may be cut: each process its rows."""
    own_rows(target).copy_(own_rows(cut_like(value, target)))
