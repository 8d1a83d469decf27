"""The denoiser with its weights in the layout in which a processor's kernels read them.

The kernels of oneDNN, which PyTorch calls on processors, want a layer's weights in blocks of the
width of a vector register. From PyTorch's own layout they are reordered at every call, and at full
size, where a layer has millions of weights for some hundreds of pixels, that takes a third of
the time. Here they are reordered once, when the layer is first called. The function is the same;
its sums run in another order.

The operators are PyTorch's own, but private (its compiler writes them), so they are tried out
before they are used, and where they are missing the network is computed as it is.
"""

from __future__ import annotations

import abc
import dataclasses
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v2ir.model import Model
from v2ir.sampling.lean import with_layers

# Measured, docs/speed.md: below these the detour costs more than the reordering that it spares.
LEAST_CONVOLUTION = 2**15
LEAST_LINEAR = 2**18
"""Weights of a layer from which on it is packed."""
SHARE_OF_MEMORY = 0.25
"""Networks with more weights than this share of the machine's memory are not held twice."""
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux states how much of the memory a container may use."""
FORMATS = (torch.float32, torch.bfloat16)
"""Number formats of the weights that are packed."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Layout:
    """A weight in the other layout.

    Attributes:
        weight: The weight in PyTorch's layout, held so that its identity is not given away.
        packed: The same in the kernels' layout.
    """

    weight: Tensor
    packed: Tensor


_LAYOUTS: weakref.WeakValueDictionary[tuple[object, ...], _Layout] = weakref.WeakValueDictionary()
"""What is in use, so that two translators of one model do not hold it twice."""


def weight_sums(weight: Tensor) -> tuple[int, float]:
    """Return sums over a weight of float32 or bfloat16 that tell whether it has changed.

    The sum over its bits, modulo 2^32, sees small changes, but no doubling of a large weight.
    """
    bits = torch.int16 if weight.dtype == torch.bfloat16 else torch.int32
    whole = weight.sum(dtype=torch.float32)
    return int(weight.view(bits).sum(dtype=torch.int32)), float(whole)


class _Packed(nn.Module, abc.ABC):
    """What both kinds of packed layers have in common; goes before a layer's class."""

    weight: Tensor
    _layout: _Layout | None = None
    _state: tuple[Any, ...] = ()

    @abc.abstractmethod
    def _geometry(self, values: Tensor) -> tuple[Any, ...]:
        """Return what the layout depends on beside the weight; never the size of a batch."""

    @abc.abstractmethod
    def _reorder(self, weight: Tensor, *geometry: Any) -> Tensor:
        """Return a weight in the kernels' layout."""

    def _share(self, layer: nn.Module) -> None:
        for name, value in layer.named_parameters(recurse=False):
            self.register_parameter(name, value)
        self.train(layer.training)

    def _weight_for(self, values: Tensor) -> Tensor | None:
        """Return the packed weight, or None if the values are to be computed as ever.

        The private operators know processors, here with one of `FORMATS`, and no gradients. Of
        a weight that was made in inference mode nobody counts the changes.
        """
        weight = self.weight
        known = weight.device.type == "cpu" and weight.dtype in FORMATS
        alike = (values.device, values.dtype) == (weight.device, weight.dtype)
        if torch.is_grad_enabled() or not (known and alike) or weight.is_inference():
            return None
        geometry = self._geometry(values)
        state = (id(weight), weight.data_ptr(), weight._version, *geometry)
        if self._layout is None or self._state != state:
            self._layout, self._state = self._laid_out(weight.detach(), geometry), state
        return self._layout.packed

    def _laid_out(self, weight: Tensor, geometry: tuple[Any, ...]) -> _Layout:
        # Merged adapters change weights behind the count of changes, so the bits are looked at.
        key = (id(self.weight), weight_sums(weight), *geometry)
        layout = _LAYOUTS.get(key)
        if layout is None:
            layout = _LAYOUTS[key] = _Layout(self.weight, self._reorder(weight, *geometry))
        return layout

    def __getstate__(self) -> dict[str, Any]:
        """Return all but the layout: it cannot be written, and a copy makes its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_layout"}


class PackedConvolution(_Packed, nn.Conv2d):
    """A convolution of (N, c, h, w) that packs its weights."""

    @classmethod
    def of(cls, layer: nn.Conv2d) -> PackedConvolution:
        """Return one that shares the weights of a plain convolution."""
        made = cls(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            layer.dilation,  # type: ignore[arg-type]
            layer.groups,
            bias=layer.bias is not None,
            device="meta",
        )
        made._share(layer)
        return made

    @property
    def _how(self) -> tuple[Any, ...]:
        return (self.padding, self.stride, self.dilation, self.groups)

    def _geometry(self, values: Tensor) -> tuple[Any, ...]:
        # A layout for another size is fast for most layers and forty times too slow for some.
        return (*self._how, tuple(values.shape[-2:]))

    def _reorder(self, weight: Tensor, *geometry: Any) -> Tensor:
        size = [1, self.in_channels, *geometry[-1]]
        made: Tensor = _kernels()._reorder_convolution_weight(weight, *self._how, size)
        return made

    def forward(self, input: Tensor) -> Tensor:
        """Return (N, d, h', w') of (N, c, h, w)."""
        weight = self._weight_for(input)
        if weight is None:
            return super().forward(input)
        how = (*self._how, "none", [], "")
        made: Tensor = _kernels()._convolution_pointwise(input, weight, self.bias, *how)
        return made


class PackedLinear(_Packed, nn.Linear):
    """A linear layer on (..., c) that packs its weights."""

    @classmethod
    def of(cls, layer: nn.Linear) -> PackedLinear:
        """Return one that shares the weights of a plain linear layer."""
        bias = layer.bias is not None
        made = cls(layer.in_features, layer.out_features, bias=bias, device="meta")
        made._share(layer)
        return made

    def _geometry(self, values: Tensor) -> tuple[Any, ...]:
        return ()

    def _reorder(self, weight: Tensor, *geometry: Any) -> Tensor:
        made: Tensor = _kernels()._reorder_linear_weight(weight, None)
        return made

    def forward(self, input: Tensor) -> Tensor:
        """Return (..., d) of (..., c)."""
        weight = self._weight_for(input)
        if weight is None:
            return super().forward(input)
        made: Tensor = _kernels()._linear_pointwise(input, weight, self.bias, "none", [], "")
        return made


def _kernels() -> Any:
    return torch.ops.mkldnn


def kernels_are_here(dtype: torch.dtype = torch.float32) -> bool:
    """Whether this PyTorch has the operators and they answer as the public ones do.

    Not every processor computes in bfloat16; the operators refuse there.
    """
    backend = torch.backends.mkldnn
    if not (backend.is_available() and backend.enabled):
        return False
    values = torch.linspace(-9, 9, 2 * 16 * 25).sin()
    weights = torch.linspace(-9, 9, 16 * 16 * 9).cos() / 12
    layers = (
        (F.conv2d, values.view(2, 16, 5, 5), weights.view(16, 16, 3, 3)),
        (F.linear, values.view(2, 25, 16), weights[:256].view(16, 16)),
    )
    with torch.inference_mode():
        return all(_answers(call, *(each.to(dtype) for each in given)) for call, *given in layers)


def _answers(public: Callable[[Tensor, Tensor], Tensor], values: Tensor, weight: Tensor) -> bool:
    kernels = _kernels()
    try:
        if weight.dim() == 4:
            how = ([0, 0], [1, 1], [1, 1], 1)
            packed = kernels._reorder_convolution_weight(weight, *how, list(values.shape))
            made = kernels._convolution_pointwise(values, packed, None, *how, "none", [], "")
        else:
            packed = kernels._reorder_linear_weight(weight, None)
            made = kernels._linear_pointwise(values, packed, None, "none", [], "")
    # Absent ones, other signatures and builds that refuse: all say that it does not go.
    except (AttributeError, RuntimeError, TypeError):
        return False
    narrow = values.dtype == torch.bfloat16
    rtol, atol = (0.02, 0.02) if narrow else (1e-4, 1e-5)
    return torch.allclose(made, public(values, weight), rtol, atol)


def memory_of_machine() -> int | None:
    """Return how many bytes of memory this machine or container has, or None if unknown.

    It does not depend on what else runs, so that a machine always makes the same picture.
    """
    try:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    for path in _LIMITS:
        try:
            stated = Path(path).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if stated.isdigit():  # "max" where there is no limit
            found = min(found, int(stated))
    return found if found > 0 else None


def _fits(network: nn.Module) -> bool:
    memory = memory_of_machine()
    size = sum(weight.numel() * weight.element_size() for weight in network.parameters())
    return memory is not None and size < SHARE_OF_MEMORY * memory


def _packed(layer: nn.Module) -> nn.Module | None:
    """Return the packed form of a layer, or None where it has none or it does not pay."""
    # Subclasses may do more than their names say.
    if type(layer) is nn.Linear and layer.weight.numel() >= LEAST_LINEAR:
        return PackedLinear.of(layer)
    if type(layer) is not nn.Conv2d or layer.weight.numel() < LEAST_CONVOLUTION:
        return None
    # Kernels of 1x1 want a layout that depends on the picture's size.
    plain = layer.kernel_size == (3, 3) and layer.padding_mode == "zeros"
    return PackedConvolution.of(layer) if plain and isinstance(layer.padding, tuple) else None


def packed_network(network: Any) -> Any:
    """Return a network of the same function and the same weights with packed layers.

    The first layer stays as it is, since `KeepingDenoiser` takes its weights apart.

    Args:
        network: A UNet in one of `FORMATS` on a processor; it is not changed.
    """
    return with_layers(network, _packed, but=("conv_in",))


def with_packed_denoiser(model: Model) -> Model:
    """Return the model with its denoiser packed, where that can be done and the memory allows.

    Packed weights are a second copy; it is made at the first picture.
    """
    plain = model.device.type == "cpu" and model.dtype in FORMATS
    if not (plain and _fits(model.unet) and kernels_are_here(model.dtype)):
        return model
    return dataclasses.replace(model, unet=packed_network(model.unet))
