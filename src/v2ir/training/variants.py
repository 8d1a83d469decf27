"""Views of whole images whose latents are kept: resized, mirrored, in another light."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from v2ir.images import resize


@dataclasses.dataclass(frozen=True)
class Tone:
    """Another exposure and white balance of a visible image.

    Attributes:
        gamma: Exponent of the values in [0, 1].
        gains: Factors of red, green and blue after it.
    """

    gamma: float
    gains: tuple[float, float, float]

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Apply the tone to HWC uint8 pixels."""
        values = np.arange(256, dtype=np.float64) / 255.0
        tables = np.clip(values[:, None] ** self.gamma * np.array(self.gains), 0, 1) * 255.0
        table = np.round(tables).astype(np.uint8)
        return np.stack([table[pixels[..., band], band] for band in range(3)], axis=-1)


@dataclasses.dataclass(frozen=True)
class Variant:
    """A resized and perhaps mirrored view of a whole image.

    Attributes:
        short_side: Short side in pixels after resizing; the aspect is kept.
        mirrored: Whether left and right are exchanged.
        multiple: Sides are cut (by less than this) to multiples of it, so that the
            latent's pixels lie on the image's.
        tone: Another light, for a visible image alone.
    """

    short_side: int
    mirrored: bool
    multiple: int
    tone: Tone | None = None

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Apply the view to HW or HWC pixels."""
        height, width = pixels.shape[:2]
        ratio = self.short_side / min(height, width)
        target = [max(self.short_side, round(side * ratio)) for side in (height, width)]
        target_height, target_width = (side // self.multiple * self.multiple for side in target)
        view = resize(pixels, target_width, target_height)
        if self.tone is not None:
            view = self.tone.apply(view)
        return np.ascontiguousarray(view[:, ::-1]) if self.mirrored else view

    @property
    def key(self) -> str:
        """The transform as text, for the cache's keys."""
        text = f"short={self.short_side} mirrored={int(self.mirrored)} multiple={self.multiple}"
        return text if self.tone is None else f"{text} tone={self.tone}"

    @property
    def untoned(self) -> Variant:
        """The same view in the image's own light."""
        return dataclasses.replace(self, tone=None)


def draw_variants(
    number: int,
    crop: int,
    scales: tuple[float, float],
    multiple: int,
    seed: str,
    jitter: float = 0.0,
) -> list[Variant]:
    """Draw the variants of one scene; every second one is mirrored.

    The scales are stratified over the range, so that few variants still cover it. With
    `jitter` s the visible image's gamma is exp(s z) and its gains are exp(s z / 3) for
    normal z; the first two variants keep their light.
    """
    digest = hashlib.sha256(seed.encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    low, high = scales
    variants = []
    for index in range(number):
        part = (index // 2 + generator.random()) / max((number + 1) // 2, 1)
        side = crop * (low + (high - low) * part)
        short = max(crop, round(side / multiple) * multiple)
        tone = None
        if jitter > 0:
            gamma, *gains = np.exp(jitter * generator.normal(size=4) / (1, 3, 3, 3))
            red, green, blue = (float(gain) for gain in gains)
            tone = Tone(float(gamma), (red, green, blue)) if index >= 2 else None
        variants.append(Variant(short, index % 2 == 1, multiple, tone))
    return variants
