"""The denoiser in 8-bit integers, for processors that multiply those in hardware.

Weights are rounded once, each output channel by its own scale; what flows in is rounded at every
call, each image of a convolution and each token of a linear layer by its own scale. So an image
does not depend on what else is in its batch: sums of integers are exact. Small layers, the first
and the last one, norms and attention stay in float32.

The operators are oneDNN's; PyTorch keeps them private (its compiler writes them), so they are tried
out before they are used.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from v2ir.errors import InputError
from v2ir.model import Model
from v2ir.sampling.lean import with_layers
from v2ir.sampling.packed import weight_sums

LEAST_CONVOLUTION = 2**13
LEAST_LINEAR = 2**16
"""Weights of a layer from which on integers are quicker; measured, docs/speed.md. A convolution of
1x1 is a linear layer."""
_LEVELS = 127
_ZERO = 128
"""Bytes 1 to 255 stand for -127 to 127."""
_MOST_LAYOUTS = 3
"""Sizes of pictures for which a convolution keeps its layout, the latest ones."""
_LEAST = 1e-12
"""What is rounded is not divided by less, so that an image of zeros stays one."""


def _scales(values: Tensor, over: tuple[int, ...]) -> Tensor:
    """Return what one level stands for, by the largest magnitude over some axes."""
    largest = torch.maximum(values.amax(over, keepdim=True), -values.amin(over, keepdim=True))
    return (largest / _LEVELS).clamp_min_(_LEAST)


def _levels(values: Tensor, scales: Tensor) -> Tensor:
    """Return values in levels, as bytes around `_ZERO`."""
    levels = (values * scales.reciprocal()).round_().to(torch.int8)
    return levels.view(torch.uint8).bitwise_xor_(_ZERO)  # adds it, and is quick


class _Int8(nn.Module):
    """What both kinds of layers have in common: weights in levels, and their layouts.

    Attributes:
        levels: Weights in [-127, 127], int8, in the shape of the plain layer's.
        scales: What one level stands for, by output channel, float32.
        offset: The plain layer's bias, or None.
        source: The weight that was rounded, while it is there.
    """

    source: weakref.ref[Tensor] | None = None
    levels: Tensor
    scales: Tensor
    offset: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        weight = weight.detach().float()
        scales = _scales(weight, tuple(range(1, weight.dim())))
        self.register_buffer("levels", (weight / scales).round_().to(torch.int8))
        self.register_buffer("scales", scales.flatten())
        self.register_buffer("zeros", torch.zeros(len(weight), dtype=torch.int64))
        self.register_buffer("offset", None if bias is None else bias.detach().float().clone())
        self._layouts: dict[tuple[int, ...], Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return all but the layouts: they cannot be written, and a copy makes its own."""
        return {**self.__dict__, "_layouts": {}, "source": None}


class Int8Convolution(_Int8):
    """A convolution of (N, c, h, w), float32, in integers."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(layer.weight, layer.bias)
        self.how = (layer.stride, layer.padding, layer.dilation)
        self.groups = layer.groups

    def forward(self, values: Tensor) -> Tensor:
        """Return (N, d, h', w'), in memory with the channels last."""
        values = values.contiguous(memory_format=torch.channels_last)
        scales = _scales(values, (1, 2, 3))
        size = tuple(values.shape[2:])  # one layout for all batches, as for packed layers
        layout = self._layouts.get(size)
        if layout is None:
            shape = [1, *values.shape[1:]]
            layout = _kernels().qconv_prepack(
                self.levels, self.scales, 1.0, _ZERO, *self.how, self.groups, shape
            )
            if len(self._layouts) == _MOST_LAYOUTS:
                del self._layouts[next(iter(self._layouts))]
            self._layouts[size] = layout
        made: Tensor = _kernels().qconv2d_pointwise(
            _levels(values, scales), 1.0, _ZERO, layout, self.scales, self.zeros, None,
            *self.how, self.groups, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        made = made.mul_(scales)
        return made if self.offset is None else made.add_(self.offset[None, :, None, None])


class Int8Linear(_Int8):
    """A linear layer on (..., c), float32, in integers."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.weight, layer.bias)

    def forward(self, values: Tensor) -> Tensor:
        """Return (..., d)."""
        flat = values.reshape(-1, values.shape[-1])
        scales = _scales(flat, (1,))
        layout = self._layouts.get(())
        if layout is None:
            layout = self._layouts[()] = _kernels().qlinear_prepack(self.levels, None)
        made: Tensor = _kernels().qlinear_pointwise(
            _levels(flat, scales), 1.0, _ZERO, layout, self.scales, self.zeros, None,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        made.mul_(scales)  # two passes in place are quicker than `addcmul` into new memory
        if self.offset is not None:
            made.add_(self.offset)
        return made.view(*values.shape[:-1], -1)


_IN_USE: weakref.WeakValueDictionary[tuple[Any, ...], _Int8] = weakref.WeakValueDictionary()
"""What is in use, so that two translators of one model do not hold its integers twice."""


def _kernels() -> Any:
    return torch.ops.onednn


def _rounded(layer: nn.Module) -> nn.Module | None:
    """Return a layer in integers, or None where it has no such form or it does not pay."""
    # Subclasses may do more than their names say.
    if type(layer) is nn.Linear:
        return _shared(Int8Linear, layer) if layer.weight.numel() >= LEAST_LINEAR else None
    if type(layer) is not nn.Conv2d:
        return None
    single = layer.kernel_size == (1, 1)
    if layer.weight.numel() < (LEAST_LINEAR if single else LEAST_CONVOLUTION):
        return None
    plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return _shared(Int8Convolution, layer) if plain else None


def _shared(kind: Callable[[Any], _Int8], layer: nn.Module) -> _Int8:
    """Return the layer's form in integers that is in use, if its weights are the same still."""
    parameters = list(layer.parameters())
    key = (
        str(layer), *map(id, parameters), *(weight_sums(p.detach().float()) for p in parameters),
    )  # fmt: skip
    made = _IN_USE.get(key)
    # The number of a tensor that is gone may be another's by now.
    if made is None or made.source is None or made.source() is not parameters[0]:
        made = _IN_USE[key] = kind(layer)
        made.source = weakref.ref(parameters[0])
    return made


def int8_network(network: Any) -> Any:
    """Return a network in which all large layers but the first and the last are in integers.

    Args:
        network: A UNet in float32 on a processor; it is not changed. What is not rounded is shared.
    """
    return with_layers(network, _rounded, but=("conv_in", "conv_out"))


def with_int8_denoiser(model: Model) -> Model:
    """Return the model with its denoiser in integers.

    Raises:
        InputError: If this device, processor or PyTorch does not multiply integers.
    """
    if model.device.type != "cpu":
        got = f"the device {model.device.type}"
    elif not has_integer_units():
        got = "a processor without such instructions (avx512_vnni, avx_vnni)"
    elif not kernels_are_here():
        got = f"PyTorch {torch.__version__}, whose integer operators are others"
    else:
        return dataclasses.replace(model, unet=int8_network(model.unet))
    raise InputError(
        "int8 is for processors that multiply 8-bit integers", got=got, do="give --precision auto"
    )


def has_integer_units() -> bool:
    """Whether the processor states instructions for products of 8-bit integers."""
    ask = getattr(torch.cpu, "get_capabilities", None)  # absent before torch 2.10
    stated = ask() if ask is not None else {}
    return any(stated.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))


def kernels_are_here() -> bool:
    """Whether this PyTorch has the operators and they answer as the public ones do."""
    values = torch.linspace(-9, 9, 2 * 16 * 25).sin().view(2, 16, 5, 5)
    convolution, linear = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(5, 16)
    with torch.inference_mode():
        return _answers(Int8Convolution, convolution, values) and _answers(
            Int8Linear, linear, values
        )


def _answers(kind: Callable[[Any], nn.Module], layer: nn.Module, values: Tensor) -> bool:
    for parameter in layer.parameters():
        parameter.copy_(torch.linspace(-9, 9, parameter.numel()).cos().view_as(parameter) / 12)
    try:
        made = kind(layer)(values)
    # Absent ones, other signatures and builds that refuse: all say that it does not go.
    except (AttributeError, RuntimeError, TypeError):
        return False
    return bool((made - layer(values)).abs().max() < 0.05)
