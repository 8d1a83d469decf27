"""Latents computed once: a content-addressed folder beside the data.

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

from v2ir.files import write_bytes
from v2ir.images import resize, to_tensor


@dataclasses.dataclass(frozen=True)
class Variant:
    """A resized and perhaps mirrored view of a whole image.

    Attributes:
        short_side: Short side in pixels after resizing; the aspect is kept.
        mirrored: Whether left and right are exchanged.
        multiple: Sides are cut (by less than this) to multiples of it, so that the
            latent's pixels lie on the image's.
    """

    short_side: int
    mirrored: bool
    multiple: int

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Apply the view to HW or HWC pixels."""
        height, width = pixels.shape[:2]
        ratio = self.short_side / min(height, width)
        target = [max(self.short_side, round(side * ratio)) for side in (height, width)]
        target_height, target_width = (side // self.multiple * self.multiple for side in target)
        view = resize(pixels, target_width, target_height)
        return np.ascontiguousarray(view[:, ::-1]) if self.mirrored else view

    @property
    def key(self) -> str:
        """The transform as text, for the cache's keys."""
        return f"short={self.short_side} mirrored={int(self.mirrored)} multiple={self.multiple}"


def draw_variants(
    number: int, crop: int, scales: tuple[float, float], multiple: int, seed: str
) -> list[Variant]:
    """Draw the variants of one scene; every second one is mirrored.

    The scales are stratified over the range, so that few variants still cover it.
    """
    digest = hashlib.sha256(seed.encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    low, high = scales
    variants = []
    for index in range(number):
        part = (index // 2 + generator.random()) / max((number + 1) // 2, 1)
        side = crop * (low + (high - low) * part)
        short = max(crop, round(side / multiple) * multiple)
        variants.append(Variant(short, index % 2 == 1, multiple))
    return variants


def weights_hash(module: torch.nn.Module) -> str:
    """Return a SHA-256 over the names and values of a network's weights."""
    total = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


class TensorCache:
    """Tensors on disk in half precision, found by what they were computed from.

    Attributes:
        folder: Where the entries are.
        encoder_hash: Hash of the weights that compute the entries, part of each key.
        computed: Number of entries computed since the start, for reports and tests.
    """

    def __init__(self, folder: Path, encoder_hash: str) -> None:
        self.folder = folder
        self.encoder_hash = encoder_hash
        self.computed = 0

    def path_of(self, key: str) -> Path:
        """Return the file of an entry, whether it exists or not."""
        digest = hashlib.sha256(f"{key} {self.encoder_hash}".encode()).hexdigest()
        return self.folder / digest[:2] / f"{digest}.safetensors"

    def get_or_make(self, key: str, make: Callable[[], Tensor]) -> Tensor:
        """Return an entry in float32; a missing or torn one is made anew."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file, save

        path = self.path_of(key)
        try:
            return load_file(path)["tensor"].float()
        except (FileNotFoundError, SafetensorError, KeyError):
            value = make().half().cpu().contiguous()
            write_bytes(path, save({"tensor": value}))
            self.computed += 1
            return value.float()


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

    def path(self, image_hash: str, variant: Variant) -> Path:
        """Return the file of a latent, whether it exists or not."""
        return self.path_of(f"{image_hash} {variant.key}")

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
    """

    latents: LatentCache
    text: TextCache


def cut(latents: Sequence[Tensor], size: int, generator: np.random.Generator) -> list[Tensor]:
    """Cut the same random window of `size` latent pixels out of each latent (c, h, w)."""
    height, width = latents[0].shape[-2:]
    top = int(generator.integers(height - size + 1))
    left = int(generator.integers(width - size + 1))
    return [latent[:, top : top + size, left : left + size] for latent in latents]
