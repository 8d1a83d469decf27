"""Numbers that describe a visible image: light, colours, texture, lines, ground."""

from __future__ import annotations

import dataclasses

import numpy as np

from v2ir.images import resize

MEASURING_PIXELS = 19_200
"""Images are measured at about this many pixels (160x120)."""

_MIN_SIDE = 8
_EDGE = 0.04
_FLAT = 0.025
_SKY_FLAT = 0.035


@dataclasses.dataclass(frozen=True)
class SceneMeasures:
    """What can be measured in one image; fractions and lightness are in [0, 1].

    Attributes:
        mean_lightness: Mean of the luma.
        black_level: 1 % quantile of the luma; haze and some cameras lift it.
        contrast: Distance between the 10 % and the 90 % quantile of the luma.
        dark_fraction: Pixels with luma below 0.15.
        top_lightness: Median luma of the top quarter.
        bottom_lightness: Median luma of the bottom third.
        top_upper_lightness: 75 % quantile of the luma of the top third.
        top_bright_fraction: Pixels of the top third with luma above 0.72.
        lamps: Number of small bright blobs on darker surroundings.
        lamp_fraction: Pixels in such blobs.
        sky_fraction: Flat bright or blue pixels connected with the top edge.
        sky_lightness: Mean luma of those; 0 without sky.
        sky_blueness: Mean of blue minus red of those; 0 without sky.
        top_flat_fraction: Pixels of the top quarter without any gradient.
        green_fraction: Pixels of vegetation colour (excess green).
        low_blue_fraction: Clearly blue pixels in the lower two thirds.
        low_green_fraction: Pixels of vegetation colour in the middle of the lower third.
        ground_flat_fraction: Pixels without gradient in the middle of the lower third.
        edge_fraction: Pixels with a clear gradient, after the light is evened out.
        tangled_fraction: Pixels of the upper two thirds with clear gradients of no common
            direction, as leaves and branches have.
        vertical_fraction: Pixels on straight upright edges.
        horizontal_fraction: Pixels on straight level edges.
        straight_share: Share of the edges that run straight.
        texture_ratio: Mean gradient of the top third over that of the bottom third.
    """

    mean_lightness: float
    black_level: float
    contrast: float
    dark_fraction: float
    top_lightness: float
    bottom_lightness: float
    top_upper_lightness: float
    top_bright_fraction: float
    lamps: float
    lamp_fraction: float
    sky_fraction: float
    sky_lightness: float
    sky_blueness: float
    top_flat_fraction: float
    green_fraction: float
    low_blue_fraction: float
    low_green_fraction: float
    ground_flat_fraction: float
    edge_fraction: float
    tangled_fraction: float
    vertical_fraction: float
    horizontal_fraction: float
    straight_share: float
    texture_ratio: float


def measure(image: np.ndarray) -> SceneMeasures:
    """Measure an image, HWC uint8 RGB of any size."""
    pixels = _shrunk(image)
    luma = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    gradient = _Gradient.of(luma)
    return SceneMeasures(
        **_light(luma),
        **_lamps(luma),
        **_sky(pixels, luma, gradient.size),
        **_colours(pixels, luma),
        **_texture(gradient),
    )


def _shrunk(image: np.ndarray) -> np.ndarray:
    """Return HWC float32 in [0, 1] of bounded size, at least 8 pixels a side."""
    height, width = image.shape[:2]
    scale = min(1.0, (MEASURING_PIXELS / (height * width)) ** 0.5)
    size = max(_MIN_SIDE, round(width * scale)), max(_MIN_SIDE, round(height * scale))
    return resize(image, *size, "area").astype(np.float32) / 255.0


@dataclasses.dataclass(frozen=True)
class _Gradient:
    """Gradients of the evenly lit luma, HW each.

    Attributes:
        size: Length of the gradient.
        angle: Direction of the structure tensor in degrees; 0 for an upright edge.
        coherence: How much of the local gradient energy shares one direction, in [0, 1].
    """

    size: np.ndarray
    angle: np.ndarray
    coherence: np.ndarray

    @classmethod
    def of(cls, luma: np.ndarray) -> _Gradient:
        from scipy import ndimage

        median = np.clip(np.median(luma), 0.03, 0.9)
        gamma = np.clip(np.log(0.45) / np.log(median), 0.4, 1.2)
        smooth = ndimage.gaussian_filter(luma ** np.float32(gamma), 0.7)
        across, down = ndimage.sobel(smooth, 1) / 8, ndimage.sobel(smooth, 0) / 8
        xx, yy, xy = (
            ndimage.gaussian_filter(product, 2)
            for product in (across * across, down * down, across * down)
        )
        return cls(
            size=np.hypot(across, down),
            angle=0.5 * np.degrees(np.arctan2(2 * xy, xx - yy)),
            coherence=np.hypot(xx - yy, 2 * xy) / (xx + yy + 1e-4),
        )


def _light(luma: np.ndarray) -> dict[str, float]:
    height = len(luma)
    low, dark, bright = np.quantile(luma, [0.01, 0.1, 0.9])
    third = luma[: height // 3]
    return {
        "mean_lightness": float(luma.mean()),
        "black_level": float(low),
        "contrast": float(bright - dark),
        "dark_fraction": float((luma < 0.15).mean()),
        "top_lightness": float(np.median(luma[: height // 4])),
        "bottom_lightness": float(np.median(luma[-(height // 3) :])),
        "top_upper_lightness": float(np.quantile(third, 0.75)),
        "top_bright_fraction": float((third > 0.72).mean()),
    }


def _lamps(luma: np.ndarray) -> dict[str, float]:
    from scipy import ndimage

    spots = (luma > 0.75) & (luma > ndimage.uniform_filter(luma, 25) + 0.3)
    return {"lamps": float(ndimage.label(spots)[1]), "lamp_fraction": float(spots.mean())}


def _sky(pixels: np.ndarray, luma: np.ndarray, gradient: np.ndarray) -> dict[str, float]:
    from scipy import ndimage

    red, green, blue = np.moveaxis(pixels, -1, 0)
    flat = ndimage.maximum_filter(gradient, 3) < _SKY_FLAT
    bright = luma > max(0.45, 0.85 * float(np.quantile(luma, 0.75)))
    bluish = (blue > 1.05 * red) & (blue >= green) & (luma > 0.3)
    labels = ndimage.label(flat & (bright | bluish))[0]
    sky = np.isin(labels, np.setdiff1d(labels[:2], [0]))
    found = bool(sky.any())
    return {
        "sky_fraction": float(sky.mean()),
        "sky_lightness": float(luma[sky].mean()) if found else 0.0,
        "sky_blueness": float((blue - red)[sky].mean()) if found else 0.0,
        "top_flat_fraction": float((gradient[: len(luma) // 4] < _FLAT).mean()),
    }


def _colours(pixels: np.ndarray, luma: np.ndarray) -> dict[str, float]:
    height, width = luma.shape
    red, green, blue = np.moveaxis(pixels, -1, 0)
    excess = (2 * green - red - blue) / (red + green + blue + 0.03)
    plants = (excess > 0.06) & (luma > 0.03)
    blues = blue - np.maximum(red, 0.98 * green) > 0.06
    ground = (slice(2 * height // 3, None), slice(width // 5, 4 * width // 5))
    return {
        "green_fraction": float(plants.mean()),
        "low_blue_fraction": float(blues[height // 3 :].mean()),
        "low_green_fraction": float(plants[ground].mean()),
    }


def _texture(gradient: _Gradient) -> dict[str, float]:
    height, width = gradient.size.shape
    third = height // 3
    ground = (slice(2 * third, None), slice(width // 5, 4 * width // 5))
    edges = gradient.size > _EDGE
    straight = edges & (gradient.coherence > 0.75)
    upright, level = np.abs(gradient.angle) < 8, np.abs(gradient.angle) > 82
    tangled = (edges & (gradient.coherence < 0.6))[: 2 * third]
    bottom = float(gradient.size[-third:].mean())
    return {
        "ground_flat_fraction": float((gradient.size[ground] < _FLAT).mean()),
        "edge_fraction": float(edges.mean()),
        "tangled_fraction": float(tangled.mean()),
        "vertical_fraction": float((straight & upright).mean()),
        "horizontal_fraction": float((straight & level).mean()),
        "straight_share": float(straight.sum() / max(int(edges.sum()), 1)),
        "texture_ratio": float(gradient.size[:third].mean()) / max(bottom, 1e-3),
    }
