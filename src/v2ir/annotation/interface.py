"""What a captioner and a segmenter are, whether they need weights or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Captioner(Protocol):
    """Describes images in words.

    Attributes:
        name: Name in the registry, kept with every result.
        version: Changed whenever the same image may get another caption.
    """

    name: str
    version: str

    def caption(self, images: Sequence[np.ndarray]) -> list[str]:
        """Return one caption per image; images are HWC uint8 RGB of any size."""
        ...


class Segmenter(Protocol):
    """Finds the regions of images.

    Attributes:
        name: Name in the registry, kept with every result.
        version: Changed whenever the same image may get another map.
    """

    name: str
    version: str

    def segment(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return one map per image: HW uint8 of its size, 255 in regions, 0 between them.

        Images are HWC uint8 RGB of any size.
        """
        ...
