"""A segmenter without weights: regions of like colour, divided by black lines.

DiffV2IR gives its denoiser the union of the masks that "segment everything" finds: white
where a mask lies, black along the gaps between masks and where nothing coherent was
found. The same kind of map comes from colours alone: a graph-based over-segmentation,
then merging of neighbours of like colour, then lines along what is left.

Source: Felzenszwalb and Huttenlocher, Efficient Graph-Based Image Segmentation, 2004;
the map's meaning: DiffV2IR, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from v2ir.images import resize

WORKING_PIXELS = 76_800
"""Images are segmented at about this many pixels (320x240), so cost does not grow."""

_MIN_SIDE = 8
_GRAPH_SCALE = 90.0
_GRAPH_MIN_PIXELS = 20
_SMALL_REGION_PIXELS = 70
_SMALL_REGION_TOLERANCE = 2.5
_HOLE_PIXELS = 50
_HOLE_INNER_FRACTION = 0.25


class RegionSegmenter:
    """Region growing and merging in a brightness-normalised CIELAB image."""

    name = "regions"
    version = "1"

    def segment(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return one map per image: HW uint8, 255 in regions, 0 on borders and clutter.

        Each image is treated on its own, so a map never depends on the batch.
        """
        return [_segment_one(image) for image in images]


def _segment_one(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    scale = min(1.0, (WORKING_PIXELS / (height * width)) ** 0.5)
    small = resize(image, max(1, round(width * scale)), max(1, round(height * scale)), "area")
    padding = [(0, max(0, _MIN_SIDE - side)) for side in small.shape[:2]]
    padded = np.pad(small, [*padding, (0, 0)], mode="edge")
    regions = _regions_map(padded)[: small.shape[0], : small.shape[1]]
    # Enlarging smoothly and cutting at half gives borders without stair steps.
    full = resize(regions, width, height, "linear")
    return np.where(full >= 128, 255, 0).astype(np.uint8)


def _regions_map(small: np.ndarray) -> np.ndarray:
    """Return the map at working size, HW uint8, 0 or 255."""
    from skimage.segmentation import felzenszwalb, find_boundaries

    pixels, noise = _normalised_lab(small.astype(np.float32) / 255.0)
    labels = felzenszwalb(pixels, scale=_GRAPH_SCALE, sigma=0, min_size=_GRAPH_MIN_PIXELS)
    labels = _merge_similar(labels, pixels, tolerance=min(0.04 + 1.5 * noise, 0.08))
    borders = find_boundaries(labels, mode="thick")
    area = np.bincount(labels.ravel())
    inner = np.bincount(labels.ravel(), weights=~borders.ravel())
    coherent = (inner >= _HOLE_INNER_FRACTION * area) & (area >= _HOLE_PIXELS)
    return np.where(coherent[labels] & ~borders, 255, 0).astype(np.uint8)


def _normalised_lab(small: np.ndarray) -> tuple[np.ndarray, float]:
    """Return HWC CIELAB / 100 of the smoothed, evenly lit image, and its noise level.

    The noise is the median absolute Laplacian over its value for unit Gaussian noise; a
    noisy image is smoothed more, before the dark values are stretched.
    """
    from scipy import ndimage
    from skimage.color import rgb2lab

    red, green, blue = np.moveaxis(_evenly_lit(small), -1, 0)
    lightness = (red + green + blue) / np.float32(3)
    noise = float(np.median(np.abs(ndimage.laplace(lightness)))) * 1.4826 / 20**0.5
    sigma = min(0.7 + 40.0 * max(noise - 0.006, 0.0), 1.5)
    smooth = ndimage.gaussian_filter(small, (sigma, sigma, 0))
    return rgb2lab(_evenly_lit(smooth)).astype(np.float32) / 100.0, noise


def _evenly_lit(small: np.ndarray) -> np.ndarray:
    """Take haze away and bring the median of HWC float [0, 1] near 0.45 by a gamma curve."""
    low, high = np.quantile(_peak(small), [0.01, 0.99])
    # Only a raised black level is haze; the black of night must not be stretched further.
    low = min(max(low - 0.08, 0.0), 0.5)
    stretched = np.clip((small - low) / max(high - low, 0.6), 0.0, 1.0)
    median = np.clip(np.median(_peak(stretched)), 0.03, 0.9)
    gamma = np.clip(np.log(0.45) / np.log(median), 0.4, 1.2)
    return stretched ** np.float32(gamma)


def _peak(pixels: np.ndarray) -> np.ndarray:
    """Return the largest of the three channels of HWC."""
    # Planes one against the other: numpy is many times slower along an axis of 3.
    return np.maximum(np.maximum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])


def _merge_similar(labels: np.ndarray, pixels: np.ndarray, tolerance: float) -> np.ndarray:
    """Join neighbouring regions whose mean colours differ by at most `tolerance`.

    Pairs are visited from the most alike on, and means follow the merging. Very small
    regions may differ more, since they are noise more often than objects.

    Args:
        labels: HW integers from 0, one number a region.
        pixels: HWC colours.
        tolerance: Largest distance of mean colours within which regions are joined.

    Returns:
        HW integers from 0 without gaps.
    """
    first, second = _neighbours(labels)
    area = np.bincount(labels.ravel()).astype(np.float64)
    sums = [
        np.bincount(labels.ravel(), weights=channel.ravel())
        for channel in np.moveaxis(pixels, -1, 0)
    ]
    mean = np.stack(sums, axis=1) / area[:, None]
    parent = np.arange(len(area))
    distance = np.linalg.norm(mean[first] - mean[second], axis=1)
    reachable = distance <= _SMALL_REGION_TOLERANCE * tolerance
    for index in np.argsort(distance, kind="stable")[: int(reachable.sum())]:
        one, other = _root(parent, first[index]), _root(parent, second[index])
        if one == other:
            continue
        small = min(area[one], area[other]) < _SMALL_REGION_PIXELS
        limit = tolerance * (_SMALL_REGION_TOLERANCE if small else 1.0)
        if np.linalg.norm(mean[one] - mean[other]) <= limit:
            total = area[one] + area[other]
            mean[one] = (mean[one] * area[one] + mean[other] * area[other]) / total
            area[one], parent[other] = total, one
    roots = np.array([_root(parent, label) for label in range(len(parent))])
    return np.unique(roots, return_inverse=True)[1][labels]


def _neighbours(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the unique pairs of labels that touch side by side, smaller label first."""
    left = np.concatenate([labels[:, :-1].ravel(), labels[:-1].ravel()]).astype(np.int64)
    right = np.concatenate([labels[:, 1:].ravel(), labels[1:].ravel()]).astype(np.int64)
    differ = left != right
    low, high = np.minimum(left, right)[differ], np.maximum(left, right)[differ]
    count = int(labels.max()) + 1
    pairs = np.unique(low * count + high)
    return pairs // count, pairs % count


def _root(parent: np.ndarray, label: int) -> int:
    while parent[label] != label:
        parent[label] = parent[parent[label]]
        label = parent[label]
    return int(label)
