"""The small encoder: its layers and units, what it learns, and who uses it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.vae import EncoderTiny
from PIL import Image

from conftest import street
from processes import run_processes
from training_pieces import draws, ready_to_train
from v2ir.errors import InputError, ModelError
from v2ir.images import to_tensor
from v2ir.model import architecture, build_model, load_model
from v2ir.model.networks import encode_mode
from v2ir.model.small_decoder import SmallDecoder
from v2ir.model.small_encoder import SmallEncoder
from v2ir.records import no_progress
from v2ir.sampling import TranslateSettings, Translator
from v2ir.training import RECIPES, Recipe, Stage, TrainSettings, train
from v2ir.training.objectives.encoder_distillation import EncoderDistillation
from v2ir.training.objectives.objective import read_part
from v2ir.training.scenes import TrainingScene, training_scenes

WIDTHS, BLOCKS = (8, 12, 16, 24), (0, 0, 0, 1)


def pictures(number=2, side=32, seed=0):
    made = [street(seed + place, 64, 64)[0][:side, :side] for place in range(number)]
    return torch.stack([to_tensor(picture) for picture in made])


def stage_of(**changes):
    values = {
        "name": "encoder", "objective": "encoder_distillation", "trains": ("encoder",),
        "crop": 32, "batch_size": 4, "steps": 60, "decay_steps": 60,
        "learning_rate": 5e-3, "average_decay": 0.8, "checkpoint_every": 20,
        "encoder_widths": WIDTHS, "encoder_blocks": BLOCKS,
    }  # fmt: skip
    return Stage(**{**values, **changes})


def recipe_of(**changes):
    return Recipe(name="d", architecture="tiny", stages=(stage_of(**changes),))


def tiny_model(**facts):
    values = {"resolution": 32, "multiple": 16, "solver": "ddim", "steps": 2, **facts}
    return build_model(architecture("tiny"), name="teacher", styles=("street",), **values)


def same(a, b):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for place in range(6):
        for name, picture in zip(("rgb", "ir"), street(place, 48, 40), strict=True):
            (root / name).mkdir(exist_ok=True)
            Image.fromarray(picture).save(root / name / f"{place}.png")
    return ready_to_train(root)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Return the folder of a tiny model whose latents are far from the mean 0, deviation 1."""
    model = tiny_model()
    with torch.no_grad():
        last = [p for name, p in model.autoencoder.encoder.named_parameters() if "conv_out" in name]
        for parameter in last:
            parameter.mul_(5.0).add_(0.5 if parameter.dim() == 1 else 0.0)
    folder = tmp_path_factory.mktemp("start") / "model"
    model.save(folder)
    return folder


@pytest.fixture(scope="module")
def trained(data, start, tmp_path_factory):
    """Return the folder of a model with a small encoder, trained in one go."""
    run = tmp_path_factory.mktemp("run")
    return train(recipe_of(), TrainSettings(data, run, (), str(start)))


# The network.


def test_the_layers_are_those_of_diffusers():
    torch.manual_seed(0)
    small = SmallEncoder(4, (8,) * 4, (1, 2, 1, 2))
    reference = EncoderTiny(3, 4, (1, 2, 1, 2), (8,) * 4, "relu")
    reference.layers.load_state_dict(small.layers.state_dict())
    images = pictures()
    with torch.no_grad():
        assert torch.equal(small(images), reference(images))


def test_latents_come_in_the_units_that_are_told():
    torch.manual_seed(0)
    small, images = SmallEncoder(4, (8, 12, 16), (0, 1, 1)), pictures()
    assert small.factor == 4
    with torch.no_grad():
        plain = small(images)
        mean, deviation = torch.tensor([3.0, -1, 0, 9]), torch.tensor([2.0, 1, 0.5, 4])
        small.set_units(mean.double(), deviation.double())
        made = small(images)
    assert made.shape == (2, 4, 8, 8)
    expected = plain * deviation.view(1, 4, 1, 1) + mean.view(1, 4, 1, 1)
    torch.testing.assert_close(made, expected)
    torch.testing.assert_close(small.standardise(made), plain)
    with pytest.raises(ModelError, match="as many widths"):
        SmallEncoder(4, (8, 8), (1,))


@pytest.mark.parametrize("name", ["mini-tiny-decoder", "mini-tiny-encoder", "tiny-decoder"])
def test_the_small_parts_of_the_recipes_fit_their_models(name):
    recipe, stage = RECIPES[name], RECIPES[name].stages[0]
    shape = architecture(recipe.architecture)
    channels, side = shape.autoencoder["latent_channels"], 4
    image = torch.zeros(1, 3, side * shape.factor, side * shape.factor)
    with torch.inference_mode():
        if stage.objective == "encoder_distillation":
            made = SmallEncoder(channels, stage.encoder_widths, stage.encoder_blocks)(image)
            assert made.shape == (1, channels, side, side)
        else:
            latents = torch.zeros(1, channels, side, side)
            made = SmallDecoder(channels, stage.decoder_widths, stage.decoder_blocks)(latents)
            assert made.shape == image[:, :1].shape


def test_a_folder_keeps_the_encoder_and_its_units(tmp_path):
    model = tiny_model()
    model.encoder = SmallEncoder(4, WIDTHS, BLOCKS).eval()
    model.encoder.set_units(torch.arange(4.0), torch.arange(1.0, 5.0))
    model.save(tmp_path / "m", dtype=torch.float16)
    again = load_model(tmp_path / "m")
    assert again.encoder.config == {"latents": 4, "widths": [*WIDTHS], "blocks": [*BLOCKS]}
    assert same(again.encoder, model.encoder)
    assert torch.equal(again.encode(pictures()), model.encode(pictures()))
    assert again.hash != model.hash
    for wrong, what in ((4, (8, 8), (1, 1)), "factor"), ((3, WIDTHS, BLOCKS), "small encoder of"):
        SmallEncoder(*wrong).save(tmp_path / "m" / "encoder")
        with pytest.raises(ModelError, match=what):
            load_model(tmp_path / "m")


# What it is for.


def test_translations_are_told_by_it_and_training_by_the_autoencoder(trained, monkeypatch):
    model, images = load_model(trained), pictures()
    own = encode_mode(model.autoencoder, images)
    assert torch.equal(model.visible_latents(images), own)
    assert torch.equal(model.encode_target(images), model.scale_latents(own))
    small = model.encoder(images)
    assert not torch.allclose(small, own)
    assert torch.equal(model.encode(images), model.scale_condition(small))
    assert torch.equal(model.encode_visible(images), model.scale_condition(small))

    visible, _ = street(3, 48, 40)
    segmentation = visible[..., 0] // 64
    translator = Translator(model, TranslateSettings(steps=2))
    made = translator.translate_pixels(visible, segmentation=segmentation, caption="a street")

    def forbidden(*arguments, **named):
        raise AssertionError("the autoencoder encodes")

    monkeypatch.setattr(model.autoencoder, "encode", forbidden)
    again = translator.translate_pixels(visible, segmentation=segmentation, caption="a street")
    assert np.array_equal(made, again)
    with pytest.raises(AssertionError, match="encodes"):
        model.encode_target(images)


def test_features_of_an_image_encoder_stay_beside_the_latents():
    model = tiny_model()

    class Features(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.config = {"channels": 2}

        def forward(self, images):
            return F.avg_pool2d(images[:, :2], 8)

    model.image_encoder, model.encoder = Features(), SmallEncoder(4, WIDTHS, BLOCKS)
    model.card = model.card.model_copy(update={"scale_conditions": False})
    images = pictures()
    with torch.no_grad():
        latents = model.encoder(images)
    expected = torch.cat([latents, F.avg_pool2d(images[:, :2], 8)], dim=1)
    assert torch.equal(model.encode_visible(images), expected)
    assert torch.equal(model.visible_latents(images)[:, 4:], expected[:, 4:])


# Learning.


def objective_of(data, model=None, **changes):
    return EncoderDistillation(model or tiny_model(), stage_of(**changes)), training_scenes(data)


def test_scenes_teach_by_the_images_that_are_told(data):
    def crops(**changes):
        made, scenes = objective_of(data, **changes)
        return made.batch(scenes * 4, draws(0, 4 * len(scenes)))

    both, visible, maps = (
        [bool((crop == crop[:1]).all()) for crop in crops(conditions=conditions)]
        for conditions in (("visible", "segmentation"), ("text", "visible"), ("segmentation",))
    )
    assert not any(visible) and all(maps)
    assert 1 <= sum(both) <= 14, "of 24, about 7 are maps"
    assert crops().shape == (24, 3, 32, 32)
    _, scenes = objective_of(data)
    bare = [TrainingScene(item.scene, item.root) for item in scenes]
    made, _ = objective_of(data)
    assert not any(bool((crop == crop[:1]).all()) for crop in made.batch(bare * 4, draws(0, 24)))


def latents_of(model, data):
    """Return the autoencoder's latents of all visible images and maps, and the images."""
    views = [
        to_tensor(read_part(item, part)[:40, :48])[None]
        for item in training_scenes(data)
        for part in ("visible", "segmentation")
    ]
    images = torch.cat(views)
    return encode_mode(model.autoencoder, images).detach(), images


def test_every_channels_mean_and_deviation_are_measured(data, start):
    made, scenes = objective_of(data, load_model(start), crop=40)
    seen = []
    made.prepare(scenes, lambda done, total: seen.append((done, total)))
    assert seen == [(place, 6) for place in range(1, 7)]
    many, _ = objective_of(data, load_model(start), conditions=("visible",))
    many.prepare(scenes[:1] * 65, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (33, 33)  # every second one of 65, so that they are 64 at most
    latents, _ = latents_of(made.model, data)
    channels = latents.transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(made.encoder.mean.flatten(), channels.mean(1).float())
    deviation = channels.std(1, correction=0).float()
    torch.testing.assert_close(made.encoder.deviation.flatten(), deviation)
    assert (deviation - 1).abs().max() > 0.1  # or this test would tell nothing
    # The loss of an encoder that always gives the mean: 1 by the squares, below 1 by the values.
    with torch.no_grad():
        made.encoder.layers[-1].weight.zero_()
        made.encoder.layers[-1].bias.zero_()
        standard = made.encoder.standardise(latents)
        loss = standard.abs().mean() + standard.square().mean()
        torch.testing.assert_close(made.loss(latents_of(made.model, data)[1]), loss)
    torch.testing.assert_close(standard.square().mean(), torch.tensor(1.0))


def test_it_learns_the_autoencoders_latents(trained, start, data):
    teacher, student = load_model(start), load_model(trained)
    assert same(student.autoencoder, teacher.autoencoder)
    assert same(student.unet, teacher.unet)
    wanted, images = latents_of(teacher, data)
    untrained = EncoderDistillation(load_model(start), stage_of())
    untrained.prepare(training_scenes(data), no_progress)

    def distance(latents):
        standardise = student.encoder.standardise
        return F.mse_loss(standardise(latents), standardise(wanted)).item()

    with torch.no_grad():
        after = distance(student.encoder(images))
        assert after < 0.7 * distance(untrained.encoder(images))
    assert after < 0.7 * distance(wanted.mean(dim=(0, 2, 3), keepdim=True).expand_as(wanted))


def test_a_continued_stage_ends_with_the_same_weights(data, start, trained, tmp_path):
    settings = TrainSettings(data, tmp_path / "run", (), str(start))

    def stopped(stage):
        def progress(done, total):
            if (done, total) == (30, 60):
                raise KeyboardInterrupt

        return progress

    with pytest.raises(KeyboardInterrupt):
        train(recipe_of(), settings, stopped)
    assert not (tmp_path / "run" / "models").exists()
    again = train(recipe_of(), settings)
    assert same(load_model(again).encoder, load_model(trained).encoder)


def test_a_model_that_has_one_trains_it_further_in_its_units(data, trained):
    model = load_model(trained)
    kept = model.encoder.mean.clone()
    made, scenes = objective_of(data, model)
    made.prepare(scenes[:1], no_progress)
    assert made.encoder is model.encoder
    assert torch.equal(model.encoder.mean, kept)
    other, _ = objective_of(data, model, encoder_widths=(8,) * 4)
    assert other.encoder is not model.encoder


def measure(data, start, folder):
    from v2ir.training.team import Team

    team = Team()
    made, scenes = objective_of(data, load_model(start))
    made.prepare(scenes[team.rank :: team.size], no_progress)
    units = [made.encoder.mean.flatten().tolist(), made.encoder.deviation.flatten().tolist()]
    (folder / f"{team.rank}-{team.size}.json").write_text(json.dumps(units))


def test_processes_agree_on_the_units(data, start, tmp_path):
    run_processes(2, measure, data, start, tmp_path)
    run_processes(1, measure, data, start, tmp_path)
    one, first, second = (
        np.array(json.loads((tmp_path / f"{name}.json").read_text()))
        for name in ("0-1", "0-2", "1-2")
    )
    assert np.array_equal(first, second)
    np.testing.assert_allclose(first, one, rtol=1e-5)


def test_what_does_not_fit_is_refused(data, tmp_path):
    with pytest.raises(ModelError, match="factor of 8"):
        objective_of(data, encoder_widths=(8, 8), encoder_blocks=(1, 1))
    with pytest.raises(ModelError, match="nothing to encode"):
        objective_of(data, conditions=("text",))
    with pytest.raises(InputError, match="--from MODEL"):
        train(recipe_of(), TrainSettings(data, tmp_path))


def test_runs_of_other_objectives_are_told_apart_as_before():
    assert not {"encoder_widths", "encoder_blocks"} & Stage(name="s", steps=1).model_dump().keys()
    assert stage_of().model_dump(mode="json")["encoder_widths"] == [*WIDTHS]
    unusual = Stage(name="s", steps=1, encoder_blocks=(2,))
    for stage in (Stage(name="s", steps=1), stage_of(), unusual):
        assert Stage.model_validate_json(stage.model_dump_json()) == stage
