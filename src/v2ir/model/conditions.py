"""What the denoiser is told beside the noisy latent: text, visible image, map, style."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

ConditionName = Literal["text", "visible", "segmentation"]
CONDITION_NAMES: tuple[ConditionName, ...] = get_args(ConditionName)
"""The conditions that guidance can strengthen. The style is a fourth, unguided one."""
_OF_IMAGES = (*CONDITION_NAMES, "style", "scales")


@dataclasses.dataclass(frozen=True)
class Conditions:
    """Conditions of a batch of N images. A part that is None is the null condition.

    The null conditions are those of DiffV2IR's released code: an all-zero latent for the
    visible image and for the map, the embedding of the empty string for the text. Style
    number 0 means that no style is known.

    Attributes:
        visible: Latent of the visible image, (N, c, h, w), the mode of the encoder's
            posterior, not scaled; (N, c + d, h, w) with the d features of an image encoder.
        segmentation: Latent of the segmentation map, (N, c, h, w), not scaled.
        text: Text embedding, (N, L, D).
        style: Style numbers, (N,), int64; 0 is the null style.
        null_text: Embedding of the empty string, (1, L, D); needed only where a batch
            mixes images with text and images without.
        scales: Guidance scales of text, visible image and map, (N, 3), for a network that
            guidance is folded into; None is no guidance, like scales of 1.
    """

    visible: Tensor | None = None
    segmentation: Tensor | None = None
    text: Tensor | None = None
    style: Tensor | None = None
    null_text: Tensor | None = None
    scales: Tensor | None = None

    @property
    def present(self) -> frozenset[ConditionName]:
        """Names of the guided conditions that are not null for the whole batch."""
        return frozenset(name for name in CONDITION_NAMES if getattr(self, name) is not None)

    def without(self, *names: str) -> Conditions:
        """Return the same conditions with the named ones replaced by null."""
        return dataclasses.replace(self, **dict.fromkeys(names))

    def crop(self, top: int, left: int, height: int, width: int) -> Conditions:
        """Cut a window, in latent pixels, out of the spatial conditions."""

        def cut(latent: Tensor | None) -> Tensor | None:
            if latent is None:
                return None
            return latent[..., top : top + height, left : left + width]

        return dataclasses.replace(
            self, visible=cut(self.visible), segmentation=cut(self.segmentation)
        )

    def drop(self, masks: Mapping[str, Tensor]) -> Conditions:
        """Replace conditions by null image by image.

        Args:
            masks: For each condition name (or `style`) a bool tensor (N,); True drops.
        """
        changed: dict[str, Tensor | None] = {}
        for name, mask in masks.items():
            value: Tensor | None = getattr(self, name)
            if value is None:
                continue
            null = self._null_like(name, value)
            shape = (-1,) + (1,) * (value.dim() - 1)
            changed[name] = torch.where(mask.to(value.device).view(shape), null, value)
        return dataclasses.replace(self, **changed)

    def _null_like(self, name: str, value: Tensor) -> Tensor:
        if name == "text":
            if self.null_text is None:
                raise ValueError("null_text is needed to drop the text of single images")
            return self.null_text.to(value.dtype).expand_as(value)
        return torch.ones_like(value) if name == "scales" else torch.zeros_like(value)

    def take(self, rows: Tensor) -> Conditions:
        """Return the conditions of some images, by their places in the batch, (K,) int64."""
        given = {name: value for name in _OF_IMAGES if (value := getattr(self, name)) is not None}
        return dataclasses.replace(self, **{name: value[rows] for name, value in given.items()})

    @staticmethod
    def concatenate(parts: Sequence[Conditions]) -> Conditions:
        """Join batches; a part that is null in some and given in others becomes explicit."""
        joined: dict[str, Tensor | None] = {}
        for name in _OF_IMAGES:
            values = [getattr(part, name) for part in parts]
            given = next((value for value in values if value is not None), None)
            if given is None:
                joined[name] = None
                continue
            filled = [
                part._null_like(name, part._blank(given)) if value is None else value
                for part, value in zip(parts, values, strict=True)
            ]
            joined[name] = torch.cat(filled)
        return Conditions(**joined, null_text=parts[0].null_text)

    def _blank(self, example: Tensor) -> Tensor:
        """Return a tensor shaped like `example` but for this batch's number of images."""
        parts = [getattr(self, name) for name in _OF_IMAGES]
        sizes = [len(part) for part in parts if part is not None]
        number = sizes[0] if sizes else len(example)
        return example.new_zeros((number, *example.shape[1:]))
