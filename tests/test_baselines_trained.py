"""Trained baselines: regression, Pix2Pix and InstructPix2Pix on the loader of the denoiser."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from training_pieces import draws, make_objective
from v2ir.annotation import annotate
from v2ir.cli import app
from v2ir.data import index
from v2ir.errors import InputError, ModelError
from v2ir.images import from_tensor, read_infrared
from v2ir.model import Guidance, architecture, build_model, load_model
from v2ir.model.networks import build_autoencoder
from v2ir.sampling import TranslateSettings, Translator
from v2ir.training import RECIPES, Stage, TrainSettings, train
from v2ir.training.objectives import OBJECTIVES
from v2ir.training.objectives.objective import read_part
from v2ir.training.objectives.pix2pix import deceiving_loss, judging_loss
from v2ir.training.recipes.budget import images_a_step, num_images, with_images

BASELINES = ("regression-tiny", "pix2pix-tiny", "instruct-pix2pix-tiny", "pid-tiny")


@pytest.fixture
def data(make_pairs):
    root = make_pairs(6)
    for number in range(2):
        source = root / "ir" / f"street_{number:02d}.png"
        Image.open(source).rotate(180).save(root / "ir" / f"alone_{number}.png")
    index(root, style=lambda name: "alone" if name.startswith("alone") else "street")
    annotate(root)
    return root


def objective(data, name="regression", **changes):
    torch.manual_seed(0)
    model = build_model(
        architecture("pixels-tiny"),
        name="x",
        styles=("alone", "street"),
        **RECIPES["regression-tiny"].card,
    )
    values = {"crop": 32, "variants": 4, "batch_size": 2, "drop": 0.0, "conditions": ("visible",)}
    stage = Stage(**{"name": "s", "objective": name, "steps": 1, **values, **changes})
    return make_objective(data, model, stage, model.encode)


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_pixels_come_back_exactly(patch, rows, columns, seed):
    found = architecture("pixels-tiny").model_copy(
        update={"autoencoder": {"in_channels": 3, "patch": patch}}
    )
    autoencoder = build_autoencoder(found)
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randn((2, 3, rows * patch, columns * patch), generator=generator)
    latents = autoencoder.encode(pictures).latent
    assert latents.shape == (2, 3 * patch**2, rows, columns)
    assert torch.equal(latents[..., 0, 0], pictures[..., :patch, :patch].flatten(1))
    assert torch.equal(autoencoder.decode(latents).sample, pictures)


def test_the_network_has_inputs_for_the_conditions_that_it_knows():
    for conditions, planes in (
        (("text", "visible", "segmentation"), 3),
        (("text", "visible"), 2),
        (("visible",), 2),
        (("text",), 1),
    ):
        model = build_model(architecture("tiny"), name="x", conditions=conditions)
        assert model.unet.config.in_channels == planes * model.card.channels
    assert build_model(architecture("tiny"), name="x").unet.config.in_channels == 12


def test_a_batch_holds_the_pictures_themselves(data):
    made, scenes = objective(data, jitter=0.5, scales=(1.0, 2.0))
    batch = made.batch(scenes, draws(4, len(scenes)))
    for place, window in enumerate(made._windows):
        cut = window.cut(read_part(scenes[place], "infrared"), 32, 2)
        assert np.array_equal(np.round(from_tensor(made.true(batch)[place]) * 255), cut)
        seen = made.unfold(batch.visible[place][None])[0]
        photograph = window.cut(read_part(scenes[place], "visible"), 32, 2, toned=True)
        shown = ((seen + 1) * 127.5).round().permute(1, 2, 0).numpy()
        assert np.array_equal(shown, photograph)
    assert batch.styles.tolist() == [2] * len(scenes)
    assert made.unprepared(scenes) and (made.prepare(scenes, lambda *_: None) is None)
    assert made.unprepared(scenes) == []


def test_a_silent_network_has_the_mean_of_the_truth_as_its_error(data):
    made, scenes = objective(data)
    for parameter in made.model.unet.conv_out.parameters():
        torch.nn.init.zeros_(parameter)
    batch = made.batch(scenes, draws(1, len(scenes)))
    assert made.loss(batch).item() == pytest.approx(made.true(batch).abs().mean().item(), rel=1e-6)


def test_the_network_is_asked_what_translation_will_ask(data):
    """The picture in training is the one that the translator makes of the same crop."""
    made, scenes = objective(data, scales=(1.0, 1.0))
    batch = made.batch(scenes[:1], draws(2, 1))
    trained = from_tensor(made.made(batch))[0]
    seen = made.unfold(batch.visible)[0]
    pixels = ((seen + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    translator = Translator(made.model, TranslateSettings(style="street", resolution="native"))
    assert np.abs(translator.translate_pixels(pixels) - trained).max() < 1e-5


def test_the_style_changes_the_picture(data):
    made, scenes = objective(data)
    torch.nn.init.normal_(made.model.unet.class_embedding.weight)
    batch = made.batch(scenes[:1], draws(2, 1))
    first = made.made(batch)
    batch.styles.fill_(1)
    assert (made.made(batch) - first).abs().mean() > 1e-3


@pytest.mark.parametrize("name", ["regression", "pix2pix"])
def test_a_network_on_pixels_learns(data, name):
    made, scenes = objective(data, name, adversarial=0.01)
    parameters = [p for module in made.modules.values() for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=5e-3)
    errors = []
    for step in range(24):
        batch = made.batch(scenes[:2], draws(step, 2))
        optimizer.zero_grad()
        made.loss(batch).backward()
        optimizer.step()
        with torch.no_grad():
            errors.append((made.made(batch) - made.true(batch)).abs().mean().item())
    assert np.mean(errors[-4:]) < 0.7 * np.mean(errors[:4])


def test_losses_of_the_players_have_their_known_values():
    zero = torch.zeros(4)
    assert deceiving_loss(zero).item() == pytest.approx(math.log(2))
    assert judging_loss(zero, zero).item() == pytest.approx(math.log(2))
    verdicts = torch.tensor([0.3, -1.2, 2.0])
    chance = torch.sigmoid(verdicts)
    assert deceiving_loss(verdicts).item() == pytest.approx(-chance.log().mean().item(), rel=1e-5)
    wanted = -0.5 * (chance.log().mean() + (1 - chance.flip(0)).log().mean())
    assert judging_loss(verdicts, verdicts.flip(0)).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_each_player_learns_from_its_own_loss_alone(data):
    judged, pushed = [], []
    for weight in (0.01, 10.0):
        made, scenes = objective(data, "pix2pix", adversarial=weight)
        made.loss(made.batch(scenes[:2], draws(0, 2))).backward()
        judged.append([p.grad for p in made.modules["discriminator"].parameters()])
        pushed.append(made.model.unet.conv_out.weight.grad)
    assert any(grad.abs().sum() > 0 for grad in judged[0])
    assert all(torch.equal(a, b) for a, b in zip(*judged, strict=True))
    assert not torch.allclose(*pushed)


def test_latents_are_refused_where_pixels_are_needed(data):
    made, _ = objective(data)
    model = build_model(architecture("tiny"), name="x")
    with pytest.raises(ModelError, match="works on pixels"):
        OBJECTIVES["regression"](model, made.stage, made.caches)


@pytest.mark.parametrize("size", ["", "-tiny"])
def test_baselines_have_the_budget_and_the_loader_of_the_base(size):
    base = RECIPES["tiny" if size else "mini"]
    for name in ("regression", "pix2pix", "instruct-pix2pix", "pid"):
        recipe = RECIPES[f"{name}{size}"]
        batch = max(images_a_step(stage) for stage in recipe.stages)
        assert abs(num_images(recipe) - num_images(base)) <= batch
        phases = [stage for stage in base.stages if stage.phase > 1]
        for stage, own in zip(phases, [s for s in recipe.stages if s.phase], strict=True):
            for field in ("scenes", "styles", "alignment", "balance", "crop", "scales", "variants"):
                assert getattr(stage, field) == getattr(own, field)
            assert stage.batch_size == own.batch_size
            assert "segmentation" not in own.conditions


@settings(max_examples=30)
@given(st.integers(40, 10**6))
def test_a_budget_is_met_to_within_a_batch(number):
    recipe = with_images(RECIPES["mini"], number)
    last = images_a_step(recipe.stages[-1])
    least = sum(images_a_step(stage) for stage in recipe.stages if stage.phase)
    if number >= 16 * least:
        assert abs(num_images(recipe) - number) <= last / 2
    Stage.model_validate(recipe.stages[-1].model_dump())
    assert recipe.stages[0] == RECIPES["mini"].stages[0]
    assert with_images(RECIPES["mini"], num_images(RECIPES["mini"])) == RECIPES["mini"]


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(InputError, match="budget"):
        with_images(RECIPES["mini"], 0)
    with pytest.raises(InputError, match="budget"):
        with_images(RECIPES["ir-autoencoder"], 100)


def test_pix2pix_continues_to_the_same_weights(data, tmp_path):
    recipe = RECIPES["pix2pix-tiny"]
    recipe = recipe.model_copy(update={"stages": recipe.stages[:1]})

    class StopError(Exception):
        pass

    def progress(name):
        def told(done, total):
            if total == recipe.stages[0].steps and done == 5:
                raise StopError

        return told

    whole = train(recipe, TrainSettings(data, tmp_path / "whole"))
    with pytest.raises(StopError):
        train(recipe, TrainSettings(data, tmp_path / "parts"), progress)
    parts = train(recipe, TrainSettings(data, tmp_path / "parts"))
    name = "unet/diffusion_pytorch_model.safetensors"
    assert (whole / name).read_bytes() == (parts / name).read_bytes()


def run(*words):
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_baselines_take_part_as_folders_of_outputs(data, tmp_path):
    """Train all three with one command, translate with each, and compare them in one table."""
    files = []
    for name in BASELINES:
        stages = {stage.name: {"steps": 2} for stage in RECIPES[name].stages}
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps({"from": name, "stages": stages}))
    run("train", ",".join(map(str, files)), data, tmp_path / "runs")
    folders = {}
    for name in BASELINES:
        model = load_model(tmp_path / "runs" / name / "models" / "style")
        assert "segmentation" not in model.card.conditions
        folder = folders[name] = tmp_path / name
        run("translate", data / "rgb", folder, "--model", model_folder(tmp_path, name))
        assert model.card.name == name
    for path in (data / "ir").glob("alone_*"):
        path.unlink()  # they have no photograph, so no method has them
    first, *others = folders.items()
    methods = [word for name, folder in others for word in ("--methods", f"{name}={folder}")]
    table = run("evaluate", first[1], data / "ir", *methods)
    assert "prediction" in table and all(name in table for name in BASELINES[1:])
    made = [read_infrared(folder / "street_00.png") for folder in folders.values()]
    assert all(np.abs(made[a] - made[b]).max() > 0.01 for a, b in ((0, 1), (0, 2), (1, 2)))


def model_folder(tmp_path, name):
    return tmp_path / "runs" / name / "models" / "style"


def test_a_network_without_noise_has_one_setting(data, tmp_path):
    recipe = RECIPES["regression-tiny"]
    recipe = recipe.model_copy(update={"stages": recipe.stages[:1]})
    folder = train(recipe, TrainSettings(data, tmp_path / "run"))
    model = load_model(folder)
    photograph = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    made = [
        Translator(model, TranslateSettings(seed=seed)).translate_pixels(photograph)
        for seed in (0, 1)
    ]
    assert made[0].shape == (37, 53) and np.array_equal(*made)
    for asked in (
        TranslateSettings(steps=4),
        TranslateSettings(solver="dpmpp"),
        TranslateSettings(guidance=Guidance(visible=3.0)),
    ):
        with pytest.raises(InputError, match="at once"):
            Translator(model, asked)
    index_file = json.loads((folder / "model_index.json").read_text())
    assert index_file["vae"] == ["v2ir.model.pixel_autoencoder", "PixelAutoencoder"]
