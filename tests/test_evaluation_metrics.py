"""Metrics and baselines: exact answers, then parity with scikit-image."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from v2ir.errors import DataError, InputError
from v2ir.evaluation import BASELINES, METRICS
from v2ir.evaluation.baselines import match_histogram
from v2ir.evaluation.metrics import (
    contrast_ratio,
    correlation,
    mean_absolute_error,
    peak_signal_to_noise,
    sharpness_ratio,
    structural_similarity,
)
from v2ir.evaluation.statistics import TrainingStatistics
from v2ir.images import read_infrared, to_uint8

REPOSITORY = Path(__file__).resolve().parents[1]
PAIRS = Path(os.environ.get("V2IR_DATA", REPOSITORY.parent / "shared" / "data")) / "pairs"
needs_data = pytest.mark.skipif(
    not (PAIRS / "ir").is_dir(), reason="the real pairs are absent; set V2IR_DATA to their folder"
)
LARGE = (190, 181)
small_images = arrays.arrays(
    np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, min_side=11, max_side=40)
)


def texture(seed: int, shape: tuple[int, int] = (61, 47)) -> np.ndarray:
    """Return a ramp with a bright box and noise; HW float32 in [0, 1]."""
    rng = np.random.default_rng(seed)
    image = np.linspace(0.1, 0.6, shape[1]) * np.ones((shape[0], 1))
    image[10:30, 12:25] += 0.3
    noisy = (image + rng.normal(0, 0.05, shape)).clip(0, 1)
    return (noisy * 255).round().astype(np.float32) / np.float32(255)


def oracle_ssim(prediction: np.ndarray, truth: np.ndarray) -> float:
    from skimage.metrics import structural_similarity as reference

    return float(
        reference(
            truth.astype(np.float64),
            prediction.astype(np.float64),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
        )
    )


@pytest.mark.parametrize("offset", [0.1, -0.25, 0.5])
def test_psnr_and_mae_of_a_constant_offset(offset: float) -> None:
    truth = np.full((20, 30), 0.5)
    assert peak_signal_to_noise(truth + offset, truth) == pytest.approx(
        -20 * math.log10(abs(offset)), abs=1e-9
    )
    assert mean_absolute_error(truth + offset, truth) == pytest.approx(abs(offset), abs=1e-12)


def test_ssim_of_two_constants_is_its_brightness_term() -> None:
    expected = (2 * 0.2 * 0.7 + 1e-4) / (0.2**2 + 0.7**2 + 1e-4)
    found = structural_similarity(np.full((16, 16), 0.2), np.full((16, 16), 0.7))
    assert found == pytest.approx(expected, abs=1e-12)


def test_identical_images_have_the_best_value_of_every_metric() -> None:
    image = texture(0, LARGE)
    expected = {"psnr": math.inf, "mae": 0.0}
    for name, metric in METRICS.items():
        assert metric.function(image, image) == pytest.approx(expected.get(name, 1.0)), name


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_prefers_the_truth_to_a_ruin(name: str) -> None:
    truth, metric = texture(1, LARGE), METRICS[name]
    ruin = (1 - truth) * np.float32(0.3)
    good, bad = metric.function(truth, truth), metric.function(ruin, truth)
    assert metric.badness(good) < metric.badness(bad) < metric.badness(math.nan)


@pytest.mark.parametrize(
    "shape",
    # The wide ones are filtered by fewer rows at a time.
    [(11, 11), (12, 200), (61, 47), (97, 33), (43, 44), (30, 2000), (15, 5000), (12, 11000)],
)
def test_ssim_equals_scikit_image_on_random_images(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(shape))
    truth = rng.random(shape, dtype=np.float32)
    prediction = np.clip(truth + rng.normal(0, 0.2, shape), 0, 1).astype(np.float32)
    found = structural_similarity(prediction, truth)
    assert found == pytest.approx(oracle_ssim(prediction, truth), abs=1e-9)


@given(small_images, st.integers(0, 2**32 - 1))
def test_ssim_and_psnr_equal_scikit_image_on_any_bytes(truth: np.ndarray, seed: int) -> None:
    from skimage.metrics import peak_signal_noise_ratio

    first = truth / 255
    second = np.random.default_rng(seed).integers(0, 256, truth.shape) / 255
    assert structural_similarity(second, first) == pytest.approx(
        oracle_ssim(second, first), abs=1e-9
    )
    assert peak_signal_to_noise(second, first) == pytest.approx(
        peak_signal_noise_ratio(first, second, data_range=1), abs=1e-9
    )


@needs_data
@pytest.mark.parametrize("source", ["llvip", "msrs", "metu_vistir", "roadscene"])
def test_ssim_equals_scikit_image_on_real_images(source: str) -> None:
    path = min((PAIRS / "ir").glob(f"{source}_*.jpg"))
    truth, photograph = read_infrared(path), read_infrared(PAIRS / "rgb" / path.name)
    found = structural_similarity(photograph, truth)
    assert found == pytest.approx(oracle_ssim(photograph, truth), abs=1e-6)


def test_borders_do_not_count_in_ssim() -> None:
    """One changed corner pixel is seen by the one window that holds it, of all (H-10)(W-10)."""
    truth = np.full((31, 26), 0.5)
    other = truth.copy()
    other[0, 0] = 1.0
    weights = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    corner = (weights[0] / weights.sum()) ** 2
    mean = 0.5 + 0.5 * corner
    variance = 0.25 * corner * (1 - corner)
    value = (2 * mean * 0.5 + 1e-4) / (mean**2 + 0.25 + 1e-4) * 9e-4 / (variance + 9e-4)
    expected = 1 - (1 - value) / (21 * 16)
    assert structural_similarity(other, truth) == pytest.approx(expected, abs=1e-12)


def test_correlation_is_blind_to_brightness_and_contrast_and_sees_inversion() -> None:
    truth = texture(3)
    assert correlation(0.2 + 0.5 * truth, truth) == pytest.approx(1, abs=1e-6)
    assert correlation(1 - truth, truth) == pytest.approx(-1, abs=1e-6)
    other = texture(4)
    assert correlation(other, truth) == pytest.approx(
        np.corrcoef(other.ravel(), truth.ravel())[0, 1], abs=1e-6
    )


def test_ratios_scale_with_the_prediction() -> None:
    truth = texture(5)
    assert contrast_ratio(truth * 0.5 + 0.1, truth) == pytest.approx(0.5, abs=1e-6)
    assert sharpness_ratio(truth * 0.5 + 0.1, truth) == pytest.approx(0.5, abs=1e-5)


def test_a_blurred_image_is_less_sharp_and_a_ramp_has_its_slope() -> None:
    from scipy.ndimage import gaussian_filter

    truth = texture(6)
    assert sharpness_ratio(gaussian_filter(truth, 2), truth) < 0.5
    ramp = np.arange(20) / 40 * np.ones((20, 1))
    assert sharpness_ratio(ramp.T * 0.6 + ramp * 0.8, ramp) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", ["correlation", "sharpness", "contrast"])
def test_what_a_constant_truth_leaves_undefined_is_nan(name: str) -> None:
    assert math.isnan(METRICS[name].function(texture(7), np.full((61, 47), 0.3)))


@pytest.mark.parametrize("name", METRICS)
def test_metrics_refuse_unequal_shapes(name: str) -> None:
    with pytest.raises(InputError, match=r"cannot be compared.*\(20, 21\)"):
        METRICS[name].function(np.zeros((20, 20)), np.zeros((20, 21)))


def test_ssim_refuses_images_below_its_window() -> None:
    with pytest.raises(InputError, match=r"30x10 px"):
        structural_similarity(np.zeros((10, 30)), np.zeros((10, 30)))


# Baselines


def statistics_of(levels: np.ndarray) -> TrainingStatistics:
    return TrainingStatistics(1, tuple(np.bincount(levels.ravel(), minlength=256).tolist()))


TWO_LEVELS = statistics_of(np.array([51] * 3 + [255]))


def photograph(levels: list[list[int]]) -> np.ndarray:
    return np.repeat(np.array(levels, dtype=np.uint8)[..., None], 3, axis=2)


def test_training_mean_is_over_pixels_and_not_rounded() -> None:
    assert TWO_LEVELS.mean == pytest.approx((3 * 51 + 255) / 4 / 255)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("grey", [[0, 100], [200, 255]]),
        ("inverted grey", [[255, 155], [55, 0]]),
        ("matched grey", [[51, 51], [51, 255]]),
        ("inverted matched grey", [[255, 51], [51, 51]]),
        ("constant", [[102, 102], [102, 102]]),
    ],
)
def test_baselines_exactly(name: str, expected: list[list[int]]) -> None:
    image = BASELINES[name](photograph([[0, 100], [200, 255]]), TWO_LEVELS)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image * 255, expected, atol=1e-4)


def test_grey_weighs_the_colours_as_luma() -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8)
    np.testing.assert_array_equal(
        BASELINES["grey"](colours, TWO_LEVELS).round(3), np.float32([[0.298, 0.588, 0.114]])
    )


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_keeps_size_and_range(name: str) -> None:
    levels = (texture(8, (21, 33)) * 255).astype(np.uint8)
    visible = np.stack([levels, levels // 2, 255 - levels], axis=2)
    image = BASELINES[name](visible, statistics_of(levels // 3))
    assert image.shape == (21, 33)
    assert image.dtype == np.float32
    assert 0 <= image.min() <= image.max() <= 1


@given(small_images, arrays.arrays(np.uint8, 50))
def test_matching_keeps_the_order_and_reaches_the_histogram(
    levels: np.ndarray, target: np.ndarray
) -> None:
    histogram = np.bincount(target, minlength=256)
    matched = match_histogram(levels, tuple(histogram.tolist()))
    by_level = matched.ravel()[np.argsort(levels, axis=None, kind="stable")]
    assert (np.diff(by_level.astype(int)) >= 0).all()
    shares = np.bincount(matched.ravel(), minlength=256).cumsum() / matched.size
    assert np.abs(shares - histogram.cumsum() / target.size).max() <= 0.5 / matched.size + 1e-9


@given(small_images)
def test_matching_an_image_to_itself_changes_nothing(levels: np.ndarray) -> None:
    histogram = np.bincount(levels.ravel(), minlength=256)
    np.testing.assert_array_equal(match_histogram(levels, tuple(histogram.tolist())), levels)


def test_empty_statistics_are_refused() -> None:
    with pytest.raises(DataError, match="empty"):
        TrainingStatistics(0, (0,) * 256)


@needs_data
@pytest.mark.parametrize(
    ("source", "psnr", "ssim"),
    [
        ("roadscene", 12.95, 0.442),
        ("msrs", 23.5, 0.672),
        ("llvip", 12.6, 0.572),
        ("metu_vistir", 12.7, 0.50),
    ],
)
def test_the_constant_image_scores_as_known_on_real_pairs(
    source: str, psnr: float, ssim: float
) -> None:
    with (PAIRS / "scenes.csv").open(encoding="utf-8") as stream:
        scenes = [row for row in csv.DictReader(stream) if row["source"] == source]
    levels = {
        row["name"]: to_uint8(read_infrared(PAIRS / "ir" / f"{row['name']}.jpg")) for row in scenes
    }
    counts = sum(
        np.bincount(levels[row["name"]].ravel(), minlength=256)
        for row in scenes
        if row["split"] == "train"
    )
    training = TrainingStatistics(len(scenes), tuple(counts.tolist()))
    scores = []
    for row in scenes:
        if (row["split"], row["alignment"]) == ("test", "strict"):
            truth = levels[row["name"]] / 255
            flat = BASELINES["constant"](np.zeros((*truth.shape, 3), np.uint8), training)
            scores.append((peak_signal_to_noise(flat, truth), structural_similarity(flat, truth)))
    mean = np.mean(scores, axis=0)
    assert mean[0] == pytest.approx(psnr, abs=0.05)
    assert mean[1] == pytest.approx(ssim, abs=0.0006)
