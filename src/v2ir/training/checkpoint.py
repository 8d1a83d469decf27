"""Checkpoints: everything that resuming needs, in one safetensors file, whole or absent."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from v2ir.errors import RunError
from v2ir.files import atomic_write
from v2ir.training.sharding import cut_like, put, whole_tensor

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DEEPER = ">"
_NAME = re.compile(r"^(?P<stage>.+)-(?P<step>\d{8})\.safetensors$")


@dataclasses.dataclass
class TrainingState:
    """What changes during a stage.

    Every draw is a function of the seed, the stage and the step, so neither generators
    nor the position in the data need to be kept: the step says it all.

    Attributes:
        modules: Networks in training, by part.
        averages: Averaged weights, by part: name of the parameter to its value.
        optimizer: The optimiser over the parameters of all the modules.
        step: Number of optimiser steps done.
    """

    modules: dict[str, torch.nn.Module]
    averages: dict[str, dict[str, Tensor]]
    optimizer: torch.optim.Optimizer
    step: int = 0

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors under flat names, cut over the processes or not."""
        found: dict[str, Tensor] = {}
        for part, module in self.modules.items():
            for name, value in module.state_dict().items():
                found[f"modules/{part}/{name}"] = value
            for name, value in self.averages[part].items():
                found[f"averages/{part}/{name}"] = value
        for index, moments in self.optimizer.state_dict()["state"].items():
            for name, value in moments.items():
                # bitsandbytes keeps what it needs to unpack 8 bits one level deeper.
                inner = value if isinstance(value, dict) else {"": value}
                for part, number in inner.items():
                    path = f"{name}{_DEEPER}{part}" if part else name
                    found[f"optimizer/{index}/{path}"] = torch.as_tensor(number)
        return found

    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Take over the whole tensors of a checkpoint, each process its share.

        Raises:
            RunError: If they belong to other networks.
        """
        moments: dict[int, dict[str, Any]] = {}
        weights = [p for group in self.optimizer.param_groups for p in group["params"]]
        mine = {k: v for k, v in self.tensors().items() if not k.startswith("optimizer/")}
        theirs = [key for key in tensors if not key.startswith("optimizer/")]
        if differing := sorted(mine.keys() ^ set(theirs)):
            raise RunError(
                "the checkpoint holds weights of other networks",
                got=", ".join(differing[:5]),
                do="use another run folder",
            )
        for key in theirs:
            put(tensors[key], mine[key])
        for key in (key for key in tensors if key not in mine):
            _, index, name = key.split("/", 2)
            value, weight = tensors[key], weights[int(index)]
            if value.shape == weight.shape:
                value = cut_like(value, weight)
            outer, _, inner = name.partition(_DEEPER)
            moment = moments.setdefault(int(index), {})
            if inner:
                moment.setdefault(outer, {})[inner] = value
            else:
                moment[outer] = value
        state = self.optimizer.state_dict()
        self.optimizer.load_state_dict({**state, "state": moments})
        self.step = step


def checkpoint_path(folder: Path, stage: str, step: int) -> Path:
    """Return the name of a checkpoint."""
    return folder / f"{stage}-{step:08d}.safetensors"


def save_checkpoint(
    folder: Path, stage: str, state: TrainingState, facts: dict[str, Any], keep: int = 2
) -> Path:
    """Write a checkpoint atomically, then remove all but the last `keep` of the stage.

    Tensors that are cut over the processes are gathered one by one: while one process
    writes, the others must `join_checkpoint`.

    Raises:
        OutputError: If the disk refuses; the checkpoints before it stay.
    """
    metadata = {"stage": stage, "step": str(state.step), "facts": json.dumps(facts)}
    path = checkpoint_path(folder, stage, state.step)
    with atomic_write(path) as stream:
        _write_tensors(stream, state.tensors(), metadata)
    for _, old in list_checkpoints(folder, stage)[:-keep]:
        old.unlink()
    return path


def join_checkpoint(state: TrainingState) -> None:
    """Give the process that saves a checkpoint this one's rows of every tensor."""
    for value in state.tensors().values():
        whole_tensor(value)


def _write_tensors(
    stream: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file tensor by tensor.

    The library's own functions copy everything first, which at full size is 14 GB.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    place = 0
    for name, value in tensors.items():
        end = place + value.numel() * value.element_size()
        header[name] = {
            "dtype": _DTYPES[value.dtype], "shape": list(value.shape), "data_offsets": [place, end],
        }  # fmt: skip
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little"))
    stream.write(text)
    for value in tensors.values():
        flat = whole_tensor(value).detach().cpu().contiguous().flatten()
        stream.write(flat.view(torch.uint8).numpy().data)


def list_checkpoints(folder: Path, stage: str) -> list[tuple[int, Path]]:
    """Return (step, path) of a stage's checkpoints, oldest first."""
    found = []
    for path in folder.glob("*.safetensors"):
        match = _NAME.match(path.name)
        if match and match["stage"] == stage:
            found.append((int(match["step"]), path))
    return sorted(found)


def load_checkpoint(path: Path, state: TrainingState, facts: dict[str, Any]) -> None:
    """Continue from a checkpoint.

    Raises:
        RunError: If the checkpoint was written under other facts; they are listed.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        written = json.loads(metadata["facts"])
        wanted = json.loads(json.dumps(facts))
        differing = sorted(
            key for key in written.keys() | wanted.keys() if written.get(key) != wanted.get(key)
        )
        if differing:
            changes = [f"{key}: {written.get(key)} -> {wanted.get(key)}" for key in differing]
            raise RunError(
                f"{path} was written by another recipe",
                got="; ".join(changes),
                do="use another run folder, or train with the recipe in the run folder",
            )
        state.restore(_Tensors(file), int(metadata["step"]))


class _Tensors(Mapping[str, Tensor]):
    """The tensors of an open safetensors file, each read when it is asked for."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.names = list(file.keys())

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self.file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)
