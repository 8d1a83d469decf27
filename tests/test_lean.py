"""The lean form of the networks computes what the given form does."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from v2ir.bench.pictures import draw_street
from v2ir.images import from_tensor, to_tensor
from v2ir.model import architecture, build_model, load_model
from v2ir.model.detail_decoder import DetailDecoder
from v2ir.model.networks import build_autoencoder, encode_mode
from v2ir.sampling import TranslateSettings, Translator
from v2ir.sampling.lean import FoldedUpsampling, lean, lean_autoencoder


@settings(deadline=None, max_examples=20)
@given(
    inside=st.integers(1, 5),
    outside=st.integers(1, 5),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    bias=st.booleans(),
    average=st.booleans(),
)
def test_enlarging_and_convolving_is_one_transposed_convolution(
    inside, outside, height, width, bias, average
):
    layer = nn.Conv2d(inside, outside, 3, padding=1, bias=bias).double()
    pixels = torch.randn(2, inside, height, width, dtype=torch.float64)
    wanted = layer(F.interpolate(pixels, scale_factor=2.0, mode="nearest"))
    if average:
        wanted = wanted.mean(dim=1, keepdim=True)
    made = FoldedUpsampling(layer, average=average)(pixels)
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-12)


def _small_kl_autoencoder():
    sizes = architecture("sd15")
    small = {"block_out_channels": [8, 8, 16, 16], "layers_per_block": 1, "norm_num_groups": 4}
    return build_autoencoder(
        sizes.model_copy(update={"autoencoder": {**sizes.autoencoder, **small}})
    )


@pytest.mark.parametrize(
    ("name", "folded"), [("tiny", 3), ("mini", 3), ("kl", 3), ("txt2ir-tiny", 2)]
)
@torch.inference_mode()
def test_a_lean_autoencoder_computes_the_same_and_folds_every_enlargement(name, folded):
    torch.manual_seed(0)
    given_one = _small_kl_autoencoder() if name == "kl" else build_autoencoder(architecture(name))
    given_one = given_one.double().eval()
    before = {key: value.clone() for key, value in given_one.state_dict().items()}
    made = lean_autoencoder(given_one)
    assert sum(isinstance(layer, FoldedUpsampling) for layer in made.modules()) == folded
    images = torch.rand(2, 3, 32, 48, dtype=torch.float64) * 2 - 1
    latents = encode_mode(given_one, images)
    # The norm of `AutoencoderDC` computes in float32 whatever it is given.
    near = {"rtol": 0, "atol": 1e-12 if name in {"kl", "txt2ir-tiny"} else 1e-5}
    torch.testing.assert_close(encode_mode(made, images), latents, **near)
    decoded = made.decode(latents).sample
    assert decoded.shape == (2, 1, 32, 48)
    wanted = given_one.decode(latents).sample.mean(dim=1, keepdim=True)
    torch.testing.assert_close(decoded, wanted, **near)
    after = given_one.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_weights_that_stay_as_they_are_are_not_held_twice():
    model = build_model(architecture("mini"), name="mini", seed=1)
    made = lean(model)
    assert made.unet is model.unet
    assert made.text_encoder is model.text_encoder
    known = {weight.data_ptr() for weight in model.autoencoder.parameters()}
    known |= {weight.data_ptr() for weight in model.image_encoder.parameters()}
    own = [*made.autoencoder.parameters(), *made.image_encoder.parameters()]
    new = [weight for weight in own if weight.data_ptr() not in known]
    # Three folded enlargements and the first layers; the blocks in between are shared.
    folded = sum(weight.numel() for weight in new)
    assert 0 < folded < 0.15 * sum(weight.numel() for weight in own)


def test_a_block_that_does_more_than_repeat_pixels_is_left_alone():
    sizes = architecture("tiny")
    config = {**sizes.autoencoder, "upsample_block_type": "pixel_shuffle"}
    autoencoder = build_autoencoder(sizes.model_copy(update={"autoencoder": config})).eval()
    made = lean_autoencoder(autoencoder)
    assert not any(isinstance(layer, FoldedUpsampling) for layer in made.modules())
    latents = torch.randn(1, 4, 4, 4)
    with torch.inference_mode():
        wanted = autoencoder.decode(latents).sample.mean(dim=1)
        made_ones = made.decode(latents).sample.mean(dim=1)
    torch.testing.assert_close(made_ones, wanted, rtol=0, atol=1e-5)


def test_the_bundled_models_picture_stays_within_a_small_part_of_a_grey_level():
    model = load_model("mini")
    picture = draw_street(3, 96, 64)[0]
    settings_ = TranslateSettings(resolution=64, speed="one-step")
    quick = Translator(model, settings_)
    plain = Translator(model, settings_)
    plain.model = model
    assert quick.model.autoencoder is not model.autoencoder
    assert model.detail_decoder is None or quick.model.detail_decoder is not model.detail_decoder
    caption, scene = "a street at night", np.full((64, 96), 255, np.uint8)
    made, wanted = (
        translator.translate_pixels(picture, caption=caption, segmentation=scene)
        for translator in (quick, plain)
    )
    assert wanted.std() > 0.01
    assert np.abs(made - wanted).max() < 0.05 / 255


def test_the_reference_computes_with_the_networks_as_they_are():
    model = build_model(architecture("tiny"), name="tiny", seed=0)
    translator = Translator(model, TranslateSettings(speed="reference", resolution=64))
    assert translator.model is model


@torch.inference_mode()
def test_channels_come_out_last():
    model = build_model(architecture("mini"), name="mini", seed=2)
    made = lean(model)
    images = to_tensor(draw_street(0, 64, 64)[0])[None]
    encoded = made.autoencoder.encoder.conv_in(images)
    assert encoded.is_contiguous(memory_format=torch.channels_last)
    plain = model.encode_visible(images)
    torch.testing.assert_close(made.encode_visible(images), plain, rtol=1e-4, atol=1e-4)
    latents = torch.randn(1, 8, 8, 8)
    pictures = from_tensor(made.decode(latents)), from_tensor(model.decode(latents))
    assert np.abs(pictures[0] - pictures[1]).max() < 1e-5


@torch.inference_mode()
def test_a_detail_decoder_draws_the_same_with_its_channels_last():
    torch.manual_seed(0)
    model = build_model(architecture("tiny"), name="tiny", seed=0)
    model.detail_decoder = DetailDecoder(latents=4, seen=4, widths=(16, 8, 8)).eval()
    for weight in model.detail_decoder.parameters():  # some start at zero and would say nothing
        nn.init.normal_(weight, std=0.1)
    made = lean(model)
    planes = torch.randn(2, 4 + 4 + 192, 6, 5)
    assert made.decode(planes).std() > 0.01
    torch.testing.assert_close(made.decode(planes), model.decode(planes), rtol=0, atol=1e-5)
    first, given_one = (each.detail_decoder.see_fine.weight for each in (made, model))
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert given_one.is_contiguous()


def test_a_copy_of_the_model_can_be_made_lean_again():
    model = build_model(architecture("tiny"), name="tiny", seed=0)
    once = lean(model)
    twice = lean(copy.copy(once))
    latents = torch.randn(1, 4, 4, 4)
    torch.testing.assert_close(twice.decode(latents), once.decode(latents))
