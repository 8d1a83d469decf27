"""The refiner: nothing at first, edges after training, wherever decoded pictures go."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from v2ir.annotation import annotate
from v2ir.data import index
from v2ir.files import read_jsonl
from v2ir.model import architecture, build_model, load_model
from v2ir.model.refiner import build_refiner, refine, refiner_multiple
from v2ir.sampling import TranslateSettings, Translator
from v2ir.training import RECIPES, TrainSettings, train

WIDTHS = (8, 16)


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = build_model(
        architecture("tiny"), name="x", styles=("street",), resolution=64, multiple=16,
        solver="mean", steps=1, latent_mean=(0.0,) * 4, latent_std=(1.0,) * 4,
    )  # fmt: skip
    made.refiner = build_refiner(1, WIDTHS)
    return made


def stir(network):
    """Give a refiner weights with which it changes pictures."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))


def test_a_fresh_refiner_changes_nothing():
    pictures, visible = torch.rand(2, 1, 16, 24), torch.rand(2, 3, 16, 24)
    network = build_refiner(2, WIDTHS)
    assert torch.equal(refine(network, pictures, visible, torch.tensor([0, 2])), pictures)
    stir(network)
    changed = refine(network, pictures, visible, torch.tensor([0, 2]))
    assert changed.shape == pictures.shape
    assert (changed - pictures).abs().max() > 1e-3
    other = refine(network, pictures, visible.flip(0), torch.tensor([0, 2]))
    assert not torch.allclose(changed, other), "the visible image must matter"
    styled = refine(network, pictures, visible, torch.tensor([1, 2]))
    assert not torch.allclose(changed[0], styled[0]), "the style must matter"
    assert refiner_multiple(network) == 4


def test_a_model_folder_keeps_its_refiner(model, tmp_path):
    stir(model.refiner)
    model.save(tmp_path / "model")
    again = load_model(tmp_path / "model")
    pair = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    style = torch.tensor([1])
    assert torch.equal(again.refine(*pair, style), model.refine(*pair, style))
    model.refiner = None
    model.save(tmp_path / "plain")
    assert load_model(tmp_path / "plain").refiner is None


def test_translation_refines(model):
    visible = np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)
    refiner, model.refiner = model.refiner, None
    plain = Translator(model).translate_pixels(visible)
    model.refiner = refiner
    assert np.allclose(Translator(model).translate_pixels(visible), plain, atol=1e-6)
    stir(model.refiner)
    assert np.abs(Translator(model).translate_pixels(visible) - plain).max() > 1e-3


def test_a_refined_image_does_not_depend_on_its_batch(model):
    stir(model.refiner)
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 255, (64, 80, 3), dtype=np.uint8) for _ in range(3)]
    translator = Translator(model, TranslateSettings(batch_size=3))
    prepared = [translator.prepare(image, key=str(n)) for n, image in enumerate(images)]
    together = translator.run(prepared)
    for one, item in zip(together, prepared, strict=True):
        np.testing.assert_allclose(one, translator.run([item])[0], atol=1e-5)


def test_large_pictures_are_refined_in_windows(model):
    stir(model.refiner)
    visible = np.random.default_rng(2).integers(0, 255, (48, 1200, 3), dtype=np.uint8)
    translator = Translator(model, TranslateSettings(resolution=48))
    made = translator.translate_pixels(visible)
    assert made.shape == (48, 1200) and np.isfinite(made).all()
    spans = translator.windows.along(1200 // 8)
    assert len(spans) > 1


def test_a_refining_stage_changes_the_refiner_alone(make_pairs, tmp_path):
    root = make_pairs(6)
    index(root, style=lambda name: "street")
    annotate(root)
    path = root / "scenes.jsonl"
    rows = [{**row, "split": "train"} for row in read_jsonl(path)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny = RECIPES["tiny"]
    refining = tiny.stages[-1].model_copy(
        update={
            "name": "refine", "objective": "refinement", "trains": ("refiner",), "steps": 6,
            "end_to_end": 1.0, "drop": 0.0, "adversarial": 0.1, "features": 1.0,
            "checkpoint_every": 3, "sample_every": 3, "learning_rate": 1e-3,
        }
    )  # fmt: skip
    stages = (tiny.stages[0].model_copy(update={"steps": 2}), refining)
    run = tmp_path / "run"
    folder = train(tiny.model_copy(update={"stages": stages}), TrainSettings(root, run))
    before, after = load_model(run / "models" / "autoencoder"), load_model(folder)
    for part in ("unet", "autoencoder", "text_encoder"):
        for one, two in zip(
            getattr(before, part).parameters(), getattr(after, part).parameters(), strict=True
        ):
            assert torch.equal(one, two)
    assert before.refiner is None
    assert after.refiner.conv_out.weight.abs().max() > 0
    assert (run / "samples" / "refine-00000003.png").is_file()
