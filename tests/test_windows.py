from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import street
from v2ir.errors import InputError
from v2ir.images import to_tensor
from v2ir.model import Conditions, Guidance, architecture, build_model
from v2ir.sampling.guidance import GuidedDenoiser
from v2ir.sampling.translator import windows_for
from v2ir.sampling.windows import WindowedDenoiser, Windows, spans


def pointwise(noisy, timestep, conditions):
    """Look at each pixel alone."""
    seen = noisy if conditions.visible is None else noisy + conditions.visible
    return torch.sin(3 * seen) + float(timestep)


class Counting:
    def __init__(self, denoiser):
        self.denoiser, self.shapes = denoiser, []

    def __call__(self, noisy, timestep, conditions):
        self.shapes.append(tuple(noisy.shape[-2:]))
        return self.denoiser(noisy, timestep, conditions)


@st.composite
def covers(draw):
    multiple = draw(st.sampled_from([1, 2, 4]))
    size = draw(st.integers(4, 24)) * multiple
    overlap = draw(st.integers(1, size // 4 // multiple)) * multiple
    return draw(st.integers(1, 120)) * multiple, size, overlap, multiple


@settings(max_examples=60)
@given(covers(), st.sampled_from([1, 8]))
def test_windows_cover_an_axis_and_their_weights_sum_to_one(cover, scale):
    length, size, overlap, multiple = cover
    found = spans(length, size, overlap, multiple)
    total, seen = torch.zeros(length * scale), torch.zeros(length * scale)
    for span in found:
        weights = span.weights(scale)
        assert weights.min() >= 0
        total[span.start * scale : span.stop * scale] += weights
        seen[span.start * scale : span.stop * scale] += 1
        assert span.start % multiple == span.stop % multiple == 0
        assert span.stop - span.start <= size
    assert (found[0].start, found[-1].stop) == (0, length)
    assert seen.max() <= 2
    torch.testing.assert_close(total, torch.ones_like(total))
    assert all(span.after >= overlap for span in found[:-1])
    assert len({span.stop - span.start for span in found}) == 1


@settings(max_examples=30)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(6, 20), st.integers(0, 9))
def test_a_pointwise_denoiser_gives_the_same_in_windows(height, width, size, seed):
    generator = torch.Generator().manual_seed(seed)
    noisy, visible = torch.randn((2, 2, 3, height, width), generator=generator)
    conditions, timestep = Conditions(visible=visible), torch.tensor(5)
    windowed = WindowedDenoiser(pointwise, Windows(size, size // 3))
    whole = pointwise(noisy, timestep, conditions)
    torch.testing.assert_close(windowed(noisy, timestep, conditions), whole)


def test_a_small_latent_is_passed_on_as_it_is():
    inner = Counting(pointwise)
    noisy = torch.randn(1, 3, 12, 16)
    result = WindowedDenoiser(inner, Windows(16, 4))(noisy, torch.tensor(1), Conditions())
    assert inner.shapes == [(12, 16)]
    assert torch.equal(result, pointwise(noisy, torch.tensor(1), Conditions()))


def test_no_window_is_larger_than_asked_however_large_the_latent():
    inner = Counting(pointwise)
    noisy = torch.randn(1, 3, 24, 400)
    WindowedDenoiser(inner, Windows(32, 8, 4))(noisy, torch.tensor(1), Conditions())
    assert set(inner.shapes) == {(24, 32)}
    assert len(inner.shapes) == 17  # ceil((400 - 8) / (32 - 8))


def box_blur(noisy, timestep, conditions):
    """Look at a neighbourhood of 5 x 5, with zeros around."""
    kernel = torch.ones(noisy.shape[1], 1, 5, 5) / 25
    return F.conv2d(noisy, kernel, padding=2, groups=noisy.shape[1])


def test_windows_leave_no_seam():
    noisy = torch.ones(1, 2, 16, 90)
    windowed = WindowedDenoiser(box_blur, Windows(32, 8))
    result = windowed(noisy, torch.tensor(0), Conditions())
    whole = box_blur(noisy, torch.tensor(0), Conditions())
    # The outer part of an overlap is not used, so its wrong surroundings do not show.
    torch.testing.assert_close(result, whole)
    hard = torch.cat([box_blur(part, None, None) for part in noisy.split(30, dim=-1)], dim=-1)
    assert (hard - whole).abs().max() > 0.3


def test_windows_and_guidance_can_be_nested_either_way():
    generator = torch.Generator().manual_seed(0)
    noisy, visible, segmentation = torch.randn((3, 1, 4, 20, 50), generator=generator)
    conditions = Conditions(visible=visible, segmentation=segmentation)

    def denoiser(noisy, timestep, conditions):
        total = noisy
        for part in (conditions.visible, conditions.segmentation):
            total = total if part is None else total * part
        return torch.sin(total)

    guidance, windows = Guidance(visible=2.0, segmentation=1.3), Windows(16, 4)
    one = WindowedDenoiser(GuidedDenoiser(denoiser, guidance), windows)
    other = GuidedDenoiser(WindowedDenoiser(denoiser, windows), guidance)
    step = torch.tensor(500)
    torch.testing.assert_close(one(noisy, step, conditions), other(noisy, step, conditions))


def test_encoding_and_decoding_in_windows_is_close_to_the_whole():
    model = build_model(architecture("tiny"), name="tiny")
    street_scenes = [street(seed, 96, 96)[0] for seed in range(5)]
    images = to_tensor(np.concatenate(street_scenes, axis=1))[None]
    windows = Windows(size=24, overlap=8)
    latents, whole = windows.encode(model.encode, images, 8), model.encode(images)
    decoded, expected = windows.decode(model.decode, whole, 8), model.decode(whole)
    for got, true in ((latents, whole), (decoded, expected)):
        assert got.shape == true.shape
        # Windows do not see as far as the whole; deep in an overlap that hardly matters.
        assert (got - true).abs().mean() < 0.005 * true.std()
        assert (got - true).abs().max() < 0.15 * true.std()


@pytest.mark.parametrize("numbers", [(20, 10, 4, 1), (20, 10, 0, 1), (21, 10, 3, 2)])
def test_windows_that_do_not_fit_are_refused(numbers):
    with pytest.raises(InputError, match="third"):
        spans(*numbers)


@settings(max_examples=40)
@given(st.integers(32, 1024), st.sampled_from([8, 16]), st.sampled_from([16, 32, 64]))
def test_the_windows_of_any_model_are_valid(resolution, factor, multiple):
    windows = windows_for(resolution, factor, multiple)
    length = 40 * windows.multiple
    assert windows.along(length)[-1].stop == length
