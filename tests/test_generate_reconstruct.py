"""What an autoencoder leaves of an infrared image: small hot targets, and the verb's option."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from conftest import street
from training_pieces import tiny_text_model
from v2ir import cli
from v2ir.evaluation.metrics import peak_signal_to_noise
from v2ir.evaluation.targets import peak_survival, report_reconstructions, small_targets
from v2ir.images import to_tensor
from v2ir.sampling.reconstruct import reconstruct


def sky(*spots: tuple[int, int, int, int, float]) -> np.ndarray:
    """Return a quiet sky of 0.3 with rectangles (top, left, height, width, value)."""
    image = np.full((96, 128), 0.3)
    for top, left, height, width, value in spots:
        image[top : top + height, left : left + width] = value
    return image


def test_small_hot_targets_are_found_and_others_are_not():
    image = sky(
        (20, 20, 3, 4, 0.9),  # small and hot
        (60, 30, 7, 7, 0.8),  # just small enough
        (60, 70, 8, 3, 0.9),  # too tall
        (20, 60, 4, 4, 0.35),  # not hot
        (20, 90, 4, 4, 0.05),  # cold
        (0, 110, 3, 3, 0.9),  # cut by the border
    )
    found = small_targets(image)
    boxes = [(t.rows.start, t.columns.start, t.rows.stop, t.columns.stop) for t in found]
    assert boxes == [(20, 20, 23, 24), (60, 30, 67, 37)]
    assert [t.peak for t in found] == [0.9, 0.8]
    assert all(t.background == pytest.approx(0.3) for t in found)


@given(st.floats(-0.5, 1.5, allow_subnormal=False), st.integers(10, 80), st.integers(10, 100))
def test_survival_is_the_share_of_the_height(share, top, left):
    true, made = sky((top, left, 3, 3, 0.9)), sky((top, left, 3, 3, 0.3 + 0.6 * share))
    (target,) = small_targets(true)
    # Below its surroundings, their own value is the largest nearby.
    assert peak_survival(made, target) == pytest.approx(max(share, 0.0), abs=1e-9)


def test_the_report_counts_what_it_should():
    true = sky((20, 20, 3, 3, 0.9), (60, 60, 3, 3, 0.9))
    made = sky((20, 20, 3, 3, 0.9), (60, 60, 3, 3, 0.36))
    report = report_reconstructions([(made, true), (sky(), sky())])
    assert (report.images, report.targets, report.kept) == (2, 2, 0.5)
    assert report.survival == pytest.approx((1.0 + 0.1) / 2)
    assert report.psnr == np.inf and report.ssim == pytest.approx(1.0, abs=0.02)
    one = report_reconstructions([(made, true)])
    assert one.psnr == pytest.approx(peak_signal_to_noise(made, true))
    empty = report_reconstructions([(sky(), sky())])
    assert empty.targets == 0 and np.isnan(empty.survival) and np.isnan(empty.kept)


@pytest.fixture(scope="module")
def model():
    return tiny_text_model()


def test_reconstruct_is_encoding_and_decoding(model):
    image = street(3, 64, 48)[1].astype(np.float32) / 255
    with torch.no_grad():
        latent = model.autoencoder.encode(to_tensor(image)[None, :1]).latent_dist.mode()
        decoded = model.autoencoder.decode(latent).sample[0, 0].numpy()
    expected = ((decoded + 1) / 2).clip(0, 1)
    np.testing.assert_allclose(reconstruct(model, image), expected, atol=1e-5)
    assert reconstruct(model, image[:41, :53]).shape == (41, 53)


def v2ir(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["v2ir", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


def test_the_verb_measures_and_lists_failures(model, tmp_path: Path, monkeypatch, capsys):
    model.save(tmp_path / "model")
    capsys.readouterr()
    folder = tmp_path / "ir"
    folder.mkdir()
    arguments = ["models", tmp_path / "model", "--reconstruct", folder, "--device", "cpu"]
    assert v2ir(monkeypatch, *arguments) == 2
    assert "holds no images" in capsys.readouterr().err
    spot = sky((20, 20, 3, 3, 0.9))
    Image.fromarray((spot * 255).astype(np.uint8)).save(folder / "a.png")
    assert v2ir(monkeypatch, *arguments) == 0
    out = " ".join(capsys.readouterr().out.split())
    expected = reconstruct(model, np.floor(spot * 255).astype(np.float32) / 255)
    assert "images 1 " in out and "hot targets under 8 px 1 " in out
    noise = peak_signal_to_noise(expected, np.floor(spot * 255) / 255)
    assert f"PSNR {noise:.2f} dB" in out
    (folder / "b.png").write_text("no image")
    Image.fromarray(np.zeros((5, 40), np.uint8)).save(folder / "c.png")
    assert v2ir(monkeypatch, *arguments) == 1
    captured = capsys.readouterr()
    assert "b.png" in captured.err and "c.png" in captured.err and "PSNR" in captured.out
