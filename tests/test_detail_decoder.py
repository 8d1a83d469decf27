"""The decoder that sees the visible image: what it is given, its folder, its training."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from v2ir.annotation import annotate
from v2ir.data import index
from v2ir.model import architecture, build_model, load_model
from v2ir.model.detail_decoder import DetailDecoder, beside_visible
from v2ir.sampling import TranslateSettings, Translator
from v2ir.training import Recipe, Stage, TrainSettings, train


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
    again.detail_decoder = None
    assert not np.allclose(sharp, Translator(again, settings).translate_pixels(pixels))


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
