"""The map of regions is that of a plain account of the method, pixel by pixel."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.segmentation import felzenszwalb, find_boundaries

from v2ir.annotation import RegionSegmenter
from v2ir.bench.pictures import draw_street
from v2ir.images import read_visible, resize

# ---- the method, written down for reading and not for speed ---------------------------


def plain_map(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    scale = min(1.0, (76_800 / (height * width)) ** 0.5)
    small = resize(image, max(1, round(width * scale)), max(1, round(height * scale)), "area")
    padding = [(0, max(0, 8 - side)) for side in small.shape[:2]]
    padded = np.pad(small, [*padding, (0, 0)], mode="edge").astype(np.float32) / 255.0
    regions = plain_regions(padded)[: small.shape[0], : small.shape[1]]
    return np.where(resize(regions, width, height, "linear") >= 128, 255, 0).astype(np.uint8)


def plain_regions(small: np.ndarray) -> np.ndarray:
    lightness = evenly_lit(small).mean(axis=-1)
    noise = float(np.median(np.abs(ndimage.laplace(lightness)))) * 1.4826 / 20**0.5
    sigma = min(0.7 + 40.0 * max(noise - 0.006, 0.0), 1.5)
    smooth = ndimage.gaussian_filter(small, (sigma, sigma, 0))
    colours = rgb2lab(evenly_lit(smooth)).astype(np.float32) / 100.0
    labels = felzenszwalb(colours, scale=90.0, sigma=0, min_size=20)
    labels = joined(labels, colours, min(0.04 + 1.5 * noise, 0.08))
    borders = find_boundaries(labels, mode="thick")
    coherent = np.zeros(labels.max() + 1, bool)
    for label in range(labels.max() + 1):
        region = labels == label
        coherent[label] = (region & ~borders).sum() >= 0.25 * region.sum() and region.sum() >= 50
    return np.where(coherent[labels] & ~borders, 255, 0).astype(np.uint8)


def evenly_lit(small: np.ndarray) -> np.ndarray:
    low, high = np.quantile(small.max(axis=-1), [0.01, 0.99])
    low = min(max(low - 0.08, 0.0), 0.5)
    stretched = np.clip((small - low) / max(high - low, 0.6), 0.0, 1.0)
    median = np.clip(np.median(stretched.max(axis=-1)), 0.03, 0.9)
    return stretched ** np.float32(np.clip(np.log(0.45) / np.log(median), 0.4, 1.2))


def joined(labels: np.ndarray, colours: np.ndarray, tolerance: float) -> np.ndarray:
    """Join neighbours of like mean colour, the most alike pairs first."""
    number = labels.max() + 1
    area = np.bincount(labels.ravel()).astype(float)
    sums = [np.bincount(labels.ravel(), weights=colours[..., i].ravel()) for i in range(3)]
    mean = np.stack(sums, axis=1) / area[:, None]
    touching = set()
    for one, other in ((labels[:, :-1], labels[:, 1:]), (labels[:-1], labels[1:])):
        beside = zip(one.ravel().tolist(), other.ravel().tolist(), strict=True)
        touching |= {(min(pair), max(pair)) for pair in beside if pair[0] != pair[1]}
    pairs = np.array(sorted(touching), dtype=int).reshape(-1, 2)
    distances = np.linalg.norm(mean[pairs[:, 0]] - mean[pairs[:, 1]], axis=1)
    owner = list(range(number))

    def owned_by(label: int) -> int:
        while owner[label] != label:
            label = owner[label]
        return label

    for index in np.argsort(distances, kind="stable"):
        if distances[index] > 2.5 * tolerance:
            break
        one, other = (owned_by(int(label)) for label in pairs[index])
        small = min(area[one], area[other]) < 70
        near = np.linalg.norm(mean[one] - mean[other]) <= tolerance * (2.5 if small else 1.0)
        if one != other and near:
            total = area[one] + area[other]
            mean[one] = (mean[one] * area[one] + mean[other] * area[other]) / total
            area[one], owner[other] = total, one
    owners = np.array([owned_by(label) for label in range(number)])
    return np.unique(owners, return_inverse=True)[1][labels]


# ---- comparisons ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "width", "height"),
    [(0, 96, 96), (1, 160, 120), (2, 61, 140), (3, 340, 300), (4, 5, 90)],
)
def test_maps_of_drawn_streets(seed, width, height):
    image = draw_street(seed, max(width, 60), height)[0][:, :width]
    made = RegionSegmenter().segment([image])[0]
    assert np.array_equal(made, plain_map(image))
    assert seed == 4 or 0.05 < (made == 255).mean() < 1


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.integers(1, 48),
    height=st.integers(1, 48),
    levels=st.sampled_from([2, 5, 256]),
    smooth=st.sampled_from([0.0, 1.0, 4.0]),
    dark=st.sampled_from([1, 4, 20]),
)
def test_maps_of_random_textures(seed, width, height, levels, smooth, dark):
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.random((height, width, 3)), (smooth, smooth, 0))
    spread = max(float(np.ptp(noise)), 1e-6)
    steps = np.floor((noise - noise.min()) / spread * (levels - 1e-6)) / max(levels - 1, 1)
    image = (steps.clip(0, 1) * 255 / dark).astype(np.uint8)
    assert np.array_equal(RegionSegmenter().segment([image])[0], plain_map(image))


def test_maps_of_photographs():
    data = Path(os.environ.get("V2IR_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (data / "pairs" / "rgb").is_dir():
        pytest.skip("no shared photographs; name their folder in V2IR_DATA")
    for path in sorted((data / "pairs" / "rgb").iterdir())[::160]:
        image = resize(read_visible(path), 200, 160, "area")
        assert np.array_equal(RegionSegmenter().segment([image])[0], plain_map(image)), path.name
