"""Latents and embeddings computed once: content-addressed shards beside the data.

The key of an entry is the hash of the image's bytes, of the autoencoder's weights and of
the transform, so an entry can never be stale: a change of any of them is another key.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from v2ir.images import to_tensor
from v2ir.training.shards import ShardStore
from v2ir.training.variants import Variant


def weights_hash(module: torch.nn.Module, without: tuple[str, ...] = ()) -> str:
    """Return a SHA-256 over the names and values of a network's weights.

    Args:
        module: The network.
        without: Names of parts of the network that do not count.
    """
    total = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if name.split(".", 1)[0] in without:
            continue
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


class TensorCache:
    """Tensors in half precision, found by what they were computed from.

    Attributes:
        store: Where the entries are.
        encoder_hash: Hash of the weights that compute the entries, part of each key.
        computed: Number of entries computed since the start, for reports and tests.
    """

    def __init__(self, folder: Path, encoder_hash: str) -> None:
        self.store = ShardStore(folder)
        self.encoder_hash = encoder_hash
        self.computed = 0

    def key(self, what: str) -> str:
        """Return the key of an entry."""
        return f"{what} {self.encoder_hash}"

    def get_or_make(self, what: str, make: Callable[[], Tensor]) -> Tensor:
        """Return an entry in float32; a missing one is made."""
        found = self.store.get(self.key(what))
        if found is not None:
            return found
        self.computed += 1
        return self.store.put(self.key(what), make())


class LatentCache(TensorCache):
    """Latents of image variants.

    Args:
        folder: Where the entries are.
        encode: Turns (1, 3, H, W) in [-1, 1] into a latent (1, c, h, w).
        encoder_hash: Hash of the autoencoder's weights.
    """

    def __init__(self, folder: Path, encode: Callable[[Tensor], Tensor], encoder_hash: str) -> None:
        super().__init__(folder, encoder_hash)
        self.encode = encode

    def holds(self, image_hash: str, variant: Variant) -> bool:
        """Whether a latent is there already."""
        return self.key(f"{image_hash} {variant.key}") in self.store

    def get(self, image_hash: str, variant: Variant, read: Callable[[], np.ndarray]) -> Tensor:
        """Return the latent (c, h, w) in float32, computing it if it is not there yet.

        Args:
            image_hash: Hash of the image file's bytes.
            variant: The view of the image.
            read: Reads the image's pixels; called only if the latent must be computed.
        """
        return self.get_or_make(
            f"{image_hash} {variant.key}",
            lambda: self.encode(to_tensor(variant.apply(read()))[None])[0],
        )


class TextCache(TensorCache):
    """Embeddings of prompts, for stages that leave the text encoder as it is.

    Args:
        folder: Where the entries are.
        embed: Turns one prompt into its embedding (L, D).
        encoder_hash: Hash of the text encoder's weights.
    """

    def __init__(self, folder: Path, embed: Callable[[str], Tensor], encoder_hash: str) -> None:
        super().__init__(folder, encoder_hash)
        self.embed = embed

    def holds(self, prompt: str) -> bool:
        """Whether an embedding is there already."""
        return self.key(f"text {prompt}") in self.store

    def get(self, prompts: Sequence[str]) -> Tensor:
        """Return the embeddings (N, L, D) of prompts."""
        made = [self.get_or_make(f"text {p}", lambda p=p: self.embed(p)) for p in prompts]  # type: ignore[misc]
        return torch.stack(made)


@dataclasses.dataclass(frozen=True)
class Caches:
    """What a stage finds computed already.

    Attributes:
        latents: Latents of the images.
        text: Embeddings of the prompts.
        visible: Latents of the visible images with an image encoder's features; None where
            the model has no such encoder, and `latents` holds theirs too.
    """

    latents: LatentCache
    text: TextCache
    visible: LatentCache | None = None

    def of(self, part: str) -> LatentCache:
        """Return the cache of a scene's images: `infrared`, `visible` or `segmentation`."""
        return self.visible if part == "visible" and self.visible else self.latents

    def flush(self) -> None:
        """Write what is not on disk yet."""
        for cache in self._all():
            cache.store.flush()

    def refresh(self) -> None:
        """Take in what other processes have written."""
        for cache in self._all():
            cache.store.refresh()

    def _all(self) -> list[TensorCache]:
        every = (self.latents, self.text, self.visible)
        return [cache for cache in every if cache is not None]


def draw_window(latent: Tensor, size: int, generator: np.random.Generator) -> tuple[int, int]:
    """Draw the top left corner of a window of `size` latent pixels in a latent (c, h, w)."""
    height, width = latent.shape[-2:]
    top = int(generator.integers(height - size + 1))
    return top, int(generator.integers(width - size + 1))
