"""The denoiser in integers: near the plain one, whatever is beside an image, else refused."""

from __future__ import annotations

import copy
import dataclasses
import gc
import pickle
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quick_layers import small_network, translated
from v2ir.bench.pictures import draw_street
from v2ir.errors import InputError, UnknownNameError
from v2ir.model import load_model
from v2ir.sampling import GenerateSettings, Prompt, TextSampler, TranslateSettings, Translator
from v2ir.sampling import int8 as room
from v2ir.sampling.int8 import (
    Int8Convolution,
    Int8Linear,
    has_integer_units,
    int8_network,
    kernels_are_here,
    with_int8_denoiser,
)

needs_kernels = pytest.mark.skipif(
    not kernels_are_here(), reason="this PyTorch lacks oneDNN's integer operators"
)
needs_units = pytest.mark.skipif(
    not (kernels_are_here() and has_integer_units()),
    reason="this processor does not multiply 8-bit integers",
)
KINDS = (Int8Convolution, Int8Linear)


@pytest.fixture
def every_layer(monkeypatch):
    """Let small layers be rounded, too."""
    monkeypatch.setattr(room, "LEAST_CONVOLUTION", 0)
    monkeypatch.setattr(room, "LEAST_LINEAR", 0)


@pytest.fixture(scope="module")
def mini():
    return load_model("mini")


def kinds_in(network):
    return {type(layer) for layer in network.modules() if isinstance(layer, KINDS)}


def off(made, wanted):
    return float((made - wanted).norm() / wanted.norm())


@needs_kernels
@torch.no_grad()
@settings(deadline=None, max_examples=30)
@given(
    number=st.integers(1, 3),
    inside=st.integers(4, 20),
    outside=st.integers(1, 20),
    height=st.integers(3, 9),
    width=st.integers(3, 9),
    kernel=st.sampled_from([1, 3]),
    stride=st.integers(1, 2),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_convolution_in_integers_is_near_and_no_image_depends_on_another(
    number, inside, outside, height, width, kernel, stride, bias, seed
):
    torch.manual_seed(seed)
    layer = nn.Conv2d(inside, outside, kernel, stride=stride, padding=kernel // 2, bias=bias)
    # Images of very different ranges: one scale for all would drown the faint ones.
    pixels = torch.randn(number, inside, height, width) * 10 ** torch.arange(number).view(
        -1, 1, 1, 1
    )
    rounded = Int8Convolution(layer)
    made = rounded(pixels)
    for image, one in zip(made, pixels, strict=True):
        assert off(image, layer(one)) < 0.03
        assert torch.equal(image, rounded(one[None])[0])


@needs_kernels
@torch.no_grad()
@settings(deadline=None, max_examples=30)
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    inside=st.integers(4, 40),
    outside=st.integers(1, 40),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_linear_layer_in_integers_is_near_and_no_token_depends_on_another(
    shape, inside, outside, bias, seed
):
    torch.manual_seed(seed)
    layer = nn.Linear(inside, outside, bias=bias)
    values = torch.randn(*shape, inside)
    rounded = Int8Linear(layer)
    made = rounded(values)
    assert made.shape == (*shape, outside)
    # A single output may be near zero by cancelling, so all are taken together.
    scale = values.norm() * layer.weight.norm() / outside**0.5
    assert (made - layer(values)).norm() < 0.03 * scale
    flat = values.view(-1, inside)
    one = rounded(flat[-1:])[0]
    assert torch.equal(one, made.view(-1, outside)[-1])


@needs_kernels
@torch.no_grad()
def test_nothing_in_is_the_offset_out():
    convolution, linear = nn.Conv2d(8, 4, 3, padding=1), nn.Linear(8, 4)
    made = Int8Convolution(convolution)(torch.zeros(1, 8, 5, 5))
    torch.testing.assert_close(made, convolution.bias.view(1, 4, 1, 1).expand(1, 4, 5, 5))
    torch.testing.assert_close(Int8Linear(linear)(torch.zeros(2, 8)), linear.bias.expand(2, 4))


@needs_kernels
@torch.no_grad()
def test_a_used_layer_can_be_copied_and_written():
    layer = Int8Linear(nn.Linear(8, 8))
    values = torch.randn(3, 8)
    wanted = layer(values)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(values), wanted)


@needs_kernels
@torch.no_grad()
@pytest.mark.parametrize("name", ["tiny", "txt2ir-tiny", "pixels-tiny"])
def test_a_network_in_integers_is_near_and_the_given_one_stays(name, every_layer):
    network, inputs = small_network(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    made = int8_network(network)
    assert kinds_in(made) == set(KINDS)
    assert not kinds_in(network)
    assert type(made.conv_in) is type(made.conv_out) is nn.Conv2d
    wanted = network(*inputs).sample
    answer = made(*inputs).sample
    assert 0 < off(answer, wanted) < 0.1
    assert torch.equal(answer, made(*inputs).sample)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in before.items())


@needs_kernels
def test_two_networks_of_one_model_hold_its_integers_once_and_let_them_go(every_layer):
    network, _ = small_network("mini")
    first, second = int8_network(network), int8_network(network)
    held = {id(layer) for layer in first.modules() if isinstance(layer, KINDS)}
    assert held == {id(layer) for layer in second.modules() if isinstance(layer, KINDS)}
    rounded = weakref.ref(next(layer for layer in first.modules() if isinstance(layer, KINDS)))
    del first, second
    gc.collect()
    assert rounded() is None
    # Another weight, even behind the count of changes, as merged adapters have it.
    before = int8_network(network).mid_block.resnets[0].conv1
    network.mid_block.resnets[0].conv1.weight.data.mul_(2)
    after = int8_network(network).mid_block.resnets[0].conv1
    assert torch.equal(after.scales, 2 * before.scales)


@needs_kernels
def test_a_convolution_keeps_the_layouts_of_its_latest_sizes():
    rounded = Int8Convolution(nn.Conv2d(8, 8, 3, padding=1))
    with torch.no_grad():
        for side in (4, 5, 6, 7, 8, 5):
            rounded(torch.randn(1, 8, side, side))
    assert list(rounded._layouts) == [(7, 7), (8, 8), (5, 5)]


def test_only_layers_for_which_it_pays_are_in_integers(mini):
    made = int8_network(mini.unet)
    large = [layer for layer in made.modules() if isinstance(layer, KINDS)]
    assert len(large) >= 10
    assert all(layer.levels.numel() >= room.LEAST_CONVOLUTION for layer in large)


@needs_units
@pytest.mark.parametrize(
    "choices",
    [{"speed": "one-step"}, {"solver": "dpmpp", "steps": 4, "reuse": 2}],
    ids=["one step", "features used twice"],
)
def test_the_bundled_models_picture_is_near(mini, choices):
    made, wanted = (
        translated(Translator(mini, TranslateSettings(resolution=64, precision=form, **choices)))
        for form in ("int8", "float32")
    )
    assert wanted.std() > 0.01
    assert 0 < np.abs(made - wanted).mean() < 1 / 255


@needs_units
def test_the_picture_is_the_same_again_and_after_others(mini):
    chosen = TranslateSettings(resolution=64, speed="one-step", precision="int8")
    used, fresh = Translator(mini, chosen), Translator(copy.deepcopy(mini), chosen)
    used.translate_pixels(draw_street(1, 160, 64)[0])
    np.testing.assert_array_equal(translated(used), translated(fresh))


@needs_units
def test_pictures_from_text_are_made_in_integers(mini):
    made, wanted = (
        TextSampler(
            mini, GenerateSettings(width=64, height=64, steps=2, seed=1, precision=form)
        ).run([(Prompt("a street", "a"), 0)])[0]
        for form in ("int8", "float32")
    )
    assert 0 < np.abs(made - wanted).mean() < 2 / 255


@needs_units
@pytest.mark.parametrize("form", [torch.float64, torch.bfloat16])
def test_a_model_of_another_format_is_rounded_from_its_own(mini, form):
    wide = dataclasses.replace(mini, unet=copy.deepcopy(mini.unet).to(form))
    translator = Translator(wide, TranslateSettings(resolution=64, precision="int8"))
    assert kinds_in(translator.model.unet)
    assert translator.model.dtype == torch.float32
    assert translated(translator).std() > 0.01


def test_what_cannot_multiply_integers_is_refused(mini, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(room, "has_integer_units", lambda: False)
        with pytest.raises(InputError, match="processor without such instructions"):
            Translator(mini, TranslateSettings(precision="int8"))
    monkeypatch.setattr(room, "has_integer_units", lambda: True)
    with monkeypatch.context() as patch:
        patch.setattr(room, "kernels_are_here", lambda: False)
        with pytest.raises(InputError, match="integer operators"):
            with_int8_denoiser(mini)
    elsewhere = copy.copy(mini)
    monkeypatch.setattr(type(elsewhere), "device", torch.device("meta"))
    with pytest.raises(InputError, match="the device meta"):
        with_int8_denoiser(elsewhere)


@needs_kernels
def test_operators_that_are_missing_or_answer_otherwise_are_not_used(monkeypatch):
    def gone():
        raise AttributeError

    with monkeypatch.context() as patch:
        patch.setattr(room, "_kernels", gone)
        assert not kernels_are_here()
    monkeypatch.setattr(room, "_levels", lambda values, scales: torch.zeros_like(values).byte())
    assert not kernels_are_here()


def test_another_format_is_refused_by_name(mini):
    with pytest.raises(UnknownNameError, match="int8"):
        Translator(mini, TranslateSettings(precision="int4"))
