from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch

from v2ir.errors import ModelError, UnknownNameError
from v2ir.model import (
    Conditions,
    ModelCard,
    NoiseSchedule,
    add_styles,
    architecture,
    build_model,
    denoising_loss,
    load_model,
    narrow_input,
    widen_input,
)
from v2ir.model.networks import ARCHITECTURES, build_scheduler, build_unet

WORDS = ["turn", "the", "visible", "image", "of", "into", "infrared", "a", "street", "night", "at"]


@pytest.fixture(scope="module")
def model():
    return build_model(architecture("tiny"), name="small", styles=("north", "south"), words=WORDS)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    model.save(path)
    return path


def some_conditions(model, number=2, side=8):
    generator = torch.Generator().manual_seed(5)
    pictures = torch.rand((2, number, 3, side * 8, side * 8), generator=generator) * 2 - 1
    return model.conditions(
        visible=pictures[0],
        segmentation=pictures[1],
        captions=["a street at night", None][:number],
        style=torch.tensor([1, 2][:number]),
    )


def test_a_widened_network_with_zero_conditions_gives_the_old_output_exactly():
    config = {**architecture("tiny").unet, "in_channels": 4}
    narrow = build_unet(config).eval()
    wide = widen_input(narrow, 12)
    noisy, text = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 16)
    beside = torch.zeros(2, 8, 8, 8)
    with torch.no_grad():
        old = narrow(noisy, 7, text).sample
        new = wide(torch.cat([noisy, beside], 1), 7, text).sample
        told = wide(torch.cat([noisy, beside + 1], 1), 7, text).sample
    assert torch.equal(old, new)
    assert torch.equal(old, told), "new weights start at zero, whatever the conditions"
    assert wide.config.in_channels == 12
    assert narrow.config.in_channels == 4
    with pytest.raises(ModelError, match="widened"):
        widen_input(wide, 4)


def test_a_narrowed_network_gives_what_the_whole_one_gives_beside_zeros():
    torch.manual_seed(5)
    wide = build_unet({**architecture("tiny").unet, "in_channels": 12}).eval()
    narrow = narrow_input(wide, 4)
    noisy, text = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 16)
    with torch.no_grad():
        whole = wide(torch.cat([noisy, torch.zeros(2, 8, 8, 8)], 1), 7, text).sample
        told = wide(torch.cat([noisy, torch.ones(2, 8, 8, 8)], 1), 7, text).sample
        torch.testing.assert_close(narrow(noisy, 7, text).sample, whole, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(whole, told)
    assert (narrow.config.in_channels, wide.config.in_channels) == (4, 12)
    with pytest.raises(ModelError, match="narrowed"):
        narrow_input(wide, 16)


def test_added_styles_keep_the_old_ones(model):
    unet = build_unet(architecture("tiny").unet, 2).eval()
    torch.nn.init.normal_(unet.class_embedding.weight)
    wider = add_styles(unet, 5)
    inputs = torch.randn(3, 12, 8, 8), 7, torch.randn(3, 5, 16)
    labels = torch.tensor([0, 1, 2])
    with torch.no_grad():
        old = unet(*inputs, class_labels=labels).sample
        assert torch.equal(old, wider(*inputs, class_labels=labels).sample)
        one = tuple(x[:1] if isinstance(x, torch.Tensor) else x for x in inputs)
        new = wider(*one, class_labels=torch.tensor([5])).sample
    assert torch.equal(new, wider(*one, class_labels=torch.tensor([0])).sample)
    with pytest.raises(ModelError, match="removed"):
        add_styles(wider, 1)


def test_sizes_of_the_full_network_are_those_of_diffv2ir():
    with torch.device("meta"):
        unet = build_unet(ARCHITECTURES["sd15"].unet)
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964 + 320 * 9 * 8
    assert tuple(unet.conv_in.weight.shape) == (320, 12, 3, 3)


def test_every_condition_reaches_the_network(model):
    conditions = some_conditions(model)
    # A fresh network is blind to styles: their embedding starts at zero.
    torch.nn.init.normal_(model.unet.class_embedding.weight)
    noisy = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        full = model.denoiser(noisy, torch.tensor(500), conditions)
        for name in ("visible", "segmentation", "text", "style"):
            less = model.denoiser(noisy, torch.tensor(500), conditions.without(name))
            assert (full[0] - less[0]).abs().max() > 1e-6, name
    torch.nn.init.zeros_(model.unet.class_embedding.weight)


def test_null_conditions_are_the_published_ones(model):
    conditions = some_conditions(model)
    masks = {
        name: torch.tensor([True, False]) for name in ("visible", "segmentation", "text", "style")
    }
    dropped = conditions.drop(masks)
    assert dropped.visible[0].abs().max() == 0
    assert dropped.style.tolist() == [0, 2]
    assert torch.equal(dropped.text[0], model.embed_prompts([""])[0])
    for name in masks:
        assert torch.equal(getattr(dropped, name)[1], getattr(conditions, name)[1])
    noisy = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        by_zeros = model.denoiser(noisy, torch.tensor(3), dropped)[0]
        by_none = model.denoiser(noisy, torch.tensor(3), Conditions())[0]
    torch.testing.assert_close(by_zeros, by_none)


def test_joined_conditions_fill_what_is_missing(model):
    full = some_conditions(model)
    joined = Conditions.concatenate([full.without("visible", "text"), full])
    assert joined.visible.shape[0] == 4
    assert joined.visible[:2].abs().max() == 0
    assert torch.equal(joined.text[:1], full.null_text)
    assert torch.equal(joined.text[2:], full.text)


def test_the_first_channels_are_the_noisy_latent_then_visible_then_segmentation(model):
    seen = {}

    class Recorder:
        config = model.unet.config

        def __call__(self, planes, timestep, **more):
            seen["planes"] = planes
            return type("Output", (), {"sample": planes[:, :4]})

    denoiser = model.denoiser
    denoiser.unet = Recorder()
    conditions = some_conditions(model)
    noisy = torch.randn(2, 4, 8, 8)
    denoiser(noisy, torch.tensor(1), conditions)
    expected = torch.cat([noisy, conditions.visible, conditions.segmentation], 1)
    assert torch.equal(seen["planes"], expected)


def test_condition_latents_are_not_scaled_unless_the_card_says_so(model):
    pictures = torch.rand(1, 3, 64, 64)
    model.autoencoder.register_to_config(scaling_factor=0.25)
    scaled = model.encode(pictures)
    assert model.card.scale_conditions
    card = model.card.model_copy(update={"scale_conditions": False})
    plain = dataclasses.replace(model, card=card)
    torch.testing.assert_close(plain.encode(pictures) * 0.25, scaled)
    torch.testing.assert_close(plain.encode_target(pictures), scaled)
    model.autoencoder.register_to_config(scaling_factor=1.0)


@pytest.mark.parametrize("name", ["sd15", "mini"])
def test_noise_schedule_agrees_with_diffusers(name):
    scheduler = build_scheduler(architecture(name).scheduler)
    schedule = NoiseSchedule(scheduler.alphas_cumprod, scheduler.config.prediction_type)
    clean, noise = torch.randn(2, 8, 4, 5, 5, dtype=torch.float64)
    timesteps = torch.tensor([0, 1, 250, 500, 750, 900, 998, 999])
    noisy = schedule.add_noise(clean, noise, timesteps)
    torch.testing.assert_close(
        noisy, scheduler.add_noise(clean, noise, timesteps), rtol=1e-5, atol=1e-5
    )
    velocity = NoiseSchedule(scheduler.alphas_cumprod, "v_prediction")
    torch.testing.assert_close(
        velocity.target(clean, noise, timesteps),
        scheduler.get_velocity(clean, noise, timesteps),
        rtol=1e-5,
        atol=1e-5,
    )
    for kind in ("v_prediction", "sample"):
        each = NoiseSchedule(scheduler.alphas_cumprod, kind)
        target = each.target(clean, noise, timesteps)
        torch.testing.assert_close(each.clean_estimate(noisy, target, timesteps), clean)


def test_the_last_timestep_of_the_small_schedule_is_pure_noise():
    scheduler = build_scheduler(architecture("mini").scheduler)
    assert scheduler.alphas_cumprod[-1] < 1e-6
    assert build_scheduler(architecture("sd15").scheduler).alphas_cumprod[-1] > 0.004


def test_the_loss_is_zero_for_a_perfect_denoiser_and_counts_each_image():
    scheduler = build_scheduler(architecture("mini").scheduler)
    schedule = NoiseSchedule(scheduler.alphas_cumprod, "epsilon")
    clean, noise = torch.randn(2, 3, 4, 5, 5)
    timesteps = torch.tensor([10, 500, 900])

    def off_by(noisy, timestep, conditions):
        return noise + torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1, 1)

    losses = denoising_loss(off_by, schedule, clean, noise, timesteps, Conditions())
    torch.testing.assert_close(losses, torch.tensor([0.0, 1.0, 4.0]))


def test_a_saved_model_is_the_same_model(model, folder):
    again = load_model(folder)
    conditions = some_conditions(model)
    noisy = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        first = model.denoiser(noisy, torch.tensor(40), conditions)
        second = again.denoiser(noisy, torch.tensor(40), some_conditions(again))
    assert torch.equal(first, second)
    assert again.card == model.card
    assert len(again.hash) == 64


def test_half_precision_files_leave_the_model_in_memory_alone(model, tmp_path):
    before = model.unet.conv_in.weight.clone()
    model.save(tmp_path, dtype=torch.float16)
    assert torch.equal(before, model.unet.conv_in.weight)
    again = load_model(tmp_path)
    assert again.dtype == torch.float32
    torch.testing.assert_close(again.unet.conv_in.weight, before, rtol=1e-3, atol=1e-4)


def test_saving_and_loading_draw_no_bars(model, tmp_path, capfd):
    from transformers.utils import logging

    logging.enable_progress_bar()
    model.save(tmp_path)
    logging.enable_progress_bar()
    load_model(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_parts_open_with_diffusers_and_transformers(folder):
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel

    assert UNet2DConditionModel.from_pretrained(folder, subfolder="unet").config.in_channels == 12
    assert CLIPTextModel.from_pretrained(folder / "text_encoder").config.hidden_size == 16


def test_missing_weights_are_an_error(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    path = broken / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors.pop("conv_in.weight")
    save_file(tensors, path)
    with pytest.raises(ModelError, match="conv_in"):
        load_model(broken)


def test_a_card_that_does_not_fit_is_an_error(folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    path = broken / "v2ir.json"
    card = json.loads(path.read_text())
    path.write_text(json.dumps({**card, "styles": ["north"]}))
    with pytest.raises(ModelError, match="styles"):
        load_model(broken)
    path.write_text(json.dumps({**card, "channels": "many"}))
    with pytest.raises(ModelError, match="not valid"):
        load_model(broken)


def test_unknown_models_are_refused(tmp_path):
    with pytest.raises(UnknownNameError, match="unknown model"):
        load_model("no-such-model")
    with pytest.raises(ModelError, match=r"v2ir\.json"):
        load_model(tmp_path)
    with pytest.raises(ModelError, match="hub"):
        load_model("nobody/nothing")


def test_styles_by_name(model):
    assert model.style_number("south") == 2
    assert model.style_number("none") == 0
    assert model.style_number(None) == 0
    with pytest.raises(UnknownNameError, match="did you mean north"):
        model.style_number("nort")


def test_prompts(model):
    card = ModelCard(name="x", channels=4)
    assert card.prompt("a cat") == "turn the visible image of a cat into infrared"
    assert card.prompt(None) == "turn the RGB image into the infrared one"
    assert not torch.equal(model.embed(["a street"])[0], model.embed(["a night"])[0])
    with pytest.raises(ValueError, match="caption"):
        ModelCard(name="x", channels=4, prompt_template="turn it")


def test_unknown_words_are_read_letter_by_letter(model):
    ids = model.token_ids(["zebra", "zebrb"])
    unknown = model.tokenizer.unk_token_id
    assert unknown not in ids
    assert not torch.equal(ids[0], ids[1])
