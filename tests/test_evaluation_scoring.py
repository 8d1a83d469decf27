"""Scores that share their work equal those of each metric's own function."""

from __future__ import annotations

import gc
import math
import os
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v2ir.errors import InputError
from v2ir.evaluation import MEASURES, METRICS
from v2ir.evaluation.grey import Grey, gradient_magnitude, is_negative
from v2ir.evaluation.infrared import Facts, above_square, surroundings
from v2ir.evaluation.levels import joint_counts
from v2ir.evaluation.scoring import score
from v2ir.images import read_infrared_levels

REPOSITORY = Path(__file__).resolve().parents[1]
PAIRS = Path(os.environ.get("V2IR_DATA", REPOSITORY.parent / "shared" / "data")) / "pairs"
needs_data = pytest.mark.skipif(
    not (PAIRS / "ir").is_dir(), reason="the real pairs are absent; set V2IR_DATA to their folder"
)
SHAPES = ((11, 11), (19, 300), (75, 90), (181, 203))


def scene(seed: int, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A dark warm scene and a noisy answer to it, HW uint8; flat sky, burnt-out figure."""
    rng = np.random.default_rng(seed)
    truth = 20 + 40 * np.linspace(0, 1, shape[0])[:, None] + rng.normal(0, 3, shape)
    truth[: shape[0] // 4] = 9
    truth[shape[0] // 2 :, shape[1] // 2 : shape[1] // 2 + 6] = 255
    other = truth * 0.8 + rng.normal(12, 9, shape)
    return tuple(x.clip(0, 255).astype(np.uint8) for x in (truth, other))  # type: ignore[return-value]


def assert_equal_scores(found: dict[str, float], judged: np.ndarray, truth: np.ndarray) -> None:
    """Compare with the definitions, in float64."""
    for name, metric in METRICS.items():
        expected = metric.function(judged.astype(np.float64), truth.astype(np.float64))
        assert found[name] == pytest.approx(expected, abs=1e-6, nan_ok=True), name


@pytest.mark.parametrize("shape", SHAPES)
def test_scores_of_8_bit_images_equal_the_metrics(shape: tuple[int, int]) -> None:
    truth, judged = scene(sum(shape), shape)
    (found,) = score([Grey(judged)], Grey(truth), Facts(Grey(truth)))
    assert_equal_scores(found, judged / 255, truth / 255)
    assert list(found) == [*METRICS, *MEASURES]


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.integers(11, 90), st.integers(11, 90))
def test_scores_of_any_bytes_equal_the_metrics(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    truth, judged = rng.integers(0, 256, (2, height, width), dtype=np.uint8)
    (found,) = score([Grey(judged)], Grey(truth), Facts())
    assert_equal_scores(found, judged / 255, truth / 255)


def test_many_images_at_once_equal_each_alone() -> None:
    """Negatives, flat images and images of more than 8 bits each take a way of their own."""
    truth, judged = scene(0, (190, 201))
    fine = (judged / 255 + np.random.default_rng(1).normal(0, 1e-3, truth.shape)).clip(0, 1)
    flat = np.full(truth.shape, 0.2345, np.float32)
    levels = [judged, 255 - judged, truth, 255 - truth, np.full_like(truth, 40)]
    images = [Grey(x) for x in levels] + [Grey(flat), Grey(fine.astype(np.float32))]
    for found, image in zip(score(images, Grey(truth), Facts()), images, strict=True):
        assert_equal_scores(found, image.image, truth / np.float32(255))


def test_scores_against_a_truth_of_more_than_8_bits_or_a_flat_one() -> None:
    fine, judged = scene(2, (80, 70))
    for truth in (
        (fine / 255 + 0.001).astype(np.float32).clip(0, 1),
        np.full(fine.shape, 0.3, np.float32),
        np.full(fine.shape, 77, np.uint8),
    ):
        (found,) = score([Grey(judged)], Grey(truth), Facts())
        assert_equal_scores(found, judged / 255, Grey(truth).image)


def test_an_image_scores_like_itself_in_floats() -> None:
    truth, judged = scene(3, (90, 80))
    facts = Facts(Grey(truth), Grey(255 - truth // 2), (1,) * 256)
    first, second = score([Grey(judged), Grey(judged / np.float32(255))], Grey(truth), facts)
    assert first == pytest.approx(second, abs=1e-6, nan_ok=True)
    assert not any(math.isnan(first[name]) for name in MEASURES)


@needs_data
@pytest.mark.parametrize("source", ["llvip", "msrs", "metu_vistir", "roadscene"])
def test_scores_of_real_pairs_equal_the_metrics(source: str) -> None:
    path = min((PAIRS / "ir").glob(f"{source}_*.jpg"))
    truth, judged = read_infrared_levels(path), read_infrared_levels(PAIRS / "rgb" / path.name)
    images = [Grey(judged), Grey(255 - judged)]
    for found, image in zip(score(images, Grey(truth), Facts()), images, strict=True):
        assert_equal_scores(found, image.levels / 255, truth / 255)


def test_images_below_the_window_are_refused() -> None:
    small = Grey(np.zeros((10, 30), np.uint8))
    with pytest.raises(InputError, match="30x10 px"):
        score([small], small, Facts())


def test_a_negative_is_told_by_every_pixel() -> None:
    truth, other = scene(4, (30, 40))
    turned = (255 - truth)[::-1]  # the histogram of the negative, but not the image
    assert is_negative(Grey(255 - truth), Grey(truth))
    assert not is_negative(Grey(turned), Grey(truth))
    assert not is_negative(Grey(other), Grey(truth))
    assert not is_negative(Grey(1 - truth / 255 + 1e-4), Grey(truth))


def test_level_pairs_are_counted() -> None:
    first, second = np.uint8([[0, 255], [7, 7]]), np.uint8([[1, 255], [9, 9]])
    counts = joint_counts(first, second)
    assert (counts[0, 1], counts[255, 255], counts[7, 9], counts.sum()) == (1, 1, 2, 4)
    negative = Grey(255 - first, negative_of=Grey(first))
    np.testing.assert_array_equal(
        negative.table_with(Grey(second)).counts, joint_counts(255 - first, second)
    )


@pytest.mark.parametrize("shape", [(2, 2), (2, 90), (64, 5), (65, 7), (200, 33)])
def test_gradients_equal_numpy_across_strips(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(sum(shape)).integers(0, 256, shape).astype(np.uint8)
    expected = np.hypot(*np.gradient(values.astype(np.float64)))
    np.testing.assert_allclose(gradient_magnitude(values), expected, rtol=1e-6)


def test_the_mean_gradient_is_that_of_the_gradients() -> None:
    _, judged = scene(6, (130, 77))
    kept, fresh = Grey(judged), Grey(judged)
    assert kept.edges.mean(dtype=np.float64) == pytest.approx(fresh.mean_edge, rel=1e-6)
    assert kept.mean_edge == pytest.approx(fresh.mean_edge, rel=1e-6)
    assert "edges" not in vars(fresh)


@pytest.mark.parametrize("value", [0, 255])
def test_flat_areas_far_from_the_mean_keep_their_small_variances(value: int) -> None:
    """A burnt-out sky over a noisy ground, where float32 has the fewest digits left."""
    truth, judged = scene(7, (190, 181))
    truth[:90], judged[:90] = value, 255 - value
    (found,) = score([Grey(judged)], Grey(truth), Facts())
    assert_equal_scores(found, judged / 255, truth / 255)


@pytest.mark.parametrize(
    ("shape", "side"), [((9, 40), 9), ((37, 50), 3), ((64, 33), 17), ((300, 290), 259)]
)
@pytest.mark.parametrize("lowest", [0, 255])
def test_what_stands_out_of_its_square_is_exact(
    shape: tuple[int, int], side: int, lowest: int
) -> None:
    """The last is beyond 16 bits; white images reach the highest sum."""
    rng = np.random.default_rng(side)
    levels = rng.integers(lowest, 256, shape).astype(np.uint8)
    radius = side // 2
    padded = np.pad(levels.astype(np.int64), radius, mode="symmetric")
    running = np.pad(padded.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    expected = (running[side:, side:] - running[:-side, side:] - running[side:, :-side]) + running[
        :-side, :-side
    ]
    above = levels.astype(np.int64) * side * side - expected
    for margin in {-1, 0, int(np.median(above)), int(above.max()) - 1}:
        for threshold in (lowest - 1, 128):
            found = above_square(levels, side, margin, threshold)
            np.testing.assert_array_equal(found, (above > margin) & (levels > threshold))


@pytest.mark.parametrize("radius", [1, 2, 5, 8, 40])
def test_surroundings_equal_the_maximum_filter_outside_the_mask(radius: int) -> None:
    """Of places at every border, too: what grows over one must not lack anything inside."""
    from scipy.ndimage import maximum_filter

    mask = np.random.default_rng(radius).random((37, 50)) < 0.004
    mask[0, 20] = mask[36, 5] = mask[18, 0] = mask[30, 49] = True
    kept = mask.copy()
    expected = maximum_filter(mask, 2 * radius + 1) & ~mask
    np.testing.assert_array_equal(surroundings(mask, radius), expected)
    np.testing.assert_array_equal(mask, kept)


def test_images_are_freed_without_the_collector_of_cycles() -> None:
    """Or the memory of a long evaluation grows until it happens to run."""
    truth, judged = scene(5, (40, 50))
    images = [Grey(judged), Grey(255 - judged)]
    facts = Facts(Grey(truth), images[0])
    gc.disable()
    try:
        score(images, facts.truth or images[0], facts)
        MEASURES["grey correlation"].function(facts.truth or images[0], facts)
        alive = [weakref.ref(image) for image in images]
        del images, facts
        assert [reference() for reference in alive] == [None, None]
    finally:
        gc.enable()
