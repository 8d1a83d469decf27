"""The processes that train together, through accelerate."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from v2ir.errors import InputError
from v2ir.training.fsdp import sharding_setting

BUCKET = 25_000_000
REFUSED = {"DEEPSPEED", "MEGATRON_LM", "TP"}


class Team:
    """One process among those that train the same weights on different samples.

    How many there are and on what devices they run is accelerate's to say, from the
    environment that `torchrun` or `accelerate launch` sets. Gradients are averaged once
    an optimiser step, which gives what one process with the batches of all would get.

    Attributes:
        accelerator: accelerate's view of this process.
        sharding: How networks are cut over the processes; None keeps them whole in each.
    """

    def __init__(self) -> None:
        from accelerate import Accelerator

        self.accelerator = Accelerator()
        kind = self.accelerator.distributed_type.value
        if kind in REFUSED:
            raise InputError(
                "training cuts weights over processes by FSDP alone",
                got=f"accelerate's setting {kind}",
                do="use docs/accelerate/fsdp.yaml, or plain processes and --fit",
            )
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if started != self.size:
            raise InputError(
                "the processes would train beside each other, not together",
                got=f"{started} processes, and accelerate found no GPU for them",
                do="on CPUs set ACCELERATE_USE_CPU=true",
            )
        # Read here because accelerate itself heeds the setting on GPUs only.
        setting = sharding_setting()
        self.sharding = setting if self.size > 1 else None
        if self.accelerator.mixed_precision == "fp16":
            raise InputError(
                "training does not scale losses for float16",
                got="mixed_precision fp16",
                do="use --mixed_precision bf16, or none",
            )

    @property
    def device(self) -> torch.device:
        """Device of this process."""
        return self.accelerator.device

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return self.accelerator.process_index

    @property
    def size(self) -> int:
        """Number of processes."""
        return self.accelerator.num_processes

    @property
    def is_lead(self) -> bool:
        """Whether this process writes what all of them make."""
        return self.accelerator.is_main_process

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.accelerator.wait_for_everyone()

    def precision(self, bfloat16: bool = False) -> contextlib.AbstractContextManager[Any]:
        """Return the autocast of accelerate's setting, or bfloat16 where it is faster.

        Args:
            bfloat16: Use bfloat16 even where it is not faster.
        """
        if self.accelerator.mixed_precision != "no":
            return self.accelerator.autocast()
        if bfloat16 or bfloat16_pays(self.device):
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def mean(self, value: float) -> float:
        """Return the mean of a number over the processes."""
        if self.size == 1:
            return value
        number = torch.tensor(value, dtype=torch.float64, device=self.device)
        return float(self.accelerator.reduce(number, reduction="mean"))

    @torch.no_grad()
    def mean_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes; a missing one counts as 0.

        Gradients that are cut over the processes are means already.
        """
        if self.size == 1:
            return
        trained = [p for p in parameters if p.requires_grad and not isinstance(p, DTensor)]
        for bucket in _buckets(trained):
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            parts = self.accelerator.reduce(flat, reduction="mean").split(
                [gradient.numel() for gradient in gradients]
            )
            for parameter, part in zip(bucket, parts, strict=True):
                parameter.grad = part.view_as(parameter)


def _buckets(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Group parameters of like type so that one message carries many."""
    buckets: list[list[nn.Parameter]] = []
    filled = BUCKET
    for parameter in parameters:
        new_type = bool(buckets) and buckets[-1][0].dtype != parameter.dtype
        if filled + parameter.numel() > BUCKET or new_type:
            buckets.append([])
            filled = 0
        buckets[-1].append(parameter)
        filled += parameter.numel()
    return buckets


def bfloat16_pays(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16 in hardware, so that it is faster."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def on_device(batch: Any, device: torch.device) -> Any:
    """Move the tensors of a batch (a tensor, a tuple or a record of them) to a device."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, tuple):
        return tuple(on_device(part, device) for part in batch)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        fields = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
        moved = {name: on_device(value, device) for name, value in fields.items()}
        return dataclasses.replace(batch, **moved)
    return batch
