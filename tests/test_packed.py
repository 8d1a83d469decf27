"""Packed weights: the same function, the same weights, and only where it can be done."""

from __future__ import annotations

import copy
import gc
import pickle
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quick_layers import small_network, translated
from v2ir.bench.pictures import draw_street
from v2ir.model import Guidance, architecture, build_model, load_model
from v2ir.model.folding import add_guidance_embedding
from v2ir.model.networks import build_unet
from v2ir.model.pooling import pooled_text
from v2ir.sampling import GenerateSettings, Prompt, TextSampler, TranslateSettings, Translator
from v2ir.sampling import packed as room
from v2ir.sampling.packed import (
    PackedConvolution,
    PackedLinear,
    kernels_are_here,
    memory_of_machine,
    packed_network,
    with_packed_denoiser,
)

needs_kernels = pytest.mark.skipif(
    not kernels_are_here(), reason="this PyTorch lacks oneDNN's operators"
)
needs_bfloat16 = pytest.mark.skipif(
    not kernels_are_here(torch.bfloat16), reason="no such operators for bfloat16 here"
)
KINDS = (PackedConvolution, PackedLinear)


@pytest.fixture
def every_layer(monkeypatch):
    """Let small layers be packed, too."""
    monkeypatch.setattr(room, "LEAST_CONVOLUTION", 0)
    monkeypatch.setattr(room, "LEAST_LINEAR", 0)


@pytest.fixture(scope="module")
def mini():
    return load_model("mini")


def kinds_in(network):
    return [type(layer) for layer in network.modules() if isinstance(layer, KINDS)]


@needs_kernels
@settings(deadline=None, max_examples=30)
@given(
    number=st.integers(1, 3),
    inside=st.integers(1, 20),
    outside=st.integers(1, 20),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    stride=st.integers(1, 2),
    bias=st.booleans(),
    last=st.booleans(),
)
def test_a_packed_convolution_computes_the_same(
    number, inside, outside, height, width, stride, bias, last
):
    layer = nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=bias)
    pixels = torch.randn(number, inside, height, width)
    if last:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    packed = PackedConvolution.of(layer)
    with torch.inference_mode():
        torch.testing.assert_close(packed(pixels), layer(pixels), rtol=1e-5, atol=1e-5)
    assert packed._layout is not None


@needs_kernels
@settings(deadline=None, max_examples=30)
@given(
    shape=st.lists(st.integers(1, 5), min_size=0, max_size=3),
    inside=st.integers(1, 40),
    outside=st.integers(1, 40),
    bias=st.booleans(),
    turned=st.booleans(),
)
def test_a_packed_linear_layer_computes_the_same(shape, inside, outside, bias, turned):
    layer = nn.Linear(inside, outside, bias=bias)
    values = torch.randn(*shape, inside)
    if turned and shape:
        # As attention gives it: the last axis is not the one that lies together.
        values = values.transpose(-1, -2).contiguous().transpose(-1, -2)
    packed = PackedLinear.of(layer)
    with torch.inference_mode():
        torch.testing.assert_close(packed(values), layer(values), rtol=1e-5, atol=1e-5)
    assert packed._layout is not None


@needs_kernels
@torch.no_grad()
@pytest.mark.parametrize("name", ["tiny", "txt2ir-tiny", "pixels-tiny"])
def test_a_packed_network_computes_the_same_with_the_same_weights(name, every_layer):
    network, inputs = small_network(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    made = packed_network(network)
    assert set(kinds_in(made)) == set(KINDS)
    assert not kinds_in(network)
    assert type(made.conv_in) is nn.Conv2d
    wanted = network(*inputs).sample
    assert wanted.std() > 0.01
    torch.testing.assert_close(made(*inputs).sample, wanted, rtol=1e-4, atol=1e-5)
    again = made(*inputs).sample
    assert torch.equal(again, made(*inputs).sample)
    assert {id(each) for each in made.parameters()} == {id(each) for each in network.parameters()}
    assert made.state_dict().keys() == before.keys()
    assert all(torch.equal(network.state_dict()[key], value) for key, value in before.items())


def test_only_layers_for_which_it_pays_are_packed(mini):
    made = packed_network(mini.unet)
    large = [layer for layer in made.modules() if isinstance(layer, PackedConvolution)]
    assert len(large) >= 10
    assert not any(isinstance(layer, PackedLinear) for layer in made.modules())
    assert type(made.conv_out) is nn.Conv2d
    assert all(layer.weight.numel() >= room.LEAST_CONVOLUTION for layer in large)


def test_layers_that_do_more_than_their_names_say_are_left_alone(every_layer):
    class Louder(nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    around = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")
    plain = nn.Sequential(
        Louder(4, 4), around, nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding="same")
    )
    made = packed_network(nn.Sequential(plain, nn.Linear(4, 4)))
    assert kinds_in(made) == [PackedLinear]
    assert type(made[1]) is PackedLinear


def both(model, settings_, monkeypatch):
    """Return a translator with packed weights and one that differs from it in that alone."""
    quick = Translator(model, settings_)
    with monkeypatch.context() as patch:
        patch.setattr(room, "kernels_are_here", lambda _: False)
        plain = Translator(model, settings_)
    assert kinds_in(quick.model.unet)
    assert plain.model.unet is model.unet
    return quick, plain


@needs_kernels
@pytest.mark.parametrize(
    "choices",
    [
        {"speed": "one-step"},
        {"speed": "one-step", "style": "none"},
        {"solver": "dpmpp", "steps": 4, "reuse": 2},
        {"solver": "dpmpp", "steps": 2, "guidance": Guidance(text=3.0, visible=1.5)},
    ],
    ids=["one step", "no style", "features used twice", "guidance"],
)
def test_the_bundled_models_picture_stays_within_a_small_part_of_a_grey_level(
    mini, choices, monkeypatch
):
    quick, plain = both(mini, TranslateSettings(resolution=64, **choices), monkeypatch)
    made, wanted = translated(quick), translated(plain)
    assert wanted.std() > 0.01
    assert np.abs(made - wanted).max() < 0.05 / 255
    np.testing.assert_array_equal(made, translated(quick))
    np.testing.assert_array_equal(
        made, translated(Translator(mini, TranslateSettings(resolution=64, **choices)))
    )


@needs_kernels
def test_what_was_translated_before_does_not_matter(mini):
    settings_ = TranslateSettings(resolution=64, speed="one-step")
    used, fresh = Translator(mini, settings_), Translator(copy.deepcopy(mini), settings_)
    used.translate_pixels(draw_street(1, 160, 64)[0])
    np.testing.assert_array_equal(translated(used), translated(fresh))


@needs_kernels
def test_pictures_from_text_are_the_same(mini, monkeypatch):
    chosen = GenerateSettings(width=64, height=64, steps=2, seed=1)
    quick = TextSampler(mini, chosen)
    monkeypatch.setattr(room, "kernels_are_here", lambda _: False)
    plain = TextSampler(mini, chosen)
    assert kinds_in(quick.model.unet)
    assert not kinds_in(plain.model.unet)
    made, wanted = (each.run([(Prompt("a street", "a"), 0)])[0] for each in (quick, plain))
    assert wanted.std() > 0.01
    assert np.abs(made - wanted).max() < 0.05 / 255


@needs_kernels
@torch.no_grad()
def test_a_network_with_guidance_folded_in_is_told_its_scales(every_layer):
    torch.manual_seed(0)
    network = add_guidance_embedding(build_unet(architecture("tiny").unet)).eval()
    layer = network.time_embedding.cond_proj
    nn.init.normal_(layer.weight, std=0.3)
    made = packed_network(network)
    assert type(made.time_embedding.cond_proj) is PackedLinear
    assert made.time_embedding.cond_proj.in_features == layer.in_features
    noisy, text = torch.randn(1, network.config.in_channels, 16, 16), torch.randn(1, 5, 16)

    def answer(which, scales):
        return which(noisy, torch.tensor(9), text, timestep_cond=scales).sample

    one, other = torch.randn(2, 1, layer.in_features)
    torch.testing.assert_close(answer(made, one), answer(network, one), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(answer(made, one), answer(made, other), atol=1e-3)


@needs_kernels
@torch.no_grad()
def test_adapters_work_merged_and_unmerged(every_layer):
    from v2ir.training.lora import attach_lora, merge_lora

    torch.manual_seed(0)
    network = build_unet(architecture("tiny").unet).eval()
    noisy, text = torch.randn(1, network.config.in_channels, 16, 16), torch.randn(1, 5, 16)
    bare = packed_network(network)(noisy, torch.tensor(9), text).sample
    attach_lora(network, rank=2, alpha=2.0)
    for name, weight in network.named_parameters():
        if "lora_" in name:  # one of a pair starts at zero and would say nothing
            nn.init.normal_(weight, std=0.3)
    wanted = network(noisy, torch.tensor(9), text).sample
    assert not torch.allclose(wanted, bare, atol=1e-2)
    near = {"rtol": 1e-4, "atol": 1e-5}
    unmerged = packed_network(network)
    torch.testing.assert_close(unmerged(noisy, torch.tensor(9), text).sample, wanted, **near)
    merged = packed_network(merge_lora(network))
    assert set(kinds_in(merged)) == set(KINDS)
    # Merging changed the weights of layouts that are in use by the unmerged one.
    torch.testing.assert_close(merged(noisy, torch.tensor(9), text).sample, wanted, **near)


@needs_kernels
@torch.no_grad()
def test_a_weight_that_changes_is_packed_anew():
    layer = nn.Linear(8, 8)
    packed = PackedLinear.of(layer)
    values = torch.randn(3, 8)
    for change in (
        lambda: None,
        lambda: layer.weight.mul_(2),
        lambda: setattr(layer.weight, "data", torch.randn(8, 8)),
        lambda: layer.load_state_dict(nn.Linear(8, 8).state_dict()),
    ):
        change()
        torch.testing.assert_close(packed(values), layer(values))


@needs_kernels
def test_weights_whose_changes_are_not_counted_are_not_packed():
    with torch.inference_mode():
        packed = PackedLinear.of(nn.Linear(8, 8))
        values = torch.randn(3, 8)
        packed(values)
        packed.weight.zero_()
        torch.testing.assert_close(packed(values), packed.bias.expand(3, -1))
    assert packed._layout is None


@needs_kernels
@torch.no_grad()
def test_two_of_one_weight_hold_its_layout_once_and_let_it_go():
    gc.collect()
    before = len(room._LAYOUTS)
    layer = nn.Conv2d(8, 8, 3, padding=1)
    one, two = PackedConvolution.of(layer), PackedConvolution.of(layer)
    wider = PackedConvolution.of(nn.Conv2d(8, 8, 3, padding=2))
    wider.weight = layer.weight
    for each in (one, two, wider):
        each(torch.randn(1, 8, 5, 5))
    assert one._layout is two._layout
    assert wider._layout is not one._layout
    assert len(room._LAYOUTS) == before + 2
    del one, two, wider, each
    gc.collect()
    assert len(room._LAYOUTS) == before


@needs_kernels
@torch.no_grad()
def test_a_used_layer_can_be_copied_and_written():
    values = torch.randn(3, 8)
    packed = PackedLinear.of(nn.Linear(8, 8))
    wanted = packed(values)
    for other in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert torch.equal(other(values), wanted)
        assert other._layout is not packed._layout
        other.weight.zero_()
        torch.testing.assert_close(other(values), other.bias.expand(3, -1))
    assert torch.equal(packed(values), wanted)


@needs_kernels
def test_gradients_and_other_formats_are_computed_as_ever():
    layer = nn.Linear(8, 8)
    packed = PackedLinear.of(layer)
    values = torch.randn(3, 8, requires_grad=True)
    packed(values).sum().backward()
    torch.testing.assert_close(values.grad, layer.weight.detach().sum(0).expand(3, -1))
    assert layer.weight.grad is not None
    with torch.no_grad():
        wide = packed.double()(values.double())
    assert wide.dtype == torch.float64
    assert packed._layout is None


@needs_kernels
def test_only_formats_that_the_operators_know_are_packed(monkeypatch):
    model = build_model(architecture("mini"), name="mini", seed=1)
    assert kinds_in(with_packed_denoiser(model).unet)
    assert not kinds_in(model.unet)
    for dtype in (torch.float64, torch.float16):
        model.unet.to(dtype)
        assert with_packed_denoiser(model) is model
    model.unet.to(torch.bfloat16)
    asked = []
    monkeypatch.setattr(room, "kernels_are_here", lambda dtype: asked.append(dtype) or False)
    assert with_packed_denoiser(model) is model
    assert asked == [torch.bfloat16]


@needs_bfloat16
@torch.no_grad()
@pytest.mark.parametrize("name", ["tiny", "txt2ir-tiny"])
def test_in_bfloat16_the_packed_network_is_as_near_as_the_plain_one(name, every_layer):
    network, inputs = small_network(name)
    wanted = network(*inputs).sample
    half = copy.deepcopy(network).to(torch.bfloat16)
    given = [
        each.bfloat16() if isinstance(each, torch.Tensor) and each.is_floating_point() else each
        for each in inputs[:-1]
    ]
    given.append(pooled_text(half, given[2]))
    made = packed_network(half)
    assert set(kinds_in(made)) == set(KINDS)
    by_name = [(half(*given).sample - wanted).std(), (made(*given).sample - wanted).std()]
    assert all(layer._layout for layer in made.modules() if isinstance(layer, KINDS))
    assert 0 < by_name[1] < 1.5 * by_name[0] < 0.1 * wanted.std()


@needs_bfloat16
def test_a_picture_in_bfloat16_is_packed_and_near_the_one_in_float32(mini):
    choices = {"resolution": 64, "speed": "one-step"}
    half = Translator(mini, TranslateSettings(**choices, precision="bfloat16"))
    full = Translator(mini, TranslateSettings(**choices, precision="float32"))
    assert kinds_in(half.model.unet)
    made, wanted = translated(half), translated(full)
    assert 0 < np.abs(made - wanted).mean() < 0.5 / 255
    np.testing.assert_array_equal(made, translated(half))


@needs_bfloat16
def test_a_weight_in_bfloat16_that_changes_is_packed_anew():
    layer = nn.Linear(8, 8).bfloat16()
    packed, values = PackedLinear.of(layer), torch.randn(3, 8, dtype=torch.bfloat16)
    with torch.inference_mode():
        first = packed(values)
    with torch.no_grad():
        layer.weight.data[0, 0] += 1  # behind the count of changes
        layer.weight.mul_(1)
        torch.testing.assert_close(packed(values), layer(values), rtol=0.02, atol=0.02)
        assert not torch.equal(packed(values), first)


@needs_kernels
def test_the_reference_computes_with_the_network_as_it_is(mini):
    assert Translator(mini, TranslateSettings(speed="reference")).model is mini
    assert Translator(mini, TranslateSettings(speed="exact")).model.unet is not mini.unet


@needs_kernels
def test_a_network_of_a_quarter_of_the_memory_is_not_held_twice(mini, monkeypatch):
    size = 4 * sum(weight.numel() for weight in mini.unet.parameters())
    monkeypatch.setattr(room, "memory_of_machine", lambda: 4 * size)
    assert with_packed_denoiser(mini) is mini
    monkeypatch.setattr(room, "memory_of_machine", lambda: 4 * size + 1)
    assert with_packed_denoiser(mini).unet is not mini.unet
    monkeypatch.setattr(room, "memory_of_machine", lambda: None)
    assert with_packed_denoiser(mini) is mini


def test_the_memory_is_the_machines_or_the_containers(monkeypatch, tmp_path):
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}
    monkeypatch.setattr(room.os, "sysconf", pages.__getitem__)
    new, old = tmp_path / "max", tmp_path / "limit"
    monkeypatch.setattr(room, "_LIMITS", (str(new), str(old)))
    assert memory_of_machine() == 4_096_000
    new.write_text("max\n")
    assert memory_of_machine() == 4_096_000
    old.write_text("9223372036854771712\n")
    assert memory_of_machine() == 4_096_000
    new.write_text("1000000\n")
    assert memory_of_machine() == 1_000_000

    def refuse(name):
        raise ValueError(name)

    monkeypatch.setattr(room.os, "sysconf", refuse)
    assert memory_of_machine() is None
    monkeypatch.delattr(room.os, "sysconf")
    assert memory_of_machine() is None


def test_the_operators_are_tried_before_they_are_used(mini, monkeypatch):
    def answers(values, weight, bias, *how):
        wide = weight.dim() == 4
        return (torch.conv2d if wide else nn.functional.linear)(values, weight, bias)

    def refuses(*_):
        raise RuntimeError("not built with it")

    good = {
        "_reorder_convolution_weight": lambda weight, *_: weight,
        "_reorder_linear_weight": lambda weight, *_: weight,
        "_convolution_pointwise": answers,
        "_linear_pointwise": answers,
    }

    def with_kernels(kernels):
        monkeypatch.setattr(room, "_kernels", lambda: types.SimpleNamespace(**kernels))
        return kernels_are_here()

    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert with_kernels(good)
    for name in good:
        assert not with_kernels({key: good[key] for key in good if key != name})
        assert not with_kernels({**good, name: refuses})
        assert not with_kernels({**good, name: lambda: None})  # another signature
    wrong = {**good, "_linear_pointwise": lambda *given_: 1.01 * answers(*given_)}
    assert not with_kernels(wrong)
    assert with_packed_denoiser(mini) is mini
    monkeypatch.setattr(room, "_kernels", lambda: types.SimpleNamespace(**good))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not kernels_are_here()


@torch.no_grad()
def test_a_layout_is_for_a_size_and_not_for_a_batch():
    plain = torch.nn.Conv2d(144, 144, 3, padding=1)
    layer = PackedConvolution.of(plain)
    layouts = []
    for number, side in ((1, 6), (2, 6), (1, 12), (2, 6)):
        values = torch.randn(number, 144, side, side)
        torch.testing.assert_close(layer(values), plain(values), rtol=1e-4, atol=1e-5)
        layouts.append(layer._layout)
    assert layouts[0] is layouts[1]
    assert layouts[2] is not layouts[1]
