"""The networks around the denoiser in the form that costs least on a processor.

One picture takes one pass of the autoencoder each way, and with one step of the denoiser that
is most of the work. The parts compute the same function here, in another order of sums:

- Enlarging to twice the side by repeated pixels, and convolving, is a transposed convolution
  with a kernel of 4 that adds up the weights that meet the same pixel: 16 products for four
  pixels instead of 36, and the enlarged picture is never written.
- An infrared image is the mean of the decoder's channels, and the mean of a linear last layer's
  channels is one channel of its mean weights.
- Channels lie last in memory, which spares the convolutions to turn every picture around.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v2ir.model import Model


class FoldedUpsampling(nn.Module):
    """Nearest-neighbour enlargement to twice the side and a 3x3 convolution, in one.

    Args:
        convolution: The convolution, 3x3 with a padding of 1.
        shortcut: What is added: a function of the input, or None.
        average: Whether the mean of the output's channels is wanted instead of each.
    """

    def __init__(
        self, convolution: nn.Conv2d, shortcut: Any | None = None, *, average: bool = False
    ) -> None:
        super().__init__()
        weight, bias = _averaged(convolution) if average else (convolution.weight, convolution.bias)
        folded = _fold(_fold(weight.detach(), 2), 3).transpose(0, 1)
        self.weight = _constant(folded.contiguous(memory_format=torch.channels_last))
        self.bias = None if bias is None else _constant(bias)
        self.shortcut = shortcut

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        """Return (N, d, 2h, 2w) of (N, c, h, w)."""
        made = F.conv_transpose2d(hidden_states, self.weight, self.bias, stride=2, padding=1)
        return made if self.shortcut is None else made + self.shortcut(hidden_states)


def _constant(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach(), requires_grad=False)


def _fold(weight: Tensor, axis: int) -> Tensor:
    """Return the kernel of 4 along an axis for one of 3.

    An even pixel sees its left neighbour's copy once and its own pixel's twice; an odd one
    its own pixel's twice and its right neighbour's once.
    """
    first, middle, last = weight.unbind(axis)
    return torch.stack([last, middle + last, first + middle, first], axis)


def _averaged(layer: nn.Conv2d) -> tuple[Tensor, Tensor | None]:
    bias = None if layer.bias is None else layer.bias.mean(0, keepdim=True)
    return layer.weight.mean(0, keepdim=True), bias


def _is_foldable(block: Any) -> bool:
    """Whether a block enlarges by repeated pixels and convolves, and does no more."""
    convolution = getattr(block, "conv", None)
    if type(convolution) is not nn.Conv2d or convolution.padding_mode != "zeros":
        return False
    plain = (convolution.kernel_size, convolution.padding) == ((3, 3), (1, 1))
    sizes = (convolution.stride, convolution.dilation, convolution.groups)
    return plain and sizes == ((1, 1), (1, 1), 1) and _repeats_pixels(block)


def _repeats_pixels(block: Any) -> bool:
    kind = type(block).__name__
    if kind == "DCUpBlock2d":
        return bool(block.interpolate and block.interpolation_mode == "nearest")
    # Of the KL autoencoder.
    plain = kind == "Upsample2D" and block.use_conv and not block.use_conv_transpose
    return bool(plain and block.interpolate and block.norm is None)


def _shortcut_of(block: Any) -> Any | None:
    """Return what a block adds to its convolution: the input's channels as finer pixels."""
    if not getattr(block, "shortcut", False):
        return None
    repeats, factor = block.repeats, block.factor

    def shortcut(hidden_states: Tensor) -> Tensor:
        return F.pixel_shuffle(hidden_states.repeat_interleave(repeats, dim=1), factor)

    return shortcut


def lean_autoencoder(autoencoder: Any) -> Any:
    """Return an autoencoder of the same function whose pictures have one channel.

    Weights that stay as they are are shared with the given one.
    """
    lean = copy_beside(autoencoder)
    decoder = getattr(lean, "decoder", None)
    if decoder is None:
        return lean
    last = decoder.conv_out
    for parent in list(decoder.modules()):
        for name, block in list(parent.named_children()):
            if _is_foldable(block):
                folded = FoldedUpsampling(block.conv, _shortcut_of(block), average=block is last)
                setattr(parent, name, folded)
    if type(last) is nn.Conv2d:
        weight, bias = _averaged(last)
        last.weight, last.bias = _constant(weight), None if bias is None else _constant(bias)
        last.out_channels = 1
    for part in (lean.encoder, decoder):
        _channels_last(part)
    return lean


def copy_beside(network: Any) -> Any:
    """Return a copy of a network that has the same weights, not copies of them."""
    # Deep copies of parameters would double the memory of a large model.
    return copy.deepcopy(network, {id(weight): weight for weight in network.parameters()})


def with_layers(
    network: Any, change: Callable[[nn.Module], nn.Module | None], *, but: tuple[str, ...] = ()
) -> Any:
    """Return a copy that shares its weights, with other layers where there are some.

    Args:
        network: It is not changed.
        change: Takes a layer, gives what goes in its place, or None to keep it.
        but: The network's own layers of these names stay.
    """
    made = copy_beside(network)
    kept = [getattr(made, name, None) for name in but]
    for parent in list(made.modules()):
        for name, layer in list(parent.named_children()):
            other = None if any(layer is each for each in kept) else change(layer)
            if other is not None:
                setattr(parent, name, other)
    return made


def _channels_last(part: nn.Module) -> None:
    """Let the first convolution give its result with the channels last; the others follow."""
    first = next(layer for layer in part.modules() if isinstance(layer, nn.Conv2d))
    first.weight = _constant(first.weight.clone(memory_format=torch.channels_last))


def lean(model: Model) -> Model:
    """Return the model with its parts around the denoiser in their lean form.

    On other devices than a processor, where other forms are quick, the model stays as it is.
    """
    if model.device.type != "cpu":
        return model
    encoder = model.image_encoder
    if encoder is not None:
        encoder = copy_beside(encoder)
        _channels_last(encoder)
    detail = model.detail_decoder
    if detail is not None:
        # Its joints would lay the channels first again, so each of its layers is told.
        detail = copy.deepcopy(detail).to(memory_format=torch.channels_last)
    autoencoder = model.autoencoder
    return dataclasses.replace(
        model,
        autoencoder=autoencoder and lean_autoencoder(autoencoder),
        image_encoder=encoder,
        detail_decoder=detail,
    )
