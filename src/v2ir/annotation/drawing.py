"""Words drawn at random, the same for an image whatever the batch and the order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import torch

Sampling = Literal["greedy", "nucleus"]


class NucleusDraw:
    """A logits processor after which the largest value is a draw from the nucleus.

    Adding Gumbel noise to log probabilities and taking the largest is a draw from that
    distribution. So every kind of greedy `generate` becomes nucleus sampling in which
    each row has a generator of its own.

    Source: Holtzman et al., The Curious Case of Neural Text Degeneration, 2020 (nucleus);
    Maddison et al., A* Sampling, 2014 (Gumbel-max).

    Args:
        generators: One generator on the CPU for each row of the batch.
        top_p: Share of the probability that the nucleus holds, in (0, 1].
    """

    def __init__(self, generators: Sequence[torch.Generator], top_p: float) -> None:
        self.generators = generators
        self.top_p = top_p

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return (rows, words) scores whose largest is the draw; -inf outside the nucleus."""
        import torch

        ordered, order = scores.float().sort(dim=-1, descending=True)
        chances = ordered.softmax(dim=-1)
        # The word that crosses top_p still belongs to the nucleus, so it is never empty.
        outside = chances.cumsum(dim=-1) - chances >= self.top_p
        inside = scores.float().masked_fill(outside.scatter(-1, order, outside), -torch.inf)
        noise = torch.stack(
            [
                torch.rand(scores.shape[-1], generator=generator, dtype=torch.float64)
                for generator in self.generators
            ]
        )
        gumbel = -(-noise.clamp_min(1e-300).log()).log()
        return inside + gumbel.to(scores.device, torch.float32)


def image_generators(image: np.ndarray, number: int, seed: int) -> list[torch.Generator]:
    """Return generators that depend on the image's pixels and the seed alone.

    Args:
        image: HWC uint8.
        number: Number of captions of the image.
        seed: The user's seed.
    """
    import torch

    pixels = hashlib.sha256(f"{image.shape}:".encode() + np.ascontiguousarray(image).tobytes())
    seeds = (
        hashlib.sha256(pixels.digest() + f":{seed}:{index}".encode()).digest()
        for index in range(number)
    )
    return [torch.Generator().manual_seed(int.from_bytes(s[:7], "big")) for s in seeds]
