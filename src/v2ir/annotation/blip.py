"""BLIP captioners: what DiffV2IR describes its images with.

Source: DiffV2IR, the released code: BLIP base at 384 px, nucleus sampling with top-p 0.9,
5 to 20 tokens. Here the likeliest words are taken unless sampling is asked for, and draws
depend on the image alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from v2ir.annotation.network import WORDING_OPTIONS, NetworkAnnotator, OptionsMixin, Wording
from v2ir.annotation.weights import cannot_load
from v2ir.annotators import Described


class BlipCaptioner(OptionsMixin, NetworkAnnotator):
    """`BlipForConditionalGeneration` of transformers.

    Args:
        weights: Hub name or folder.
        device: Where the network runs.
        wording: Fields of `Wording`.

    Raises:
        InputError: If the wording contradicts itself.
    """

    family = "blip"
    algorithm = "1"
    options = WORDING_OPTIONS

    def __init__(self, weights: str, device: str = "cpu", **wording: Any) -> None:
        super().__init__(weights, device)
        self.wording = Wording(**wording)

    def settings(self) -> str:
        """Return how words are chosen."""
        return str(self.wording)

    def load(self) -> Any:
        """Load network, image processor and tokenizer.

        Raises:
            ModelError: If the folder is not BLIP's.
            MissingExtraError: If an optional package is missing.
        """
        from transformers import AutoTokenizer, BlipForConditionalGeneration, BlipImageProcessorPil

        try:
            network = BlipForConditionalGeneration.from_pretrained(self.folder)
            pixels = BlipImageProcessorPil.from_pretrained(self.folder)
            tokenizer = AutoTokenizer.from_pretrained(self.folder)
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            raise cannot_load(self.name, error) from error
        return network.eval().to(self.device), pixels, tokenizer

    def caption(self, images: Sequence[np.ndarray]) -> list[str]:
        """Return the first caption of each image, HWC uint8 RGB."""
        return [described.captions[0] for described in self.describe(images)]

    def describe(self, images: Sequence[np.ndarray]) -> list[Described]:
        """Return `number` captions of each image, HWC uint8 RGB of any size."""
        import torch

        network, processor, tokenizer = self.parts
        number = self.wording.number
        pixels = processor(images=list(images), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            tokens = network.generate(
                pixel_values=pixels.to(self.device).repeat_interleave(number, dim=0),
                **self.wording.arguments(images),
            )
        texts = [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]
        rows = (texts[start : start + number] for start in range(0, len(texts), number))
        return [Described(tuple(row)) for row in rows]
