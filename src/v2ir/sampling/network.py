"""The network of one solve, which keeps what does not change from step to step.

Two things are kept. The visible and the segmentation latents enter the first layer, which
is linear, beside the noisy latent; their part of its result is the same at every step. And
the inner features change slowly: between two full evaluations only the outermost blocks
need to be computed anew. The first changes nothing but the last bits; the second changes
the picture a little.
Source: DeepCache, Ma et al. 2024, Sec. 3.3, with whole blocks: the skip connections of the
outermost level are computed at every step, the input of its last block is kept.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v2ir.errors import ModelError
from v2ir.model import Conditions, NetworkDenoiser
from v2ir.model.denoiser import NetworkInputs
from v2ir.model.pooling import pools_text

_PLAIN = {
    "center_input_sample": False,
    "encoder_hid_dim_type": None,
    "class_embeddings_concat": False,
    "time_embedding_act_fn": None,
}
"""What Stable Diffusion 1 and the small models leave out; a UNet with more runs as it is."""
_OUTER = frozenset({"DownBlock2D", "CrossAttnDownBlock2D"})


class KeepingDenoiser:
    """A network denoiser for one call of `solve`; another solve takes another one.

    The solver's numbers stay as they are; the network computes in its own format.

    Attributes:
        network: The network with its null text.
        keeping: Whether the conditions' part of the first layer is kept.
        reuse: Inner features are computed at every n-th step; 1 keeps none.
        channels_last: Whether images are laid in memory with the channels last.
        full: Number of calls that ran the whole network.
        partial: Number of calls that ran the outermost blocks alone.

    Raises:
        ModelError: If features are to be reused in a network that is built otherwise.
    """

    def __init__(
        self,
        network: NetworkDenoiser,
        *,
        keeping: bool = True,
        reuse: int = 1,
        channels_last: bool = False,
    ) -> None:
        unet = network.unet
        self.network = network
        self.keeping = keeping
        self.reuse = reuse
        self.channels_last = channels_last
        self.full = self.partial = 0
        self._as_it_is = not is_plain(unet) or not (keeping or reuse > 1)
        self._clock = _Clock()
        self._inner: dict[tuple[object, ...], tuple[int, Tensor]] = {}
        self._seen: Conditions | None = None
        self._share: Tensor | None = None
        if reuse > 1 and not (is_plain(unet) and type(unet.down_blocks[0]).__name__ in _OUTER):
            raise ModelError(
                "the features of this network cannot be reused",
                got=f"{unet.config.down_block_types[0]} or parts beyond Stable Diffusion 1",
                do="give --reuse 1",
            )

    @property
    def takes_scales(self) -> bool:
        """Whether guidance is folded into the network."""
        return self.network.takes_scales

    def __call__(self, noisy: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        """Predict for (N, c, h, w); see `v2ir.model.Denoiser`."""
        self._clock.tell(timestep)
        unet = self.network.unet
        own = noisy.to(next(unet.parameters()).dtype)
        if self.channels_last:
            own = own.contiguous(memory_format=torch.channels_last)
        if self._as_it_is:
            self.full += 1
            return self.network(own, timestep, conditions).to(noisy.dtype)
        inputs = self.network.inputs(own, conditions)
        embedding = _embed(unet, own, timestep, inputs)
        first = self._first_layer(own, inputs, conditions)
        key = (self._clock.call, own.shape, conditions.present)
        hidden, skips = self._features(key, first, embedding, inputs.text)
        return _last_block(unet, hidden, skips, embedding, inputs.text).to(noisy.dtype)

    def _features(
        self, key: tuple[object, ...], first: Tensor, embedding: Tensor, text: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the last block's input, new or kept, and its skip connections.

        Kept ones serve until the next step that is due; where the branches change, as at the
        ends of guidance's interval, those from before it are too old.
        """
        unet, step = self.network.unet, self._clock.step
        made, hidden = self._inner.get(key, (step - self.reuse, first))
        if step % self.reuse == 0 or step - made >= self.reuse:
            self.full += 1
            hidden, skips = _inner(unet, first, embedding, text)
            if self.reuse > 1:
                self._inner[key] = (step, hidden)
            return hidden, skips
        self.partial += 1
        return hidden, (first, *_layers(unet.down_blocks[0], first, embedding, text))

    def _first_layer(self, own: Tensor, inputs: NetworkInputs, conditions: Conditions) -> Tensor:
        """Return the first layer's result; the share of unchanged conditions is kept.

        It is computed when the same conditions come the second time, so that one step,
        or a step of many windows, does not pay for it.
        """
        layer = self.network.unet.conv_in
        splits = self.keeping and bool(inputs.planes) and type(layer) is nn.Conv2d
        if not splits or self._seen is not conditions:
            self._seen, self._share = conditions, None
            return layer(torch.cat([own, *inputs.planes], dim=1))
        channels = own.shape[1]
        weight = layer.weight
        if self._share is None:
            planes = torch.cat(inputs.planes, dim=1)
            self._share = F.conv2d(planes, weight[:, channels:], layer.bias, padding=layer.padding)
        return self._share + F.conv2d(own, weight[:, :channels], padding=layer.padding)


@dataclasses.dataclass
class _Clock:
    """Tells which step it is, and which of the step's calls (there is one for each window)."""

    step: int = -1
    call: int = 0
    timestep: float | None = None

    def tell(self, timestep: Tensor) -> None:
        now = float(timestep.max())
        if now == self.timestep:
            self.call += 1
        else:
            self.step, self.call, self.timestep = self.step + 1, 0, now


def is_plain(unet: Any) -> bool:
    """Whether a UNet has no parts but those that this file runs."""
    told = unet.config.get("addition_embed_type") is None or pools_text(unet)
    return told and all(unet.config.get(name) == value for name, value in _PLAIN.items())


def _embed(unet: Any, noisy: Tensor, timestep: Tensor, inputs: NetworkInputs) -> Tensor:
    """Return the embedding of timestep, guidance scales, style and pooled text, (N, E)."""
    embedding = unet.time_embedding(
        unet.get_time_embed(sample=noisy, timestep=timestep), inputs.scales
    )
    style = unet.get_class_embed(sample=noisy, class_labels=inputs.labels)
    if style is not None:
        embedding = embedding + style
    if inputs.added is None:
        return embedding
    return embedding + unet.get_aug_embed(embedding, inputs.text, inputs.added)


def _inner(
    unet: Any, first: Tensor, embedding: Tensor, text: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run all but the last block on the first layer's result.

    Returns:
        The last block's input and its skip connections.
    """
    hidden = first
    skips: tuple[Tensor, ...] = (first,)
    for block in unet.down_blocks:
        hidden, more = block(hidden_states=hidden, temb=embedding, **_told(block, text))
        skips += more
    if unet.mid_block is not None:
        hidden = unet.mid_block(hidden, embedding, **_told(unet.mid_block, text))
    for block in unet.up_blocks[:-1]:
        taken = len(block.resnets)
        hidden = block(
            hidden_states=hidden,
            temb=embedding,
            res_hidden_states_tuple=skips[-taken:],
            # Sides that are no multiples would come out too small or too large.
            upsample_size=skips[-taken - 1].shape[2:],
            **_told(block, text),
        )
        skips = skips[:-taken]
    return hidden, skips


def _layers(block: Any, hidden: Tensor, embedding: Tensor, text: Tensor) -> list[Tensor]:
    """Run the layers of a down block but not its downsampler; returns each one's result."""
    found = []
    attentions = block.attentions if _told(block, text) else [None] * len(block.resnets)
    for resnet, attention in zip(block.resnets, attentions, strict=True):
        hidden = resnet(hidden, embedding)
        if attention is not None:
            hidden = attention(hidden, encoder_hidden_states=text, return_dict=False)[0]
        found.append(hidden)
    return found


def _last_block(
    unet: Any, hidden: Tensor, skips: tuple[Tensor, ...], embedding: Tensor, text: Tensor
) -> Tensor:
    block = unet.up_blocks[-1]
    hidden = block(
        hidden_states=hidden,
        temb=embedding,
        res_hidden_states_tuple=skips[-len(block.resnets) :],
        **_told(block, text),
    )
    if unet.conv_norm_out:
        hidden = unet.conv_act(unet.conv_norm_out(hidden))
    return unet.conv_out(hidden)


def _told(block: Any, text: Tensor) -> dict[str, Tensor]:
    """Return the text for a block that listens to it."""
    return {"encoder_hidden_states": text} if getattr(block, "has_cross_attention", False) else {}
