"""From any image size to one that the network can work on, and exactly back.

An image is scaled by one factor for both axes and padded with its own mirrored pixels to
multiples that the network needs. Nothing is cropped and nothing is distorted; undoing it
gives the input's width and height again, so labels of the input fit the output.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from v2ir.errors import InputError
from v2ir.images import resize
from v2ir.records import JsonRecord

Resolution = int | Literal["native"]

SMALLEST_SHORT_SIDE = 64
"""Images with a shorter side than this are enlarged, because a network sees little in them."""
LARGEST_ENLARGEMENT = 4.0


@dataclasses.dataclass(frozen=True)
class Geometry(JsonRecord):
    """How an image was brought to its working size.

    Attributes:
        width: Width of the original in pixels.
        height: Height of the original in pixels.
        scaled_width: Width after scaling, without padding.
        scaled_height: Height after scaling, without padding.
        left: Padding at the left in working pixels.
        top: Padding at the top.
        right: Padding at the right.
        bottom: Padding at the bottom.
        scale: The factor for both axes, before rounding to whole pixels.
    """

    width: int
    height: int
    scaled_width: int
    scaled_height: int
    left: int
    top: int
    right: int
    bottom: int
    scale: float

    @property
    def working_size(self) -> tuple[int, int]:
        """(width, height) in pixels that the network sees."""
        return (
            self.left + self.scaled_width + self.right,
            self.top + self.scaled_height + self.bottom,
        )

    def to_working(self, x: float, y: float) -> tuple[float, float]:
        """Map a point of the original to the working image; pixel centres are at +0.5."""
        return (
            x * self.scaled_width / self.width + self.left,
            y * self.scaled_height / self.height + self.top,
        )

    def to_original(self, x: float, y: float) -> tuple[float, float]:
        """Map a point of the working image to the original; the inverse of `to_working`."""
        return (
            (x - self.left) * self.width / self.scaled_width,
            (y - self.top) * self.height / self.scaled_height,
        )


def fit(width: int, height: int, resolution: Resolution, multiple: int) -> Geometry:
    """Choose the working size of an image.

    The short side becomes `resolution` pixels, but an image is never enlarged for it.
    Only images with a short side below 64 pixels are enlarged, at most four times and not
    beyond `resolution` along their long side.

    Args:
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        resolution: Short side of the working image in pixels, or `native` to keep it.
        multiple: Sides are padded to multiples of this many pixels.

    Raises:
        InputError: If a number is not positive.
    """
    if min(width, height, multiple) < 1 or (resolution != "native" and resolution < 1):
        raise InputError(
            "sizes must be positive",
            got=f"{width}x{height} px, resolution {resolution}, multiple {multiple}",
        )
    scale = _scale(width, height, resolution)
    scaled_width, scaled_height = max(1, round(width * scale)), max(1, round(height * scale))
    across, down = -scaled_width % multiple, -scaled_height % multiple
    return Geometry(
        width=width,
        height=height,
        scaled_width=scaled_width,
        scaled_height=scaled_height,
        left=across // 2,
        top=down // 2,
        right=across - across // 2,
        bottom=down - down // 2,
        scale=scale,
    )


def _scale(width: int, height: int, resolution: Resolution) -> float:
    short, long = min(width, height), max(width, height)
    if resolution == "native":
        return 1.0
    if short >= SMALLEST_SHORT_SIDE:
        return min(1.0, resolution / short)
    wanted = min(SMALLEST_SHORT_SIDE, resolution) / short
    return max(1.0, min(wanted, LARGEST_ENLARGEMENT, resolution / long))


def scaled(pixels: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Scale HW or HWC pixels of the original's size, without padding.

    Raises:
        InputError: If the pixels are not of the original's size.
    """
    _check_size(pixels, geometry.width, geometry.height)
    return resize(pixels, geometry.scaled_width, geometry.scaled_height)


def padded(pixels: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Pad scaled HW or HWC pixels to the working size by mirroring them.

    Raises:
        InputError: If the pixels are not of the scaled size.
    """
    _check_size(pixels, geometry.scaled_width, geometry.scaled_height)
    borders = [(geometry.top, geometry.bottom), (geometry.left, geometry.right), (0, 0)]
    # "symmetric" repeats the edge pixel, so it also works for sides of a single pixel.
    return np.pad(pixels, borders[: pixels.ndim], mode="symmetric")


def apply(pixels: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Bring HW or HWC pixels of the original's size to the working size."""
    return padded(scaled(pixels, geometry), geometry)


def undo(pixels: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Bring HW or HWC pixels of the working size back to exactly the original's size.

    Raises:
        InputError: If the pixels are not of the working size.
    """
    _check_size(pixels, *geometry.working_size)
    inner = pixels[
        geometry.top : geometry.top + geometry.scaled_height,
        geometry.left : geometry.left + geometry.scaled_width,
    ]
    return resize(np.ascontiguousarray(inner), geometry.width, geometry.height)


def _check_size(pixels: np.ndarray, width: int, height: int) -> None:
    if pixels.shape[:2] != (height, width):
        raise InputError(
            "the pixels do not belong to this geometry",
            got=f"{pixels.shape[1]}x{pixels.shape[0]} px, not {width}x{height}",
        )
