"""Training through the decoder: pictures lie on their latents, each player learns alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import uniform_filter
from skimage.metrics import structural_similarity

from training_pieces import draws, make_objective, ready_to_train, unscaled_model
from v2ir.errors import ModelError
from v2ir.model import architecture, build_model
from v2ir.model.detail_decoder import local_energy, split_bands
from v2ir.training import RECIPES, Stage, TrainSettings, train
from v2ir.training.objectives.adversary import (
    PatchDiscriminator,
    adaptive_weight,
    discriminator_loss,
    feature_distance,
)
from v2ir.training.objectives.end_to_end import EndToEnd
from v2ir.training.objectives.pixels import (
    edge_l1,
    hot_weights,
    structural_dissimilarity,
    texture_difference,
)


@pytest.fixture
def data(make_pairs):
    return ready_to_train(make_pairs(6))


def objective(data, **changes):
    values = {"trains": ("unet", "decoder"), "crop": 32, "variants": 4, "batch_size": 4}
    stage = Stage(**{"name": "s", "objective": "end_to_end", "steps": 1, **values, **changes})
    return make_objective(data, unscaled_model(), stage)


def test_pictures_are_the_pixels_of_their_latents(data):
    made, scenes = objective(data, jitter=0.5, end_to_end=1.0, drop=0.0, scales=(1.0, 2.0))
    batch = made.batch(scenes, draws(4))
    assert batch.true.shape == (len(scenes), 1, 32, 32)
    pooled = F.avg_pool2d(batch.true, 8).repeat(1, 4, 1, 1)
    torch.testing.assert_close(pooled, batch.clean, atol=2e-3, rtol=0)
    beside = F.avg_pool2d(batch.beside[:, :1], 8).repeat(1, 4, 1, 1)
    assert batch.visible is not None
    torch.testing.assert_close(beside, batch.visible, atol=2e-3, rtol=0)


def test_the_loss_of_pictures_reaches_network_and_decoder(data):
    made, scenes = objective(data, end_to_end=0.5, structure=0.5, hot=1.0)
    batch = made.batch(scenes[:4], draws(4)[:4])
    assert len(batch.true) == 2 and len(batch.clean) == 4
    made.loss(batch).backward()
    for part in ("unet", "decoder"):
        norms = [p.grad.norm() for p in made.modules[part].parameters() if p.grad is not None]
        assert torch.stack(norms).sum() > 0
    assert all(p.grad is None for p in made.model.autoencoder.encoder.parameters())


def test_a_decoder_that_rests_collects_no_gradients(data):
    for adversarial in (0.0, 0.5):
        made, scenes = objective(data, trains=("unet",), end_to_end=1.0, adversarial=adversarial)
        made.loss(made.batch(scenes[:2], draws(0)[:2])).backward()
        assert "decoder" not in made.modules
        assert not any(p.requires_grad for p in made.model.autoencoder.parameters())
        assert made.model.unet.conv_out.weight.grad.abs().sum() > 0


def test_the_network_learns_the_picture_from_pure_noise(data):
    made, scenes = objective(data, end_to_end=1.0, drop=0.0)
    parameters = [p for module in made.modules.values() for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3)
    losses = []
    for step in range(40):
        batch = made.batch(scenes[:4], draws(step)[:4])
        loss = made.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_each_player_learns_from_its_own_loss_alone(data):
    """The verdict's weight moves the network's gradient and not the discriminator's."""
    judged, pushed = [], []
    for weight in (0.5, 50.0):
        made, scenes = objective(data, end_to_end=1.0, adversarial=weight, features=1.0)
        batch = made.batch(scenes[:2], draws(0)[:2])
        made.loss(batch).backward()
        judged.append([p.grad for p in made.modules["discriminator"].parameters()])
        pushed.append(made.model.unet.conv_out.weight.grad)
    assert any(grad.abs().sum() > 0 for grad in judged[0])
    assert all(torch.equal(a, b) for a, b in zip(*judged, strict=True))
    assert not torch.allclose(*pushed)


def test_a_discriminator_tells_blurred_pictures_from_sharp_ones():
    torch.manual_seed(0)
    judge = PatchDiscriminator(1, 2, width=16)
    optimizer = torch.optim.Adam(judge.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    styles = torch.tensor([1, 2, 1, 2])
    for _ in range(60):
        sharp = torch.randn((4, 1, 64, 64), generator=generator).clamp(-1, 1)
        blurred = F.avg_pool2d(sharp, 5, 1, 2)
        loss = discriminator_loss(judge(sharp, styles)[-1], judge(blurred, styles)[-1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert judge(sharp, styles)[-1].mean() > 0.2 > -0.2 > judge(blurred, styles)[-1].mean()
    features = judge(sharp, styles)
    assert feature_distance(features, features) == 0
    assert feature_distance(features, judge(blurred, styles)) > 0.01


def test_hinge_loss_has_its_known_values():
    ones = torch.ones(3)
    assert discriminator_loss(ones, -ones) == 0
    assert discriminator_loss(0 * ones, 0 * ones) == 1
    assert discriminator_loss(-ones, ones) == 2


def test_texture_counts_how_much_detail_there_is_and_not_where():
    rng = np.random.default_rng(4)
    true = torch.tensor(rng.normal(0, 0.3, (2, 1, 64, 64)), dtype=torch.float32)
    moved, soft = true.roll(3, dims=-1), F.avg_pool2d(true, 5, 1, 2)
    assert float(texture_difference(true, true)) == 0.0
    assert texture_difference(moved, true) < 0.2 * texture_difference(soft, true)
    assert F.l1_loss(moved, true) > F.l1_loss(soft, true)


def test_texture_is_the_difference_of_local_deviations():
    rng = np.random.default_rng(5)
    pictures = rng.normal(0, 0.3, (2, 80, 80))

    def strengths(picture):
        levels = [picture, *(uniform_filter(picture, side) for side in (3, 7, 15))]
        bands = np.array(levels[:-1]) - np.array(levels[1:])
        energy = np.array([uniform_filter(band**2, 31) for band in bands])
        return np.sqrt(energy + 1e-5)[:, 30:-30, 30:-30]

    made, true = torch.tensor(pictures).view(2, 1, 1, 80, 80)
    inner = (slice(None), slice(None), slice(30, -30), slice(30, -30))
    found = [(local_energy(split_bands(x))[inner] + 1e-5).sqrt()[0].numpy() for x in (made, true)]
    for ours, theirs in zip(found, pictures, strict=True):
        np.testing.assert_allclose(ours, strengths(theirs), rtol=1e-9)


def test_adaptive_weight_is_the_ratio_of_gradients():
    layer = torch.ones(2, requires_grad=True)
    weight = adaptive_weight((6 * layer).sum(), (2 * layer).sum(), layer)
    assert weight.item() == pytest.approx(3.0, rel=1e-3)


def test_dissimilarity_equals_scikit_image():
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 40, 50))
    whole = structural_similarity(
        x, y, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        full=True,
    )[1][5:-5, 5:-5].mean()  # fmt: skip
    as_tensor = [torch.tensor(v * 2 - 1)[None, None] for v in (x, y)]
    assert 1 - structural_dissimilarity(*as_tensor).item() == pytest.approx(whole, abs=1e-6)


def test_hot_pixels_weigh_more_and_the_mean_weight_is_one():
    picture = torch.full((1, 1, 10, 10), -0.5)
    picture[..., :2, :2] = 1.0
    weights = hot_weights(picture, 4.0)
    assert weights.mean().item() == pytest.approx(1.0)
    assert (weights[..., 0, 0] / weights[..., 9, 9]).item() == pytest.approx(5.0)
    assert torch.equal(hot_weights(picture, 0.0), torch.ones_like(picture))


def test_edges_are_differences_between_neighbours():
    made = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    assert edge_l1(made, torch.zeros(1, 1, 2, 2)).item() == pytest.approx(1.0)
    assert edge_l1(made, made + 3).item() == 0


def test_a_schedule_with_a_signal_at_its_end_is_refused(data):
    made, _ = objective(data)
    made.model.scheduler = build_model(architecture("tiny"), name="x").scheduler
    made.model.scheduler.alphas_cumprod = made.model.scheduler.alphas_cumprod.clamp_min(0.01)
    with pytest.raises(ModelError, match="pure noise"):
        EndToEnd(made.model, made.stage, made.caches)


def test_an_adversarial_stage_continues_to_the_same_weights(data, tmp_path):
    tiny = RECIPES["tiny"]
    last = tiny.stages[-1].model_copy(
        update={
            "objective": "end_to_end", "adversarial": 0.5, "features": 1.0, "steps": 4,
            "trains": ("unet", "text_encoder", "decoder"), "checkpoint_every": 2,
        }
    )  # fmt: skip
    first = tiny.stages[0].model_copy(update={"steps": 2})
    recipe = tiny.model_copy(update={"stages": (first, last)})
    whole = train(recipe, TrainSettings(data, tmp_path / "whole"))

    class StopError(Exception):
        pass

    def progress(name):
        def told(done, total):
            if name == last.name and total == last.steps and done == 3:
                raise StopError

        return told

    with pytest.raises(StopError):
        train(recipe, TrainSettings(data, tmp_path / "parts"), progress)
    parts = train(recipe, TrainSettings(data, tmp_path / "parts"))
    for part in ("unet", "vae"):
        name = f"{part}/diffusion_pytorch_model.safetensors"
        assert (whole / name).read_bytes() == (parts / name).read_bytes()
