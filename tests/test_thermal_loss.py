"""The thermal-mask loss: exact values, the published and the corrected form, what it trains."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import ValidationError

from training_pieces import draws, make_objective, ready_to_train, unscaled_model
from v2ir.annotation import OtsuMasker, make_masks, read_thermal_mask
from v2ir.errors import DataError
from v2ir.images import read_infrared
from v2ir.training import Stage
from v2ir.training.objectives.thermal import ThermalTargets, thermal_errors


@pytest.fixture
def data(make_pairs):
    return ready_to_train(make_pairs(6))


def objective(data, **changes):
    """Return an objective whose latents are the picture's means over 8 px, and its scenes."""
    values = {"objective": "denoising", "crop": 32, "variants": 4, "batch_size": 4, "drop": 0.0}
    stage = Stage(**{"name": "s", "steps": 1, **values, **changes})
    return make_objective(data, unscaled_model(), stage)


def by_hand(made, batch):
    """Return the loss of noise and w * mean(|y - decode(z0)| * M) of each drawn sample."""
    alpha = made.schedule.alphas_cumprod[batch.timesteps].sqrt().float().view(-1, 1, 1, 1)
    sigma = (1 - alpha**2).sqrt()
    noisy = alpha * batch.clean + sigma * batch.noise
    conditions = made.conditions(batch)
    planes = torch.cat([noisy, batch.visible, batch.segmentation], dim=1)
    said = made.model.unet(
        planes, batch.timesteps, encoder_hidden_states=conditions.text, class_labels=batch.styles
    ).sample
    kind = made.schedule.prediction_type
    assert kind == "v_prediction"
    denoising = ((said - (alpha * batch.noise - sigma * batch.clean)) ** 2).mean()
    estimate = alpha * noisy - sigma * said
    terms = []
    for row, place in enumerate(batch.thermal.places.tolist()):
        latent = made.model.unscale_latents(estimate[place][None])
        picture = made.model.autoencoder.decode(latent).sample.mean(dim=1)[0]
        mask = batch.thermal.masks[row, 0]
        weights = 5.0 * mask + 0.5 * (1 - mask)
        terms.append(((batch.thermal.true[row, 0] - picture).abs() * weights).mean())
    return denoising, terms, alpha.flatten() ** 2


def test_errors_have_their_known_value():
    true = torch.tensor([[[[1.0, -1.0], [0.0, 0.5]]]])
    made = torch.tensor([[[[0.0, -1.0], [0.5, 0.5]]]])
    masks = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
    assert thermal_errors(made, true, masks).tolist() == [pytest.approx((5 * 1 + 0.5 * 0.5) / 4)]
    soft = torch.full_like(masks, 0.5)
    assert thermal_errors(made, true, soft).tolist() == [pytest.approx(2.75 * 1.5 / 4)]
    assert thermal_errors(made, true, masks, hot=1.0, cold=1.0).item() == pytest.approx(1.5 / 4)


def test_errors_are_those_of_each_picture_alone():
    generator = torch.Generator().manual_seed(0)
    made, true, masks = (torch.rand((3, 1, 5, 7), generator=generator) for _ in range(3))
    together = thermal_errors(made, true, masks)
    alone = [thermal_errors(made[i : i + 1], true[i : i + 1], masks[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_the_published_form_is_the_formula(data):
    made, scenes = objective(data, thermal=50.0, thermal_form="published", thermal_share=1.0)
    batch = made.batch(scenes[:4], draws(1)[:4])
    denoising, terms, _ = by_hand(made, batch)
    assert len(terms) == 4
    wanted = denoising + 50.0 * torch.stack(terms).mean()
    torch.testing.assert_close(made.loss(batch), wanted, rtol=1e-4, atol=1e-5)


def test_the_corrected_form_weighs_by_the_share_of_the_signal(data):
    made, scenes = objective(data, thermal=20.0, thermal_share=1.0)
    assert made.stage.thermal_form == "corrected"
    batch = made.batch(scenes[:4], draws(2)[:4])
    denoising, terms, signal = by_hand(made, batch)
    wanted = denoising + 20.0 * (torch.stack(terms) * signal).mean()
    torch.testing.assert_close(made.loss(batch), wanted, rtol=1e-4, atol=1e-5)
    batch.timesteps[:] = made.schedule.num_timesteps - 1  # Pure noise: nothing to say of heat.
    assert made.schedule.alphas_cumprod[-1] == pytest.approx(0, abs=1e-6)
    plain = by_hand(made, batch)[0]
    torch.testing.assert_close(made.loss(batch), plain, rtol=1e-4, atol=1e-5)


def test_a_subset_is_decoded_and_its_mean_is_that_of_all(data):
    made, scenes = objective(data, thermal=50.0, thermal_form="published", thermal_share=0.5)
    batch = made.batch(scenes[:6], draws(3))
    assert 0 < len(batch.thermal.places) < 6, "take another seed"
    denoising, terms, _ = by_hand(made, batch)
    wanted = denoising + 50.0 * torch.stack(terms).sum() / (0.5 * 6)
    torch.testing.assert_close(made.loss(batch), wanted, rtol=1e-4, atol=1e-5)
    drawn = [len(made.batch(scenes, draws(seed)).thermal.places) for seed in range(20)]
    assert 2.2 < np.mean(drawn) < 3.8  # Of 120 samples, half; five standard deviations are 27.


def test_the_subset_is_a_samples_own_draw(data):
    """Whether a sample is decoded depends neither on its batch nor does it move other draws."""
    made, scenes = objective(data, thermal=50.0, thermal_share=0.5)
    whole = made.batch(scenes, draws(4))
    for place in range(6):
        alone = made.batch(scenes[place : place + 1], draws(4)[place : place + 1])
        assert (place in whole.thermal.places.tolist()) == bool(len(alone.thermal.places))
    plain = objective(data)[0].batch(scenes, draws(4))
    assert plain.thermal is None
    for name in ("clean", "noise", "timesteps", "visible"):
        assert torch.equal(getattr(plain, name), getattr(whole, name)), name


def test_without_a_drawn_sample_the_loss_is_that_of_the_noise(data):
    made, scenes = objective(data, thermal=50.0, thermal_share=1e-9)
    batch = made.batch(scenes[:4], draws(5)[:4])
    assert len(batch.thermal.places) == 0 and batch.thermal.true.shape == (0, 1, 32, 32)
    plain, _ = objective(data)
    assert torch.equal(made.loss(batch), plain.loss(batch))


def test_pictures_and_masks_lie_on_their_latents(data):
    made, scenes = objective(data, thermal=1.0, thermal_share=1.0, scales=(1.0, 2.0), jitter=0.5)
    for item in scenes:  # A mask that is the picture itself must stay so in every window.
        (data / "mask").mkdir(exist_ok=True)
        pixels = (read_infrared(data / item.scene.infrared) * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(data / "mask" / f"{item.scene.name}.png")
    batch = made.batch(scenes, draws(6))
    found = batch.thermal
    pooled = F.avg_pool2d(found.true, 8).repeat(1, 4, 1, 1)
    torch.testing.assert_close(pooled, batch.clean, atol=2e-3, rtol=0)
    torch.testing.assert_close(found.masks * 2 - 1, found.true, atol=0.05, rtol=0)


def test_masks_of_the_store_are_used_and_missing_ones_are_made(data, caplog):
    changes = {"thermal": 1.0, "thermal_share": 1.0, "crop": 80, "scales": (1.0, 1.0)}
    made, scenes = objective(data, **changes)
    with caplog.at_level(logging.WARNING):
        made.thermal.prepare(scenes)
    assert caplog.text.count("6 of 6 scenes have no thermal mask") == 1
    item = scenes[0]
    wanted = OtsuMasker().mask(read_infrared(data / item.scene.infrared))
    batch = made.batch([item], draws(7)[:1])
    made_now = batch.thermal.masks[0, 0].numpy()
    assert 0 < wanted.mean() < 1
    # The window is 80 of 96 px wide; somewhere along it, or mirrored, the mask fits exactly.
    places = [wanted[:, left : left + 80] for left in range(17)]
    assert any(np.array_equal(made_now[:, ::way], fit) for fit in places for way in (1, -1))
    make_masks(data, "percentile,percent=99")
    caplog.clear()
    made.thermal.prepare(scenes)
    assert not caplog.records
    kept = made.batch([item], draws(7)[:1]).thermal.masks.mean()
    assert 0 < kept < 0.03 < made_now.mean()


def test_a_jpeg_mask_has_no_warm_noise(data):
    made, scenes = objective(data, thermal=1.0, thermal_share=1.0, scales=(1.0, 1.0), crop=80)
    mask = np.zeros((80, 96), np.uint8)
    mask[20:60, 30:60] = 255
    (data / "mask").mkdir()
    path = data / "mask" / f"{scenes[0].scene.name}.jpg"
    Image.fromarray(mask).save(path, quality=50)
    assert ((np.asarray(Image.open(path)) > 0) & (mask == 0)).any()
    assert read_thermal_mask(path).mean() == (mask > 0).mean()
    found = made.batch(scenes[:1], draws(8)[:1]).thermal.masks
    assert found.unique().tolist() == [0.0, 1.0]
    assert found.sum() == 40 * 30


def test_a_mask_of_another_size_is_refused_before_training(data):
    made, scenes = objective(data, thermal=1.0)
    (data / "mask").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(data / "mask" / f"{scenes[2].scene.name}.png")
    with pytest.raises(DataError, match="8x8 px"):
        made.thermal.prepare(scenes)


def test_the_gradient_reaches_the_network_and_not_the_decoder(data):
    made, scenes = objective(data, thermal=1e6, thermal_share=1.0)
    batch = made.batch(scenes[:2], draws(9)[:2])
    made.loss(batch).backward()
    assert all(p.grad is None for p in made.model.autoencoder.parameters())
    strong = made.model.unet.conv_out.weight.grad.norm()
    plain, _ = objective(data)
    plain.loss(batch).backward()
    assert strong > 100 * plain.model.unet.conv_out.weight.grad.norm() > 0


def test_a_stage_with_it_trains_the_same_parts_and_keeps_the_decoder(data):
    for trains in (("unet",), ("unet", "text_encoder")):
        plain, _ = objective(data, trains=trains)
        made, _ = objective(data, trains=trains, thermal=50.0)
        assert made.modules.keys() == plain.modules.keys() == set(trains)
        assert made.needs == plain.needs | {"autoencoder"}
        assert "autoencoder" not in plain.needs


def test_a_step_along_its_gradient_lowers_the_error_of_what_is_hot(data):
    make_masks(data, "percentile,percent=90")
    made, scenes = objective(data, thermal=1e3, thermal_share=1.0)
    batch = made.batch(scenes[:2], draws(0)[:2])
    batch.timesteps[:] = 300
    optimizer = torch.optim.SGD(made.model.unet.parameters(), lr=1e-5)
    before = torch.stack(by_hand(made, batch)[1]).mean().item()
    for _ in range(3):
        optimizer.zero_grad()
        made.loss(batch).backward()
        optimizer.step()
    after = torch.stack(by_hand(made, batch)[1]).mean().item()
    assert after < before - 1e-4


def test_end_to_end_adds_it_to_the_samples_that_denoise(data):
    values = {"objective": "end_to_end", "end_to_end": 0.5, "thermal_share": 1.0}
    made, scenes = objective(data, thermal=50.0, **values)
    plain, _ = objective(data, **values)
    batch = made.batch(scenes[:4], draws(10)[:4])
    difference = made.loss(batch) - plain.loss(batch)
    _, terms, signal = by_hand(made, batch)
    assert signal[batch.pictured].abs().max() < 1e-6
    wanted = 50.0 * (torch.stack(terms) * signal).mean()
    torch.testing.assert_close(difference, wanted, rtol=1e-3, atol=1e-4)


def test_objectives_that_do_not_denoise_refuse_it():
    for name in ("reconstruction", "refinement"):
        with pytest.raises(ValidationError, match="thermal is for"):
            Stage(name="s", steps=1, objective=name, thermal=50.0)
    with pytest.raises(ValidationError):
        Stage(name="s", steps=1, thermal=1.0, thermal_share=0.0)


def test_targets_move_to_a_device_with_their_batch(data):
    from v2ir.training.team import on_device

    made, scenes = objective(data, thermal=1.0, thermal_share=1.0)
    moved = on_device(made.batch(scenes[:2], draws(0)[:2]), torch.device("meta"))
    assert isinstance(moved.thermal, ThermalTargets)
    assert moved.thermal.true.device.type == moved.clean.device.type == "meta"
