"""One generator an image, so that a picture never depends on the others of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def image_generator(seed: int, input_hash: str) -> torch.Generator:
    """Return the generator of one image.

    It depends on the user's seed and the bytes of the input alone: the same photograph
    with the same seed gets the same noise in any folder, order, batch or resumed run,
    and two photographs never share theirs.

    Args:
        seed: The user's seed.
        input_hash: SHA-256 of the input file's bytes, or any other name of its content.
    """
    digest = hashlib.sha256(f"{seed}:{input_hash}".encode()).digest()
    # Drawn on the CPU, whatever computes later, so that machines agree on the noise.
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def draw_noise(generators: Sequence[torch.Generator], channels: int, h: int, w: int) -> Tensor:
    """Draw standard normal noise, (N, `channels`, `h`, `w`), each image from its generator."""
    return torch.cat([torch.randn((1, channels, h, w), generator=each) for each in generators])
