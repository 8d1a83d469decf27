"""Decomposition of pictures: exact parts, a network that no gain deceives, loss and stage."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from training_pieces import draws, make_objective, ready_to_train, unscaled_model
from v2ir.errors import ModelError
from v2ir.model import load_model
from v2ir.model.decomposition import Decomposition, DecompositionNetwork
from v2ir.training import Recipe, Stage, TrainSettings, train
from v2ir.training.objectives import FOR_AUTOENCODERS
from v2ir.training.objectives.decomposition import decomposition_errors, total_variation
from v2ir.training.objectives.thermal import COMPARISONS
from v2ir.training.recipes import RECIPES
from v2ir.training.recipes.thermal import THERMAL_ROWS
from v2ir.training.team import on_device


def pictures(number=2, height=16, width=24, seed=0):
    """Return gradients with warm rectangles and grain, (N, 1, H, W) in [0, 1]."""
    rng = np.random.default_rng(seed)
    rows = np.linspace(0.2, 0.5, height)[:, None] * np.ones((1, width))
    made = []
    for _ in range(number):
        picture = rows + rng.normal(0, 0.02, (height, width))
        top, left = rng.integers(0, height - 6), rng.integers(0, width - 6)
        picture[top : top + 6, left : left + 5] = rng.uniform(0.7, 0.95)
        made.append(picture.clip(0, 1))
    return torch.tensor(np.stack(made)[:, None], dtype=torch.float32)


def network(seed=0, patches=2):
    """Return a network whose parts are not yet all alike."""
    torch.manual_seed(seed)
    made = DecompositionNetwork(patches).eval()
    for parameter in made.last.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def parts(emissivity, temperature, mixture):
    return Decomposition(emissivity, temperature, mixture)


# --- exact parts -------------------------------------------------------------------------


def test_a_black_body_is_its_temperature():
    true = pictures()
    even = torch.full((2, 4, 16, 24), 0.25)
    black = parts(torch.ones_like(true), true, even)
    assert torch.equal(black.rebuild(true), true)


def test_a_mirror_shows_the_mean_of_the_patch_that_it_looks_at():
    true = torch.arange(24, dtype=torch.float32).view(1, 1, 4, 6) / 24
    at_third = F.one_hot(torch.full((1, 4, 6), 2), 4).permute(0, 3, 1, 2).float()
    mirror = parts(torch.zeros_like(true), torch.full_like(true, 9.0), at_third)
    lower_left = true[0, 0, 2:, :3].mean()
    torch.testing.assert_close(mirror.rebuild(true), torch.full_like(true, float(lower_left)))


def test_half_of_each_is_half_of_each():
    true = torch.tensor([[[[0.0, 0.4], [0.8, 0.4]]]])
    mixture = torch.tensor([0.5, 0.0, 0.5, 0.0]).view(1, 4, 1, 1).expand(1, 4, 2, 2)
    found = parts(torch.full_like(true, 0.25), torch.full_like(true, 0.6), mixture)
    torch.testing.assert_close(found.environment(true), torch.full_like(true, 0.4))
    torch.testing.assert_close(found.rebuild(true), torch.full_like(true, 0.25 * 0.6 + 0.75 * 0.4))
    assert found.planes.shape == (1, 6, 2, 2)
    assert found.planes[0, :, 0, 0].tolist() == pytest.approx([0.25, 0.6, 0.5, 0.0, 0.5, 0.0])


def test_environments_are_those_of_each_picture_alone():
    true, net = pictures(3), network()
    together = net(true).environment(true)
    alone = [net(true[i : i + 1]).environment(true[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


# --- the network -------------------------------------------------------------------------


@given(
    gain=st.floats(0.05, 1.0), offset=st.floats(0.0, 1.0), seed=st.integers(0, 50),
    height=st.integers(8, 21), width=st.integers(8, 21),
)  # fmt: skip
@settings(max_examples=20)
def test_a_cameras_gain_changes_the_temperature_alone(gain, offset, seed, height, width):
    true, net = pictures(1, height, width, seed), network()
    shown = gain * true + offset * (1 - gain)
    with torch.no_grad():
        found, again = net(true), net(shown)
    torch.testing.assert_close(again.emissivity, found.emissivity, rtol=0, atol=2e-3)
    torch.testing.assert_close(again.mixture, found.mixture, rtol=0, atol=2e-3)
    wanted = gain * found.temperature + offset * (1 - gain)
    torch.testing.assert_close(again.temperature, wanted, rtol=0, atol=2e-3)
    rebuilt = gain * found.rebuild(true) + offset * (1 - gain)
    torch.testing.assert_close(again.rebuild(shown), rebuilt, rtol=0, atol=2e-3)


@pytest.mark.parametrize("patches", [1, 2, 3])
def test_parts_are_in_their_ranges(patches):
    found = network(patches=patches)(pictures())
    assert found.mixture.shape == (2, patches**2, 16, 24)
    torch.testing.assert_close(found.mixture.sum(dim=1), torch.ones(2, 16, 24))
    assert found.emissivity.min() > 0 and found.emissivity.max() < 1
    assert found.emissivity.std() > 0.01, "all alike: the other tests would see nothing"


def test_a_picture_of_one_value_has_finite_parts():
    found = network()(torch.full((1, 1, 16, 16), 0.3, requires_grad=True))
    found.planes.sum().backward()
    assert found.planes.isfinite().all()


def test_it_comes_back_from_its_folder(tmp_path):
    made, true = network(patches=3), pictures()
    made.save(tmp_path / "parts")
    again = DecompositionNetwork.load(tmp_path / "parts")
    assert torch.equal(again(true).planes, made(true).planes) and not again.training
    (tmp_path / "parts" / "config.json").write_text('{"patches": 2, "widths": [16, 24, 32]}')
    with pytest.raises(ModelError, match="do not fit"):
        DecompositionNetwork.load(tmp_path / "parts")


# --- the comparison ----------------------------------------------------------------------


def test_the_true_picture_has_no_error():
    true = 2 * pictures() - 1
    assert decomposition_errors(network(), true, true).tolist() == [0.0, 0.0]
    assert decomposition_errors(network(), true, true, rebuilding=50.0).tolist() == [0.0, 0.0]


def test_errors_have_the_value_of_the_formula():
    net, true, made = network(), pictures(seed=1), pictures(seed=2)
    found, wanted = net(made), net(true)
    unlike = sum(
        (getattr(found, name) - getattr(wanted, name)).square().sum(dim=(1, 2, 3))
        for name in ("emissivity", "temperature", "mixture")
    ) / (6 * 16 * 24)
    left = [
        (told.rebuild(seen) - seen).square().mean(dim=(1, 2, 3))
        for told, seen in ((found, made), (wanted, true))
    ]
    expected = unlike + 3.0 * (left[0] - left[1]).clamp_min(0)
    got = decomposition_errors(net, 2 * made - 1, 2 * true - 1, rebuilding=3.0)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    assert got.min() > 0


def test_a_wrong_heat_costs_more_the_more_it_is_wrong():
    net, true = network(), pictures()
    colder = [
        decomposition_errors(net, 2 * (true * by) - 1, 2 * true - 1) for by in (0.9, 0.7, 0.4)
    ]
    assert (colder[0] < colder[1]).all() and (colder[1] < colder[2]).all()


def test_the_gradient_reaches_the_made_picture_alone():
    net, true = network().requires_grad_(False), 2 * pictures(seed=3) - 1
    made = (2 * pictures(seed=4) - 1).requires_grad_(True)
    decomposition_errors(net, made, true).sum().backward()
    assert made.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in net.parameters())


def test_total_variation_has_its_known_value():
    planes = torch.tensor([[[[0.0, 1.0], [0.0, 0.5]]]])
    assert total_variation(planes).item() == pytest.approx((1 + 0.5) / 2 + (0 + 0.5) / 2)


# --- in training -------------------------------------------------------------------------


@pytest.fixture
def data(make_pairs):
    return ready_to_train(make_pairs(6))


def objective(data, net=None, **changes):
    """Return a denoising objective whose model has a decomposition network, and its scenes."""
    model = dataclasses.replace(unscaled_model(), decomposition=net)
    stage = Stage(**{"name": "s", "steps": 1, "crop": 32, "drop": 0.0, "batch_size": 4, **changes})
    return make_objective(data, model, stage)


VALUES = {"thermal": 50.0, "thermal_loss": "decomposition", "thermal_share": 1.0}


@pytest.mark.parametrize("form", ["published", "corrected"])
def test_a_stage_adds_the_errors_of_its_decoded_estimates(data, form):
    net = network()
    made, scenes = objective(data, net, thermal_form=form, **VALUES)
    plain, _ = objective(data)
    batch = made.batch(scenes[:4], draws(1, 4))
    assert batch.thermal.masks is None and batch.thermal.true.shape == (4, 1, 32, 32)
    schedule = made.schedule
    alpha = schedule.alphas_cumprod[batch.timesteps].sqrt().float().view(-1, 1, 1, 1)
    noisy = schedule.add_noise(batch.clean, batch.noise, batch.timesteps)
    conditions = made.conditions(batch)
    planes = torch.cat([noisy, batch.visible, batch.segmentation], dim=1)
    said = made.model.unet(
        planes, batch.timesteps, encoder_hidden_states=conditions.text, class_labels=batch.styles
    ).sample
    estimate = alpha * noisy - (1 - alpha**2).sqrt() * said
    decoded = made.model.autoencoder.decode(estimate).sample.mean(dim=1, keepdim=True)
    errors = decomposition_errors(net, decoded, batch.thermal.true)
    if form == "corrected":
        errors = errors * alpha.flatten() ** 2
    wanted = plain.loss(dataclasses.replace(batch, thermal=None)) + 50.0 * errors.mean()
    torch.testing.assert_close(made.loss(batch), wanted, rtol=1e-4, atol=1e-5)
    assert errors.mean() > 1e-5


def test_the_network_rests_while_the_denoiser_trains(data):
    net = network()
    made, scenes = objective(data, net, thermal_form="published", **{**VALUES, "thermal": 1e5})
    made.model.unet.requires_grad_(True)
    made.loss(made.batch(scenes[:4], draws(2, 4))).backward()
    assert "decomposition" not in made.modules
    assert all(p.grad is None and not p.requires_grad for p in net.parameters())
    assert made.model.unet.conv_out.weight.grad.norm() > 0


def test_it_looks_at_no_masks(data):
    """A broken mask folder is no obstacle to a loss without masks."""
    made, scenes = objective(data, network(), **VALUES)
    (data / "mask").mkdir()
    (data / "mask" / f"{scenes[0].scene.name}.png").write_bytes(b"no image")
    made.thermal.prepare(scenes)
    batch = made.batch(scenes[:2], draws(3, 2))
    moved = on_device(batch, torch.device("meta"))
    assert moved.thermal.masks is None and moved.thermal.true.device.type == "meta"


def test_a_model_without_the_network_says_so(data):
    with pytest.raises(ModelError, match="objective decomposition"):
        objective(data, None, **VALUES)


def test_every_row_of_the_stage_has_a_comparison():
    names = Stage.model_fields["thermal_loss"].annotation.__args__
    assert set(names) == COMPARISONS.keys()
    with pytest.raises(ValidationError):
        Stage(name="s", steps=1, thermal_loss="entropy")
    assert "decomposition" in FOR_AUTOENCODERS


def test_the_stage_learns_to_rebuild_and_the_next_one_uses_it(data, tmp_path):
    common = {"batch_size": 4, "crop": 32, "checkpoint_every": 30}
    learn = Stage(
        name="parts", objective="decomposition", scenes="infrared", trains=("decomposition",),
        conditions=(), steps=60, learning_rate=5e-3, smoothness=1e-3, average_decay=0.9, **common,
    )  # fmt: skip
    use = Stage(name="use", steps=2, **{**VALUES, **common})
    recipe = Recipe(name="r", architecture="tiny", stages=(learn, use))
    train(recipe, TrainSettings(data_dir=data, run_dir=tmp_path / "run"))
    first = load_model(tmp_path / "run" / "models" / "parts")
    last = load_model(tmp_path / "run" / "models" / "use")
    true = pictures(4, 32, 32, seed=9)

    def left(net):
        return float((net(true).rebuild(true) - true).detach().square().mean())

    torch.manual_seed(0)
    assert left(first.decomposition) < 0.2 * left(DecompositionNetwork().eval())
    for one, other in zip(
        first.decomposition.parameters(), last.decomposition.parameters(), strict=True
    ):
        assert torch.equal(one, other)
    assert not torch.equal(first.unet.conv_in.weight, last.unet.conv_in.weight)


def test_rows_of_a_comparison_draw_alike_and_differ_in_the_loss_alone():
    rows = {name: recipe for name, recipe in RECIPES.items() if name.startswith("tiny-thermal-")}
    assert {name.removeprefix("tiny-thermal-") for name in rows} == THERMAL_ROWS.keys()
    thermal = {name for name in Stage.model_fields if name.startswith("thermal")}
    plain = rows["tiny-thermal-none"]
    assert plain.stages[0].objective == "decomposition" and plain.stages[-1].thermal == 0
    for recipe in rows.values():
        assert recipe.seed == plain.seed and recipe.stages[:-1] == plain.stages[:-1]
        last = recipe.stages[-1].model_dump(exclude=thermal)
        assert last == plain.stages[-1].model_dump(exclude=thermal)
    told = {
        (r.stages[-1].thermal, r.stages[-1].thermal_loss, r.stages[-1].thermal_form)
        for r in rows.values()
    }
    assert len(told) == len(rows)
    assert RECIPES["mini-thermal-mask"].stages[-1].thermal == 50.0
