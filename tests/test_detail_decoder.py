"""The decoder that sees the visible image: what it is given, its folder, its training."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import uniform_filter

from training_pieces import draws, make_objective, pooled, ready_to_train, unscaled_model
from v2ir.annotation import annotate
from v2ir.data import index
from v2ir.errors import ModelError
from v2ir.model import architecture, build_model, load_model
from v2ir.model.detail_decoder import DetailDecoder, beside_visible, detail_bands
from v2ir.sampling import TranslateSettings, Translator
from v2ir.training import Recipe, Stage, TrainSettings, train
from v2ir.training.objectives.detail import _parts as part_of


def small_model(**facts):
    settings = {"resolution": 64, "multiple": 16, "solver": "mean", "steps": 1, **facts}
    model = build_model(architecture("tiny"), name="sharp", styles=("street",), **settings)
    torch.manual_seed(0)
    model.detail_decoder = DetailDecoder(4, model.seen_channels, (16, 8, 8)).eval()
    return model


def test_planes_give_the_decoder_back_what_was_laid_together() -> None:
    decoder = DetailDecoder(4, 6, (16, 8, 8)).eval()
    generator = torch.Generator().manual_seed(1)
    latents, seen = (torch.randn(2, c, 3, 5, generator=generator) for c in (4, 6))
    visible = torch.rand(2, 3, 24, 40, generator=generator) * 2 - 1
    planes = beside_visible(latents, seen, visible)
    assert planes.shape == (2, 4 + 6 + 192, 3, 5)
    with torch.no_grad():
        wanted = decoder(latents, seen, visible)
        assert wanted.shape == (2, 1, 24, 40)
        assert torch.equal(decoder.decode(planes), wanted)


def test_every_input_reaches_the_picture() -> None:
    decoder = DetailDecoder(4, 6, (16, 8, 8)).eval()
    inputs = [torch.zeros(1, 4, 2, 2), torch.zeros(1, 6, 2, 2), torch.zeros(1, 3, 16, 16)]
    with torch.no_grad():
        blank = decoder(*inputs)
        for place in range(3):
            changed = [x + (index == place) for index, x in enumerate(inputs)]
            assert not torch.allclose(decoder(*changed), blank)


def test_bands_are_the_luminance_without_its_broadest_mean() -> None:
    generator = torch.Generator().manual_seed(2)
    visible = torch.rand(2, 3, 24, 40, generator=generator) * 2 - 1
    bands = detail_bands(visible)
    assert bands.shape == visible.shape
    grey = visible.mean(1).double().numpy()
    inside = torch.from_numpy(grey - uniform_filter(grey, (0, 15, 15)))[:, 7:-7, 7:-7]
    total = bands.double().sum(1)[:, 7:-7, 7:-7]
    # All bands of a pixel are divided by the same number, which is positive.
    assert torch.equal(total.sign(), inside.sign())
    assert torch.equal(detail_bands(torch.full((1, 3, 16, 16), 0.3)).abs() < 1e-5,
                       torch.ones(1, 3, 16, 16, dtype=torch.bool))  # fmt: skip
    # In units of the local contrast: a dim photograph has the details of a bright one.
    torch.testing.assert_close(
        detail_bands(visible * 9), detail_bands(visible * 3), atol=0.1, rtol=0
    )


def test_gains_add_the_photographs_detail() -> None:
    decoder = DetailDecoder(4, 6, (16, 8, 8)).eval()
    inputs = torch.randn(1, 4, 2, 2), torch.randn(1, 6, 2, 2), torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        plain = decoder(*inputs)
        decoder.last.bias[4:8] = 0.5
        wanted = plain + 0.5 * detail_bands(inputs[2])[:, :1]
        torch.testing.assert_close(decoder(*inputs), wanted)


def test_a_model_with_a_detail_decoder_survives_its_folder_and_translates(tmp_path: Path) -> None:
    model = small_model()
    model.save(tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert isinstance(again.detail_decoder, DetailDecoder)
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3)).astype(np.uint8)
    settings = TranslateSettings(style="street")
    sharp = Translator(model, settings).translate_pixels(pixels)
    assert sharp.shape == (70, 90)
    assert np.array_equal(sharp, Translator(again, settings).translate_pixels(pixels))
    plain = TranslateSettings(style="street", without=("detail",))
    soft = Translator(again, plain).translate_pixels(pixels)
    assert not np.allclose(sharp, soft)
    assert np.array_equal(sharp, Translator(again, settings).translate_pixels(pixels))
    again.detail_decoder = None
    assert np.array_equal(soft, Translator(again, settings).translate_pixels(pixels))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Eight pairs whose infrared image is the inverted visible one, edges and all."""
    generator = np.random.default_rng(3)
    data = tmp_path / "data"
    for folder in ("rgb", "ir"):
        (data / folder).mkdir(parents=True)
    for number in range(8):
        grey = np.full((64, 64), 40, np.uint8)
        for _ in range(6):
            top, left = generator.integers(0, 48, 2)
            grey[top : top + 16, left : left + 16] = generator.integers(0, 256)
        Image.fromarray(np.repeat(grey[..., None], 3, 2)).save(data / "rgb" / f"{number}.png")
        Image.fromarray(255 - grey).save(data / "ir" / f"{number}.png")
    index(data, style="street")
    annotate(data)
    return data


def test_training_sharpens_the_picture_and_leaves_the_denoiser(pairs: Path, tmp_path: Path) -> None:
    stage = Stage(
        name="detail", objective="detail", trains=("detail_decoder",), steps=60, batch_size=4,
        crop=64, variants=1, scales=(1.0, 1.0), learning_rate=3e-3, drop=0.0, drop_style=0.0,
        average_decay=0.5, end_to_end=0.5, checkpoint_every=30,
    )  # fmt: skip
    card = {"resolution": 64, "multiple": 16, "solver": "mean", "steps": 1}
    start = build_model(architecture("tiny"), name="start", styles=("street",), **card)
    start.save(tmp_path / "start")
    recipe = Recipe(name="sharp", architecture="tiny", stages=(stage,), card=card)
    settings = TrainSettings(pairs, tmp_path / "run", start_from=str(tmp_path / "start"))
    model = load_model(train(recipe, settings))
    for old, new in zip(start.unet.parameters(), model.unet.parameters(), strict=True):
        assert torch.equal(old, new)
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]
    pixels = np.asarray(Image.open(pairs / "rgb" / "0.png"))
    made = Translator(model, TranslateSettings(style="street")).translate_pixels(pixels)
    true = np.asarray(Image.open(pairs / "ir" / "0.png")) / 255.0
    assert np.corrcoef(made.ravel(), true.ravel())[0, 1] > 0.7


def detail(data, **changes):
    values = {
        "name": "detail", "objective": "detail", "trains": ("detail_decoder",), "steps": 1,
        "batch_size": 6, "crop": 64, "variants": 1, "scales": (1.0, 1.0), "drop": 0.0,
    }  # fmt: skip
    stage = Stage(**{**values, **changes})
    return make_objective(data, unscaled_model(), stage)


def test_the_denoiser_sees_the_whole_crop_and_the_decoder_a_part(make_pairs) -> None:
    data = ready_to_train(make_pairs(6, width=80, height=72))
    whole, scenes = detail(data, end_to_end=0.01)
    part, _ = detail(data, end_to_end=0.01, detail_crop=16)
    wide, narrow = (made.batch(scenes, draws(4)) for made in (whole, part))
    assert torch.equal(wide.clean, narrow.clean) and narrow.clean.shape[-2:] == (8, 8)
    assert narrow.true.shape == (len(scenes), 1, 16, 16)
    assert narrow.beside.shape == (len(scenes), 3, 16, 16)
    assert len({tuple(corner) for corner in narrow.corners.tolist()}) > 1
    for row, (top, left) in enumerate(8 * narrow.corners):
        cut = (row, slice(None), slice(top, top + 16), slice(left, left + 16))
        assert torch.equal(narrow.true[row], wide.true[cut])
        assert torch.equal(narrow.beside[row], wide.beside[cut])
        # The latents of the test are the pictures' means, so a part lies on its latent.
        shown = part_of(narrow.clean, narrow.corners, 2)[row]
        torch.testing.assert_close(shown, pooled(narrow.true)[row], atol=2e-3, rtol=0)
    assert torch.isfinite(part.loss(narrow))


def test_estimates_are_those_of_the_whole_batch(make_pairs) -> None:
    """Only the rows that need the denoiser go through it, and they get what they would get."""
    data = ready_to_train(make_pairs(6, width=80, height=72))
    made, scenes = detail(data, end_to_end=0.5)
    batch = made.batch(scenes, draws(4))
    assert 0 < int(batch.estimated.sum()) < len(scenes)
    seen = []
    made.decoder.forward = lambda latents, *rest: seen.append(latents) or rest[1][:, :1] * 0.0
    made.loss(batch)
    batch.estimated[:] = True
    made.loss(batch)
    rows = torch.tensor([made._is_pictured(draw) for draw in draws(4)])
    torch.testing.assert_close(seen[0][rows], seen[1][rows], atol=1e-5, rtol=1e-4)
    assert torch.equal(seen[0][~rows], batch.clean[~rows])
    assert not torch.allclose(seen[1][~rows], batch.clean[~rows])


def test_a_part_that_does_not_fit_is_refused(make_pairs) -> None:
    data = ready_to_train(make_pairs(2))
    for side in (72, 12):
        with pytest.raises(ModelError, match="does not fit"):
            detail(data, detail_crop=side)
