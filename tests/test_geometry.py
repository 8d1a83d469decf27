from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v2ir.errors import InputError
from v2ir.sampling.geometry import Geometry, apply, fit, padded, scaled, undo

sides = st.one_of(st.integers(1, 90), st.integers(91, 700), st.sampled_from([1, 4000]))
resolutions = st.one_of(st.just("native"), st.sampled_from([32, 64, 100, 256, 384]))
multiples = st.sampled_from([1, 8, 16, 32, 64])


def ramp(width: int, height: int) -> np.ndarray:
    """Horizontal and vertical brightness ramps in two channels, one constant."""
    x = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    y = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return np.stack([x, y, np.full_like(x, 77)], axis=-1).round().astype(np.uint8)


@settings(max_examples=150)
@given(sides, sides, resolutions, multiples)
def test_any_size_fits_without_distortion(width, height, resolution, multiple):
    geometry = fit(width, height, resolution, multiple)
    across, down = geometry.working_size
    assert across % multiple == down % multiple == 0
    padding = (geometry.left, geometry.top, geometry.right, geometry.bottom)
    assert all(0 <= pad < multiple for pad in padding)
    # One factor for both axes, each rounded to a whole pixel.
    assert abs(geometry.scaled_width - width * geometry.scale) <= 0.5 or geometry.scaled_width == 1
    assert abs(geometry.scaled_height - height * geometry.scale) <= 0.5
    if min(width, height) >= 64 or resolution == "native":
        assert geometry.scale <= 1.0
        if resolution != "native":
            short = min(geometry.scaled_width, geometry.scaled_height)
            assert short == min(resolution, width, height)
    else:
        assert 1.0 <= geometry.scale <= 4.0


@settings(max_examples=40)
@given(st.integers(1, 200), st.integers(1, 200), resolutions, multiples)
def test_out_and_back_gives_the_same_size_and_nearly_the_same_picture(
    width, height, resolution, multiple
):
    geometry = fit(width, height, resolution, multiple)
    pixels = ramp(width, height)
    working = apply(pixels, geometry)
    assert working.shape[:2] == geometry.working_size[::-1]
    back = np.stack(
        [undo(np.ascontiguousarray(working[..., c]), geometry) for c in range(3)], axis=-1
    )
    assert back.shape == pixels.shape
    if geometry.scale == 1.0:
        np.testing.assert_array_equal(back, pixels)
    else:
        assert abs(back[..., 2].astype(int) - 77).max() == 0
        # A ramp survives resizing but for its ends, where there is less to average.
        step = 255 / max(min(geometry.scaled_width, geometry.scaled_height) - 1, 1)
        assert abs(back.astype(int) - pixels).max() <= 2 + 2 * step


@pytest.mark.parametrize(("width", "height"), [(4000, 1), (1, 4000), (4000, 500), (333, 4000)])
def test_strips_and_panoramas_keep_their_size(width, height):
    geometry = fit(width, height, 384, 32)
    working = apply(ramp(width, height), geometry)
    assert undo(np.ascontiguousarray(working[..., 0]), geometry).shape == (height, width)
    assert working.shape[0] * working.shape[1] <= 4032 * 500


@settings(max_examples=100)
@given(sides, sides, resolutions, multiples, st.floats(0, 1), st.floats(0, 1))
def test_a_point_comes_back_to_its_place(width, height, resolution, multiple, u, v):
    geometry = fit(width, height, resolution, multiple)
    x, y = u * width, v * height
    assert geometry.to_original(*geometry.to_working(x, y)) == pytest.approx((x, y), abs=1e-6)


@pytest.mark.parametrize("size", [(640, 512), (641, 379), (50, 900)])
def test_a_bright_dot_lands_where_the_map_of_points_says(size):
    width, height = size
    geometry = fit(width, height, 256, 32)
    x, y = width * 0.7, height * 0.4
    pixels = np.zeros((height, width), np.uint8)
    pixels[int(y) - 3 : int(y) + 4, int(x) - 3 : int(x) + 4] = 255
    working = apply(pixels, geometry)
    rows, columns = np.nonzero(working > 100)
    centre = (int(x) + 0.5, int(y) + 0.5)
    assert (columns.mean() + 0.5, rows.mean() + 0.5) == pytest.approx(
        geometry.to_working(*centre), abs=1.0
    )
    rows, columns = np.nonzero(undo(working, geometry) > 100)
    assert (columns.mean() + 0.5, rows.mean() + 0.5) == pytest.approx(centre, abs=1.0)


def test_padding_mirrors_the_image():
    geometry = fit(3, 3, "native", 8)
    pixels = np.arange(9, dtype=np.uint8).reshape(3, 3)
    working = padded(pixels, geometry)
    assert working.shape == (8, 8)
    np.testing.assert_array_equal(working[2:5, 2:5], pixels)
    np.testing.assert_array_equal(working[2:5, 1], pixels[:, 0])
    np.testing.assert_array_equal(working[5, 2:5], pixels[2])


def test_the_usual_sizes():
    assert fit(640, 480, 384, 32).working_size == (512, 384)
    assert fit(640, 512, 384, 32).working_size == (480, 384)
    assert fit(1280, 1024, "native", 32).working_size == (1280, 1024)
    assert fit(300, 200, 384, 32).working_size == (320, 224)
    assert fit(5, 7, 384, 32).working_size == (32, 32)


def test_the_record_survives_json():
    geometry = fit(641, 377, 256, 32)
    assert Geometry.from_json(json.loads(json.dumps(geometry.to_json()))) == geometry


def test_pixels_of_another_size_are_refused():
    geometry = fit(64, 48, 32, 16)
    with pytest.raises(InputError, match="48x64"):
        scaled(np.zeros((64, 48), np.uint8), geometry)
    with pytest.raises(InputError, match="positive"):
        fit(0, 5, 32, 16)
