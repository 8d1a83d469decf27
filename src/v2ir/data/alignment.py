"""How far an infrared image is shifted against its visible partner, and how surely."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np

from v2ir.images import read_thumbnail

WIDTH = 256
"""Width in pixels at which pairs are compared."""

REACH = 32
"""Largest shift in pixels, at `WIDTH`, that is looked for."""

TOLERANCE = 5
"""Shift in pixels, at `WIDTH`, up to which a pair counts as aligned."""

# The next three were chosen on real pairs; docs/data.md has the numbers.
SURE = 4.5
"""Strength from which a peak away from zero shift counts as a misalignment."""

MARGIN = 0.5
"""How much stronger such a peak must be than the best one near zero shift."""

DOUBTFUL = 3.5
"""Strength near zero shift below which nothing shows that both are of one scene."""

Verdict = Literal["aligned", "shifted", "doubtful"]

_SMOOTHING = 1.0


@dataclasses.dataclass(frozen=True)
class Alignment:
    """How two images of one scene lie on each other.

    Attributes:
        right: Pixels, at a width of 256, by which the infrared content lies to the right of
            the visible content.
        down: The same downwards.
        strength: Height of the peak over the background of all shifts, in robust standard
            deviations of that background.
        near_zero: The same for the highest value within `TOLERANCE` of no shift.
    """

    right: int
    down: int
    strength: float
    near_zero: float

    @property
    def shift(self) -> int:
        """The larger of both shifts in pixels at a width of 256, without sign."""
        return max(abs(self.right), abs(self.down))

    @property
    def verdict(self) -> Verdict:
        """Tell whether the pair is aligned, surely shifted, or shows no common edges."""
        if self.strength >= max(SURE, self.near_zero + MARGIN):
            return "shifted"
        return "doubtful" if self.near_zero < DOUBTFUL else "aligned"


def measure_files(visible: Path, infrared: Path) -> Alignment:
    """Measure the alignment of two image files; see `measure`.

    Raises:
        ImageReadError: If one of the files cannot be read.
    """
    one, other = read_thumbnail(visible, WIDTH), read_thumbnail(infrared, WIDTH)
    if one.shape != other.shape:
        # Sizes are another check's matter; here both are laid on each other as they come.
        other = read_thumbnail(infrared, WIDTH, one.shape[0])
    return measure(one, other)


def measure(visible: np.ndarray, infrared: np.ndarray) -> Alignment:
    """Measure the shift between two luminance images of equal size.

    What both kinds of light share are edges: their place and direction, but not their
    sign, for a wall may be brighter than the sky in one and darker in the other. So each
    pixel becomes the complex number sqrt|g| exp(2i theta), where g is the gradient of the
    smoothed image and theta its direction: doubling the angle makes opposite gradients
    equal, and the root keeps a few strong edges from deciding alone. The real part of
    the cross-correlation of both fields has its peak at the shift.

    Args:
        visible: HW float, [0, 1], best 256 pixels wide.
        infrared: HW float of the same size.

    Returns:
        The shift of the highest peak within 32 pixels, and how far it stands out.
    """
    surface = correlation(edges(visible), edges(infrared))
    centre = float(np.median(surface))
    spread = 1.4826 * float(np.median(np.abs(surface - centre)))
    if spread == 0.0:
        return Alignment(0, 0, 0.0, 0.0)
    row, column = np.unravel_index(int(surface.argmax()), surface.shape)
    middle_row, middle_column = (side // 2 for side in surface.shape)
    near = surface[
        max(0, middle_row - TOLERANCE) : middle_row + TOLERANCE + 1,
        max(0, middle_column - TOLERANCE) : middle_column + TOLERANCE + 1,
    ]
    return Alignment(
        right=int(column) - middle_column,
        down=int(row) - middle_row,
        strength=float((surface[row, column] - centre) / spread),
        near_zero=float((near.max() - centre) / spread),
    )


def edges(image: np.ndarray) -> np.ndarray:
    """Return the field sqrt|g| exp(2i theta) of an HW image, HW complex64."""
    from scipy.ndimage import gaussian_filter

    if min(image.shape) < 2:
        return np.zeros(image.shape, dtype=np.complex64)
    down, right = np.gradient(gaussian_filter(image.astype(np.float32), _SMOOTHING))
    gradient = right + 1j * down
    size = np.abs(gradient)
    # Weights of rounding errors must not grow into edges where the image is flat.
    weight = np.where(size > 1e-4, np.maximum(size, 1e-4) ** -1.5, 0.0)
    return (gradient * gradient * weight).astype(np.complex64)


def correlation(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Return the real cross-correlation for all shifts that are looked for.

    Args:
        visible: HW complex field.
        infrared: HW complex field of the same size.

    Returns:
        Surface of up to 65x65 values; the middle is no shift, a peak right of it means that
        the infrared content lies further right. No shift is looked for that is more than
        a quarter of the image.
    """
    from scipy import fft

    height, width = visible.shape
    tall, wide = (min(REACH, side // 4) for side in (height, width))
    shape = tuple(
        fft.next_fast_len(side + reach)
        for side, reach in zip((height, width), (tall, wide), strict=True)
    )
    product = np.conj(fft.fft2(visible, shape)) * fft.fft2(infrared, shape)
    around = fft.ifft2(product).real
    return np.roll(around, (tall, wide), axis=(0, 1))[: 2 * tall + 1, : 2 * wide + 1]
