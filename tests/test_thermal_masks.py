"""Thermal masks: known answers, parity with scikit-image, files, staleness, the verb."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.filters import threshold_otsu
from typer.testing import CliRunner

from v2ir.annotation import (
    THERMAL_MASKS,
    AnnotationStore,
    make_masker,
    make_masks,
    read_thermal_mask,
)
from v2ir.annotation.thermal import LocalContrastMasker, OtsuMasker, PercentileMasker
from v2ir.cli import app
from v2ir.data import index, load_scenes
from v2ir.errors import InputError, OutputError, UnknownNameError
from v2ir.images import read_infrared

BODY = np.s_[30:42, 50:56]


def scene(seed=0, warm_ground=0.6):
    """Draw a cool sky over a warm ground, and a body that is warmer than the ground."""
    rng = np.random.default_rng(seed)
    values = np.full((60, 80), 0.2)
    values[20:] = warm_ground
    values[BODY] = 0.95
    return (values + rng.normal(0, 0.01, values.shape)).clip(0, 1).astype(np.float32)


def saved(folder, name, pixels):
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / name)
    return folder / name


@pytest.fixture
def data(make_pairs):
    root = make_pairs(3)
    index(root)
    return root


def test_otsu_parts_two_values_exactly():
    image = np.array([[0.1, 0.1, 0.1, 0.9]], np.float32)
    assert OtsuMasker().mask(image).tolist() == [[0, 0, 0, 1]]


def test_otsu_equals_scikit_image_on_eight_bits():
    rng = np.random.default_rng(1)
    pixels = np.concatenate([rng.normal(70, 12, 4000), rng.normal(160, 20, 2000)])
    pixels = pixels.clip(0, 255).round().astype(np.uint8).reshape(60, 100)
    wanted = pixels > threshold_otsu(pixels)
    assert np.array_equal(OtsuMasker().mask(pixels / np.float32(255)) == 1, wanted)


def test_a_lamp_does_not_hide_a_body_in_sixteen_bits(tmp_path):
    """With 256 bins over the range a lamp leaves the rest of the picture in one bin."""
    pixels = np.full((40, 40), 7000, np.uint16)
    pixels[10:20, 10:20] = 7090
    pixels[0, 0] = 65535
    path = saved(tmp_path, "a.png", pixels)
    mask = PercentileMasker(percent=90).mask(read_infrared(path))
    assert np.array_equal(mask == 1, pixels > 7000)
    pixels[0, 0] = 7200
    mask = OtsuMasker().mask(read_infrared(saved(tmp_path, "b.png", pixels)))
    assert np.array_equal(mask == 1, pixels > 7000)


def test_the_percentile_is_a_share_of_the_pixels():
    image = np.random.default_rng(0).permutation(1000).reshape(20, 50).astype(np.float32) / 999
    assert PercentileMasker(percent=90).mask(image).sum() == 100
    assert PercentileMasker(percent=99).mask(image).sum() == 10


def test_local_contrast_finds_a_body_on_a_ground_that_otsu_calls_hot():
    image = scene()
    assert OtsuMasker().mask(image)[45:].mean() == 1.0
    mask = LocalContrastMasker().mask(image)
    assert mask[BODY].mean() == 1.0
    mask[BODY] = 0
    assert mask[25:].mean() == 0.0, "the grain of the ground is hot"


def test_local_contrast_equals_a_loop_over_windows():
    image = np.random.default_rng(3).random((14, 16)).astype(np.float32)
    masker = LocalContrastMasker(window=0.3, deviations=0.7, contrast=0.1)
    half = round(0.3 * 14 / 2)
    padded = np.pad(image.astype(np.float64), half, mode="reflect")
    low, high = np.percentile(image, [1, 99])
    wanted = np.zeros(image.shape)
    for row, column in np.ndindex(*image.shape):
        window = padded[row : row + 2 * half + 1, column : column + 2 * half + 1]
        excess = image[row, column] - window.mean()
        wanted[row, column] = excess > max(0.7 * window.std(), 0.1 * (high - low))
    assert 0 < wanted.mean() < 0.5
    assert np.array_equal(masker.mask(image), wanted)


def test_a_soft_mask_rises_over_its_width():
    image = np.linspace(0, 1, 101, dtype=np.float32)[None]
    mask = PercentileMasker(percent=50, softness=0.2).mask(image)[0]
    assert mask[50] == pytest.approx(0.5, abs=1e-5)
    assert mask[45] == pytest.approx(0.25, abs=1e-5)
    assert (mask[:40] == 0).all() and (mask[61:] == 1).all()


@pytest.mark.parametrize("name", THERMAL_MASKS)
@settings(max_examples=15)
@given(seed=st.integers(0, 1000), gain=st.floats(0.2, 1.0), softness=st.sampled_from([0.0, 0.1]))
def test_masks_follow_order_not_brightness(name, seed, gain, softness):
    """A darker copy of an image has the same mask; every mask lies in 0..1."""
    image = scene(seed)
    mask = THERMAL_MASKS[name](softness=softness * gain).mask(image * np.float32(gain))
    assert mask.dtype == np.float32 and mask.shape == image.shape
    assert mask.min() >= 0 and mask.max() <= 1
    wanted = THERMAL_MASKS[name](softness=softness).mask(image)
    assert np.abs(mask - wanted).mean() < 1e-3


@pytest.mark.parametrize("name", THERMAL_MASKS)
@pytest.mark.parametrize("softness", [0.0, 0.5])
def test_nothing_is_hot_in_an_image_of_one_value(name, softness):
    masker = THERMAL_MASKS[name](softness=softness)
    assert not masker.mask(np.full((9, 12), 0.7, np.float32)).any()


@pytest.mark.parametrize("name", THERMAL_MASKS)
@pytest.mark.parametrize("shape", [(1, 5), (2, 2), (3, 200)])
def test_small_and_narrow_images_have_masks(name, shape):
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    assert make_masker(name).mask(image).shape == shape


def test_options_are_read_and_told_by_the_version():
    masker = make_masker("percentile,percent=90,softness=0.1")
    assert masker == PercentileMasker(percent=90, softness=0.1)
    assert masker.version != make_masker("percentile,percent=91,softness=0.1").version
    with pytest.raises(UnknownNameError, match="percentile"):
        make_masker("percentil")
    with pytest.raises(UnknownNameError, match="softness"):
        make_masker("otsu,soft=1")
    with pytest.raises(InputError, match="percent is out of range"):
        make_masker("percentile,percent=120")
    with pytest.raises(InputError, match="cannot be"):
        make_masker("percentile,percent=many")


def test_a_jpeg_mask_is_cut_at_one_half(tmp_path):
    """As published, every value above 0 counts as hot, and compression noise is hot."""
    mask = np.zeros((64, 64), np.uint8)
    mask[20:44, 20:44] = 255
    path = tmp_path / "a.jpg"
    Image.fromarray(mask).save(path, quality=60)
    noisy = np.asarray(Image.open(path))
    assert ((noisy > 0) & (mask == 0)).any(), "the picture has no noise to be cut"
    assert np.array_equal(read_thermal_mask(path) == 1, mask == 255)
    soft = saved(tmp_path, "b.png", np.array([[0, 51, 128, 255]], np.uint8))
    assert read_thermal_mask(soft)[0] == pytest.approx([0, 0.2, 128 / 255, 1])


def test_masks_are_made_once_and_again_when_stale(data):
    report = make_masks(data, "percentile,percent=90,softness=0.1")
    assert (report.masks.made, report.failures, report.visible_only) == (3, (), 0)
    store, scenes = AnnotationStore(data), load_scenes(data)
    files = {p: p.stat().st_mtime_ns for p in (data / "mask").rglob("*.png")}
    assert make_masks(data, "percentile,percent=90,softness=0.1").masks.kept == 3
    assert {p: p.stat().st_mtime_ns for p in (data / "mask").rglob("*.png")} == files
    path = store.mask_path(scenes[0])
    made = PercentileMasker(90, 0.1).mask(read_infrared(data / scenes[0].infrared))
    assert np.abs(read_thermal_mask(path) - made).max() <= 0.5 / 255 + 1e-6
    assert ((made > 0) & (made < 1)).mean() > 0
    assert make_masks(data, "otsu", dry_run=True).masks.made == 3
    assert {p: p.stat().st_mtime_ns for p in (data / "mask").rglob("*.png")} == files
    other = dataclasses.replace(scenes[0], visible_hash="0" * 64)
    assert store.is_fresh("mask", other, make_masker("percentile,percent=90,softness=0.1"))
    other = dataclasses.replace(scenes[0], infrared_hash="0" * 64)
    assert store.mask_path(other) is None


def test_your_own_masks_are_taken_and_kept(data):
    first, second, _ = load_scenes(data)
    own = np.zeros((first.height, first.width), np.uint8)
    own[:9] = 255
    jpeg = saved(data / "mask", f"{first.name}.jpg", own)
    png = saved(data / "mask", f"{second.name}.png", own)
    report = make_masks(data)
    assert (report.masks.made, report.masks.own) == (1, 2)
    store = AnnotationStore(data)
    assert store.mask_path(first) == jpeg and store.mask_path(second) == png
    assert np.array_equal(read_thermal_mask(jpeg) == 1, own == 255)
    with pytest.raises(OutputError, match="your own"):
        store.put_mask(first, own, store.provenance("mask", first))
    assert make_masks(data, force=True).masks.made == 3
    assert store.mask_path(first) == data / "mask" / f"{first.name}.png"


def test_a_bad_image_is_listed_and_the_others_are_done(data):
    scenes = load_scenes(data)
    (data / scenes[0].infrared).write_bytes(b"no image")
    Image.fromarray(np.zeros((80, 96), np.uint8)).save(data / scenes[1].infrared)
    report = make_masks(data)
    assert report.masks.made == 1
    reasons = dict(report.failures)
    assert "is not an image" in reasons[scenes[0].infrared]
    assert "has changed" in reasons[scenes[1].infrared]


def test_the_verb_makes_masks_of_infrared_images_alone(data):
    for path in (data / "rgb").iterdir():
        path.unlink()
    index(data)
    call = ["annotate", str(data), "--thermal-mask", "local-contrast,window=0.5"]
    done = CliRunner().invoke(app, [*call, "--dry-run"])
    assert done.exit_code == 0 and "3 to make" in done.output
    assert not (data / "mask").exists()
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0 and "3 made" in done.output and "are hot" in done.output
    assert len(list((data / "mask").glob("*.png"))) == 3
    assert "3 already there" in CliRunner().invoke(app, call).output


def test_an_unknown_method_is_told_before_anything_is_made(data):
    done = CliRunner().invoke(app, ["annotate", str(data), "--thermal-mask", "ostu"])
    assert isinstance(done.exception, UnknownNameError) and "otsu" in str(done.exception)
    assert not (data / "captions.jsonl").exists()


def test_methods_differ_on_real_scenes_as_their_page_says(real_data):
    paths = sorted((real_data / "pairs" / "ir").glob("pv_inspection_*.jpg"))[::20]
    shares = {
        name: np.mean([make_masker(name).mask(read_infrared(path)).mean() for path in paths])
        for name in THERMAL_MASKS
    }
    assert 0.03 < shares["percentile"] <= 0.05
    assert shares["otsu"] > 0.25 > shares["local-contrast"] > 0.02
