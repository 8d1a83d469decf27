"""The same geometry hits all images of a scene."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from v2ir.data.augment import Geometry, random_resized_crop, square_crop
from v2ir.errors import DataError, InputError


def ramps(height: int, width: int) -> list[np.ndarray]:
    """Return the coordinates as images: column (float32), row (float32), column (uint8 RGB)."""
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    colours = np.repeat((columns * 255 / max(1, width - 1)).astype(np.uint8)[..., None], 3, 2)
    return [columns, rows, colours]


@given(
    height=st.integers(8, 90),
    width=st.integers(8, 90),
    size=st.integers(4, 48),
    seed=st.integers(0, 1000),
)
def test_every_image_gets_the_same_window(height: int, width: int, size: int, seed: int) -> None:
    columns, rows, colours = ramps(height, width)
    images = [columns, columns.copy(), rows, colours]
    first, second, row, colour = random_resized_crop(
        images, size, scales=(1.0, 1.5), flip=0.5, generator=np.random.default_rng(seed)
    )
    assert first.shape == row.shape == (size, size)
    assert colour.shape == (size, size, 3)
    np.testing.assert_array_equal(first, second)
    # uint8 and float images of the same scene show the same columns, up to rounding and
    # the overshoot of bicubic filtering at the borders.
    expected = np.clip(first * 255 / max(1, width - 1), 0, 255)
    assert np.abs(expected - colour[..., 0]).max() < 4.0


def test_without_freedom_the_crop_is_the_image() -> None:
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    (crop,) = random_resized_crop(
        [image], 4, scales=(1.0, 1.0), flip=0.0, generator=np.random.default_rng(0)
    )
    np.testing.assert_array_equal(crop, image)
    (flipped,) = random_resized_crop(
        [image], 4, scales=(1.0, 1.0), flip=1.0, generator=np.random.default_rng(0)
    )
    np.testing.assert_array_equal(flipped, image[:, ::-1])


def test_the_crop_reaches_every_place_and_scale() -> None:
    columns, rows, _ = ramps(32, 64)
    generator = np.random.default_rng(1)
    lefts, tops, spans = set(), set(), []
    for _ in range(300):
        column, row = random_resized_crop(
            [columns, rows], 16, scales=(1.0, 2.0), flip=0.0, generator=generator
        )
        lefts.add(round(float(column[0, 0])))
        tops.add(round(float(row[0, 0])))
        spans.append(float(column[0, -1] - column[0, 0]) / 15)
    assert min(lefts) <= 1
    assert max(lefts) >= 40
    assert min(tops) <= 1
    assert max(tops) >= 12
    assert 0.95 < min(spans) < 1.1  # pixels of the image to one of the crop: 32 / 16 / u
    assert 1.9 < max(spans) < 2.05


def test_the_same_seed_gives_the_same_crop_and_another_seed_another() -> None:
    images = ramps(40, 50)

    def crops(seed: int) -> np.ndarray:
        generator = np.random.default_rng(seed)
        cut = random_resized_crop(images, 16, scales=(1, 2), flip=0.5, generator=generator)
        return cut[0]

    np.testing.assert_array_equal(crops(3), crops(3))
    assert not np.array_equal(crops(3), crops(4))


def test_flips_come_as_often_as_asked() -> None:
    columns, _, _ = ramps(8, 8)
    generator = np.random.default_rng(0)
    flips = 0
    for _ in range(1000):
        (cut,) = random_resized_crop([columns], 8, scales=(1, 1), flip=0.25, generator=generator)
        flips += bool(cut[0, 0] > cut[0, -1])
    assert 200 < flips < 300  # 250 expected, standard deviation 14


def test_nearest_keeps_the_values_of_a_map() -> None:
    rng = np.random.default_rng(0)
    segmentation = (rng.random((30, 41)) > 0.5).astype(np.uint8) * 255
    smooth, kept = random_resized_crop(
        [segmentation, segmentation],
        24,
        scales=(1.1, 1.4),
        flip=0.5,
        generator=np.random.default_rng(5),
        resampling=["linear", "nearest"],
    )
    assert set(np.unique(kept)) <= {0, 255}
    assert len(np.unique(smooth)) > 2


def test_square_crop_bends_the_aspect_as_published() -> None:
    columns, rows, _ = ramps(100, 200)
    column, row = square_crop(
        [columns, rows], 32, sides=(32, 32), flip=0.0, generator=np.random.default_rng(0)
    )
    # The whole image is in the crop: both axes run from one border to the other.
    assert column[0, 0] < 7
    assert column[0, -1] > 192
    assert row[0, 0] < 4
    assert row[-1, 0] > 95


def test_square_crop_draws_both_ends_of_its_sides() -> None:
    columns, _, _ = ramps(64, 64)
    generator = np.random.default_rng(0)
    steps = set()
    for _ in range(60):
        (cut,) = square_crop([columns], 16, sides=(16, 18), flip=0.0, generator=generator)
        steps.add(round(64 / float(np.diff(cut[0, 5:11]).mean())))
    assert steps == {16, 17, 18}


def test_images_of_two_sizes_are_refused() -> None:
    with pytest.raises(DataError, match=r"3x2.*4x2"):
        random_resized_crop(
            [np.zeros((2, 3), np.uint8), np.zeros((2, 4), np.uint8)],
            2,
            scales=(1, 1),
            flip=0,
            generator=np.random.default_rng(0),
        )


@pytest.mark.parametrize(("scales", "flip"), [((0.5, 1.0), 0.0), ((2.0, 1.0), 0.0), ((1, 1), 1.5)])
def test_impossible_settings_are_refused(scales: tuple[float, float], flip: float) -> None:
    with pytest.raises(InputError, match="to do"):
        random_resized_crop(
            [np.zeros((9, 9), np.uint8)],
            8,
            scales=scales,
            flip=flip,
            generator=np.random.default_rng(0),
        )


def test_a_crop_owns_its_memory() -> None:
    image = np.zeros((8, 8), np.uint8)
    crop = Geometry(8, 8, 0, 0, 8, flipped=False).apply(image)
    crop[:] = 7
    assert image.max() == 0
