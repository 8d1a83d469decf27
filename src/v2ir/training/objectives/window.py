"""The part of a scene's images that a sample of cached latents is cut from."""

from __future__ import annotations

import dataclasses

import numpy as np

from v2ir.training.variants import Variant


@dataclasses.dataclass(frozen=True)
class Window:
    """A square of a view, by its corner in the latent.

    Attributes:
        variant: The view of the scene, in the light that its visible image has.
        top: Row of the upper left corner in latent pixels.
        left: Column of the same.
    """

    variant: Variant
    top: int
    left: int

    def cut(self, pixels: np.ndarray, crop: int, factor: int, *, toned: bool = False) -> np.ndarray:
        """Return the window of an image, crop x crop, whose latent is the sample's.

        Args:
            pixels: The whole image, HW or HWC.
            crop: Side of the window in pixels.
            factor: Pixels of the image along a latent pixel.
            toned: Whether the image is the visible one, which has the view's light.
        """
        view = (self.variant if toned else self.variant.untoned).apply(pixels)
        top, left = self.top * factor, self.left * factor
        return np.ascontiguousarray(view[top : top + crop, left : left + crop])
