"""Infrared measures, MS-SSIM and intervals: exact answers, then parity with scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import street
from v2ir.evaluation import MEASURES, SCORES
from v2ir.evaluation.infrared import (
    Facts,
    Grey,
    box_mean,
    edge_agreement,
    grey_correlation,
    histogram_distance,
    hot_contrast,
    hot_regions,
    otsu_threshold,
    rank_correlation,
    recolouring,
    style_distance,
)
from v2ir.evaluation.intervals import bootstrap
from v2ir.evaluation.metrics import Rule, mean_similarities, structural_similarity
from v2ir.evaluation.multiscale import (
    SCALE_WEIGHTS,
    multiscale_similarity,
    similarity_scores,
)
from v2ir.evaluation.protocols.record import SCORE_VERSIONS


def levels(seed: int, shape: tuple[int, int] = (40, 50)) -> Grey:
    return Grey(np.random.default_rng(seed).integers(0, 256, shape).astype(np.float32) / 255)


def figure(warmth: float = 0.9) -> Grey:
    """A cold scene with one warm box of 8x6 px."""
    image = np.full((60, 80), 0.3, np.float32)
    image[20:28, 30:36] = warmth
    return Grey(image)


def test_hot_regions_are_the_warm_box_and_nothing_else() -> None:
    mask = hot_regions(figure())
    assert mask[20:28, 30:36].all()
    assert mask.sum() == 48
    # A warm half of the image is ground, not an object, except where it meets the cold.
    ramp = Grey(np.linspace(0, 1, 80, dtype=np.float32) * np.ones((60, 1), np.float32))
    assert hot_regions(ramp)[:, :30].sum() == 0


def test_hot_and_cold_errors_are_of_their_regions() -> None:
    facts = Facts(truth=figure())
    darker = figure().image.copy()
    darker[20:28, 30:36] -= 0.25
    darker[0, 0] += 0.5
    scores = {name: MEASURES[name].function(Grey(darker), facts) for name in MEASURES}
    assert scores["hot error"] == pytest.approx(0.25, abs=1e-6)
    assert scores["cold error"] == pytest.approx(0.5 / (4800 - 48), abs=1e-7)
    assert math.isnan(MEASURES["hot error"].function(figure(), Facts(truth=figure(0.3))))


@pytest.mark.parametrize(("warmth", "expected"), [(0.9, 1.0), (0.6, 0.5), (0.3, 0.0), (0.0, -0.5)])
def test_hot_contrast_tells_vanished_and_inverted_objects(warmth: float, expected: float) -> None:
    assert hot_contrast(figure(warmth), Facts(truth=figure())) == pytest.approx(expected, abs=1e-5)


def test_box_mean_by_hand_with_mirrored_borders() -> None:
    values = np.random.default_rng(0).random((30, 41))
    found = box_mean(values, 7)
    assert found[10, 20] == pytest.approx(values[7:14, 17:24].mean())
    mirrored = np.pad(values, 3, mode="symmetric")
    assert found[0, 40] == pytest.approx(mirrored[:7, 40:47].mean())


def test_shared_scores_equal_those_of_their_own_functions() -> None:
    for shape in ((190, 200), (60, 70)):
        prediction, truth = textured(5, shape)
        found = similarity_scores(prediction, truth)
        assert found[0] == structural_similarity(prediction, truth)
        np.testing.assert_equal(found[1], multiscale_similarity(prediction, truth))


@given(st.integers(0, 2**31), st.integers(2, 256))
def test_otsu_equals_scikit_image(seed: int, spread: int) -> None:
    from skimage.filters import threshold_otsu

    pixels = np.random.default_rng(seed).integers(0, spread, (20, 20)).astype(np.uint8)
    histogram = np.bincount(pixels.ravel(), minlength=256)
    found = otsu_threshold(histogram)
    expected = int(threshold_otsu(hist=(histogram, np.arange(256))))
    # Equal variances on a plateau of empty levels divide the pixels alike.
    np.testing.assert_array_equal(pixels > found, pixels > expected)


@given(st.integers(0, 2**31), st.integers(2, 256))
def test_rank_correlation_equals_scipy_with_ties(seed: int, spread: int) -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(seed)
    first, second = (rng.integers(0, spread, (12, 15)) / 255 for _ in range(2))
    found = rank_correlation(Grey(first), Facts(truth=Grey(second)))
    assert found == pytest.approx(spearmanr(first.ravel(), second.ravel())[0], abs=1e-9)


def test_rank_correlation_is_blind_to_tone_curves_and_sees_inversion() -> None:
    truth = levels(1)
    facts = Facts(truth=truth)
    assert rank_correlation(Grey(np.round(truth.image * 255 / 3) * 3 / 255), facts) > 0.99
    assert rank_correlation(truth, facts) == pytest.approx(1)
    assert rank_correlation(Grey(1 - truth.image), facts) == pytest.approx(-1)
    assert math.isnan(rank_correlation(Grey(np.full((40, 50), 0.5)), facts))


def test_grey_correlation_and_recolouring_unmask_recoloured_photographs() -> None:
    visible = levels(2)
    facts = Facts(visible=visible)
    curve = np.random.default_rng(3).integers(0, 256, 256)  # any tone curve, not monotone
    recoloured = Grey(curve[visible.levels] / 255)
    for image, correlation in ((visible, 1.0), (Grey(1 - visible.image), -1.0)):
        assert grey_correlation(image, facts) == pytest.approx(correlation)
        assert recolouring(image, facts) == pytest.approx(1)
    assert recolouring(recoloured, facts) == pytest.approx(1)
    expected = np.corrcoef(recoloured.levels.ravel(), visible.levels.ravel())[0, 1]
    assert grey_correlation(recoloured, facts) == pytest.approx(expected, abs=1e-9)
    # Two constant halves against a photograph of two flat halves across: nothing explained.
    across, down = np.zeros((8, 8)), np.zeros((8, 8))
    across[:, 4:], down[4:] = 1, 1
    assert recolouring(Grey(down), Facts(visible=Grey(across))) == pytest.approx(0)


def test_edge_agreement_is_one_for_recoloured_photographs_only() -> None:
    visible, infrared = (Grey(x.mean(-1) / 255 if x.ndim == 3 else x / 255) for x in street(0))
    facts = Facts(visible=visible)
    assert edge_agreement(Grey(1 - 0.5 * visible.image), facts) == pytest.approx(1, abs=1e-4)
    assert edge_agreement(infrared, facts) < 0.95


@given(st.integers(0, 2**31))
def test_histogram_distance_equals_scipy(seed: int) -> None:
    from scipy.stats import wasserstein_distance

    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 50, 256) + 1, rng.integers(0, 9, 256) + 1
    grid = np.arange(256)
    expected = wasserstein_distance(grid, grid, first, second)
    assert histogram_distance(first, second) == pytest.approx(expected, rel=1e-9)


def test_style_distance_of_a_brighter_image_is_its_shift_in_grey_levels() -> None:
    image = np.random.default_rng(4).integers(0, 200, (30, 30))
    histogram = tuple(np.bincount(image.ravel(), minlength=256).tolist())
    facts = Facts(histogram=histogram)
    assert style_distance(Grey(image / 255), facts) == pytest.approx(0, abs=1e-9)
    assert style_distance(Grey((image + 20) / 255), facts) == pytest.approx(20, abs=1e-9)


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_is_undefined_without_its_facts(name: str) -> None:
    assert math.isnan(MEASURES[name].function(levels(5), Facts()))


def test_near_the_truth_is_good_where_the_rule_says_so() -> None:
    rule = Rule("nearest truth", "x", 2)
    assert rule.badness(0.5, 0.4) < rule.badness(0.1, 0.4) < rule.badness(math.nan, 0.4)
    assert rule.badness(0.5) == math.inf


def test_every_score_has_a_version_in_the_protocols() -> None:
    assert SCORE_VERSIONS.keys() == SCORES.keys()


# Multi-scale similarity


def textured(seed: int, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.linspace(0.1, 0.8, shape[1]) * np.ones((shape[0], 1))
    truth[40:120, 60:100] += 0.15
    return (truth + rng.normal(0, 0.1, shape)).clip(0, 1), truth


@pytest.mark.parametrize("shape", [(176, 176), (192, 256), (352, 208)])
def test_multiscale_similarity_equals_pytorch_msssim(shape: tuple[int, int]) -> None:
    """Sides are multiples of 16: the reference pads odd ones with zeros, which are no image."""
    oracle = pytest.importorskip("pytorch_msssim")
    import torch

    prediction, truth = textured(0, shape)
    tensors = [torch.from_numpy(x)[None, None] for x in (prediction, truth)]
    # Its own window is float32, which shows in the sixth digit.
    window = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window /= window.sum()
    exact = torch.from_numpy(window)[None, None, None]
    expected = float(oracle.ms_ssim(*tensors, data_range=1.0, win=exact))
    assert multiscale_similarity(prediction, truth) == pytest.approx(expected, abs=1e-7)
    rounded = float(oracle.ms_ssim(*tensors, data_range=1.0))
    assert multiscale_similarity(prediction, truth) == pytest.approx(rounded, abs=1e-5)


def test_multiscale_similarity_of_two_constants_is_the_coarsest_brightness_term() -> None:
    """Flat images have contrast term 1 at every scale; only the last sees the brightness."""
    first, second = np.full((180, 200), 0.2), np.full((180, 200), 0.7)
    brightness = (2 * 0.2 * 0.7 + 1e-4) / (0.2**2 + 0.7**2 + 1e-4)
    expected = brightness ** SCALE_WEIGHTS[-1]
    assert multiscale_similarity(first, second) == pytest.approx(expected, abs=1e-9)
    assert mean_similarities(first, second)[1] == pytest.approx(1, abs=1e-9)


def test_multiscale_similarity_needs_large_images_and_never_falls_below_zero() -> None:
    assert math.isnan(multiscale_similarity(np.zeros((175, 400)), np.zeros((175, 400))))
    _, truth = textured(1, (176, 180))
    noise = np.random.default_rng(2).random(truth.shape)
    assert multiscale_similarity(noise, 1 - noise) == 0.0


# Intervals


def test_intervals_hold_the_mean_and_shrink_with_the_number() -> None:
    rng = np.random.default_rng(0)
    values = {str(i): float(v) for i, v in enumerate(rng.normal(5, 1, 400))}
    few = dict(list(values.items())[:25])
    wide, narrow = (bootstrap(v, {}, np.random.default_rng(1)) for v in (few, values))
    for interval, number in ((wide, 25), (narrow, 400)):
        assert interval.low < interval.mean < interval.high
        # The normal interval is 1.96 sigma / sqrt(n) on each side.
        half = (interval.high - interval.low) / 2
        assert half == pytest.approx(1.96 / math.sqrt(number), rel=0.25)


def test_intervals_know_that_images_of_one_group_are_one_sample() -> None:
    values = {f"{g}_{i}": float(g) for g in range(10) for i in range(20)}
    groups = {name: name.split("_")[0] for name in values}
    alone = bootstrap(values, {}, np.random.default_rng(0))
    together = bootstrap(values, groups, np.random.default_rng(0))
    assert alone.mean == together.mean == pytest.approx(4.5)
    widths = [i.high - i.low for i in (alone, together)]
    assert widths[1] == pytest.approx(widths[0] * math.sqrt(20), rel=0.25)


def test_intervals_of_what_has_none() -> None:
    rng = np.random.default_rng(0)
    assert math.isnan(bootstrap({}, {}, rng).mean)
    assert math.isnan(bootstrap({"a": math.nan}, {}, rng).mean)
    assert math.isnan(bootstrap({"a": 1.0}, {}, rng).low)
    infinite = bootstrap({"a": math.inf, "b": 1.0}, {}, rng)
    assert (infinite.mean, math.isnan(infinite.low)) == (math.inf, True)
    assert bootstrap({"a": 1.0, "b": math.nan, "c": 3.0}, {}, rng).mean == 2.0
