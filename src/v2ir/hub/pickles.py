"""Files of tensors by other projects: Lightning's `.ckpt`, torch's `.bin`, safetensors.

A pickle is a program. It is run by torch's restricted reader alone, which knows tensors and
plain containers; the few further classes that training frameworks leave in a checkpoint
are named here and replaced by stand-ins without any behaviour.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from v2ir.errors import InputError

METADATA_KEY = "v2ir"
"""Where a checkpoint that was written here keeps what the foreign layout has no place for."""

PICKLE_SUFFIXES = frozenset({".ckpt", ".pt", ".pth", ".bin"})


class _StandIn:
    """Takes the place of a foreign class; whatever it is given is forgotten."""

    def __new__(cls, *_args: object, **_kwargs: object) -> _StandIn:
        return super().__new__(cls)

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


def _empty_dict(*_args: object) -> dict[object, object]:
    """Stand for a container that is called with a factory and then filled."""
    return {}


_LIGHTNING = ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric")
_CALLBACKS = (
    "callbacks.model_checkpoint.ModelCheckpoint",
    "callbacks.early_stopping.EarlyStopping",
    "callbacks.lr_monitor.LearningRateMonitor",
    "callbacks.progress.base.ProgressBarBase",
    "callbacks.progress.ProgressBar",
    "callbacks.progress.tqdm_progress.TQDMProgressBar",
    "callbacks.gpu_stats_monitor.GPUStatsMonitor",
    "callbacks.device_stats_monitor.DeviceStatsMonitor",
    "callbacks.timer.Timer",
    "callbacks.stochastic_weight_avg.StochasticWeightAveraging",
)
# The callbacks of the CompVis training scripts, which ran as `main.py` or `train.py`.
_SCRIPT_CALLBACKS = ("SetupCallback", "ImageLogger", "CUDACallback", "DataModuleFromConfig")
_OTHERS = (
    "argparse.Namespace",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "typing.Any",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.nodes.AnyNode",
    "omegaconf.nodes.BooleanNode",
    "omegaconf.nodes.FloatNode",
    "omegaconf.nodes.IntegerNode",
    "omegaconf.nodes.StringNode",
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("dict", "list")),
    *(f"numpy.{module}.multiarray.scalar" for module in ("core", "_core")),
    "numpy.dtype",
)
ALLOWED_CLASSES: dict[str, Any] = {
    **{
        name: type(name.rpartition(".")[2], (_StandIn,), {})
        for name in (
            *(f"{package}.{callback}" for package in _LIGHTNING for callback in _CALLBACKS),
            *(f"{script}.{name}" for script in ("__main__", "main") for name in _SCRIPT_CALLBACKS),
            *_OTHERS,
        )
    },
    "collections.defaultdict": _empty_dict,
    "pytorch_lightning.utilities.parsing.AttributeDict": dict,
    "lightning_fabric.utilities.data.AttributeDict": dict,
    "lightning.fabric.utilities.data.AttributeDict": dict,
}
"""What a Lightning checkpoint may name beside tensors, and what stands in for it."""


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors of a checkpoint file by name, and what v2ir wrote beside them.

    Tensors stay on the disk until they are used where the file's kind allows it.

    Raises:
        InputError: If the file is missing, is no such file, is cut off, or names a class
            that is not known to be harmless.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file", do="check the path")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix not in PICKLE_SUFFIXES:
        raise InputError(
            f"{path} is not a checkpoint",
            got=f"a name ending in {path.suffix or 'nothing'}",
            do=f"give a file ending in .safetensors, {', '.join(sorted(PICKLE_SUFFIXES))}",
        )
    return _tensors_of(path, _unpickle(path))


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stream:
            notes = _notes((stream.metadata() or {}).get(METADATA_KEY))
            return {name: stream.get_tensor(name) for name in stream.keys()}, notes  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unpickle(path: Path) -> Any:
    names: list[Any] = [(stand_in, name) for name, stand_in in ALLOWED_CLASSES.items()]
    try:
        with torch.serialization.safe_globals(names), warnings.catch_warnings():
            # The restricted reader refuses what it does not know, of any protocol.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted is None:
            raise _unreadable(path, error) from error
        raise InputError(
            f"{path} was not opened: it is a pickle that asks for {wanted[1]}",
            got="a class or function that is not known to be harmless in a checkpoint",
            do="convert it where you trust it to .safetensors, or ask its author for one",
        ) from error
    # A damaged pickle can fail in any of the ways that its instructions can.
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    with contextlib.suppress(OSError):
        with path.open("rb") as stream:
            head = stream.read(16)
        if head.startswith((b"version https:", b"<!DOCTYPE", b"<html")):
            return InputError(
                f"{path} is not a checkpoint",
                got="a text file: a Git LFS pointer or a web page",
                do="download the file itself",
            )
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return InputError(
        f"{path} cannot be read as a checkpoint", got=reason, do="download or copy it again"
    )


def _tensors_of(path: Path, content: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Take the state dictionary out of a checkpoint's outer dictionary."""
    outer: Mapping[Any, Any] = content if isinstance(content, Mapping) else {}
    inner = outer.get("state_dict", outer)
    tensors = (
        {name: value for name, value in inner.items() if isinstance(value, Tensor)}
        if isinstance(inner, Mapping)
        else {}
    )
    if not tensors:
        raise InputError(
            f"{path} holds no tensors by name",
            got=type(content).__name__ if not outer else f"entries {sorted(map(str, outer))[:8]}",
            do="give a checkpoint with a `state_dict`",
        )
    return tensors, _notes(outer.get(METADATA_KEY))


def _notes(text: object) -> dict[str, Any]:
    """Return the JSON object that v2ir left in a checkpoint; anything else is nothing."""
    with contextlib.suppress(ValueError):
        notes = json.loads(text) if isinstance(text, str) else None
        if isinstance(notes, dict):
            return notes
    return {}
