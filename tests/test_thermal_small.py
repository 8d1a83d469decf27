"""Small hot targets in the autoencoder's loss: what counts as one, and that they come back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from v2ir.evaluation.targets import report_reconstructions
from v2ir.model import architecture, build_model
from v2ir.training import Stage
from v2ir.training.objectives import OBJECTIVES
from v2ir.training.objectives.pixels import small_hot_error, small_hot_mask


def sky(*spots: tuple[int, int, int, int, float]) -> torch.Tensor:
    """Return a sky of -0.4 with rectangles (top, left, height, width, value), (1, 1, 48, 64)."""
    picture = torch.full((1, 1, 48, 64), -0.4)
    for top, left, height, width, value in spots:
        picture[..., top : top + height, left : left + width] = value
    return picture


@pytest.mark.parametrize(
    ("spot", "heat"),
    [
        ((20, 20, 3, 4, 0.8), 1.0),  # small, and 0.6 of the range hot
        ((20, 20, 8, 8, 0.8), 1.0),
        ((20, 20, 9, 9, 0.8), 0.0),  # a body
        ((20, 20, 3, 4, -0.1), 0.5),  # 0.15 of the range: half way
        ((20, 20, 3, 4, -0.25), 0.0),  # grain
        ((20, 20, 3, 4, -0.9), 0.0),  # cold
    ],
)
def test_what_is_small_and_hot(spot, heat):
    mask = small_hot_mask(sky(spot))
    top, left, height, width, _ = spot
    inside = mask[..., top : top + height, left : left + width]
    torch.testing.assert_close(inside, torch.full_like(inside, heat), atol=1e-5, rtol=0)
    assert mask.sum() == pytest.approx(heat * height * width, abs=1e-3)


def test_brightness_and_gradients_are_not_targets():
    ramp = torch.linspace(-1, 1, 64).expand(1, 1, 48, 64)
    assert small_hot_mask(ramp)[..., 8:-8].max() == 0
    step = sky((0, 0, 48, 30, 0.9))
    assert small_hot_mask(step).max() == 0


def test_the_error_has_its_known_value():
    true = torch.cat([sky((20, 20, 3, 4, 0.8)), sky()])
    made = true - 0.25
    assert small_hot_error(made, true).item() == pytest.approx(0.25 * 12 / (12 + 16))
    assert small_hot_error(true, true).item() == 0
    assert small_hot_error(made[1:], true[1:]).item() == 0
    elsewhere = true.clone()
    elsewhere[..., :10, :] += 0.5
    assert small_hot_error(elsewhere, true).item() == 0


def objective(name, kind, **changes):
    model = build_model(architecture(kind), name="x", seed=3)
    stage = Stage(name="s", objective=name, steps=1, crop=32, trains=("autoencoder",), **changes)
    made = OBJECTIVES[name](model, stage, None)
    model.autoencoder.requires_grad_(True)
    return made


def spots(number, seed):
    """Return dim grainy grounds with small hot targets, (N, 3, 32, 32) in [-1, 1]."""
    rng = np.random.default_rng(seed)
    made = rng.normal(-0.5, 0.03, (number, 1, 32, 32)).astype(np.float32)
    for picture in made:
        for _ in range(2):
            top, left = rng.integers(3, 26, 2)
            picture[0, top : top + 3, left : left + 3] = 0.8
    return torch.from_numpy(made).expand(-1, 3, -1, -1)


@pytest.mark.parametrize(
    ("name", "kind"), [("reconstruction", "tiny"), ("infrared_autoencoder", "txt2ir-tiny")]
)
def test_the_loss_is_the_sum(name, kind):
    images = spots(2, 0)
    channels, side = (4, 4) if kind == "tiny" else (4, 8)
    noise = torch.zeros(2, channels, side, side)
    with torch.no_grad():
        plain, more, most = (
            objective(name, kind, hot_small=weight).loss((images, noise)) for weight in (0, 1, 3)
        )
    assert more > plain + 1e-3
    torch.testing.assert_close(most - plain, 3 * (more - plain), rtol=1e-4, atol=1e-5)


def test_targets_come_back_higher_with_the_weight_than_without():
    """The same autoencoder, pictures and steps: only the weight differs."""

    def survival(weight):
        made = objective("reconstruction", "tiny", hot_small=weight)
        optimizer = torch.optim.AdamW(made.model.autoencoder.parameters(), lr=4e-3)
        for step in range(15):
            optimizer.zero_grad()
            made.loss((spots(4, step), torch.zeros(4, 4, 4, 4))).backward()
            optimizer.step()
        true = spots(4, 999)
        with torch.no_grad():
            latents = made.model.autoencoder.encode(true).latent
            again = made.model.autoencoder.decode(latents).sample
        pairs = [
            ((a.mean(0).numpy() + 1) / 2, (b[0].numpy() + 1) / 2)
            for a, b in zip(again, true, strict=True)
        ]
        report = report_reconstructions(pairs)
        assert report.targets >= 4
        return report.survival

    assert survival(2.0) > survival(0.0) + 0.3


def test_other_objectives_refuse_the_weight():
    for name in ("denoising", "end_to_end", "decomposition"):
        with pytest.raises(ValidationError, match="hot_small is for"):
            Stage(name="s", steps=1, objective=name, hot_small=1.0)
