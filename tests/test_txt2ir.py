"""Text to infrared: one-channel autoencoders, trained text encoders, captions, recipes."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import street
from training_pieces import tiny_text_model
from v2ir.annotation import import_captions
from v2ir.data import index
from v2ir.errors import MissingExtraError, ModelError, UnknownNameError
from v2ir.model import architecture, build_model, load_model
from v2ir.model.build import build_autoencoder
from v2ir.model.networks import build_unet, encode_mode
from v2ir.sampling import GenerateSettings, Prompt, TextSampler
from v2ir.training import RECIPES, Recipe, Stage, TrainSettings, train
from v2ir.training.objectives import OBJECTIVES, Draw
from v2ir.training.objectives.perceptual import make_perceptual
from v2ir.training.objectives.pixels import structural_dissimilarity
from v2ir.training.scenes import training_scenes

HOT, COLD = "a hot bright wall", "a cold dark wall"


@pytest.fixture
def infrared_only(tmp_path: Path) -> Path:
    """Ten infrared images without visible ones: five hot, five cold."""
    data = tmp_path / "data"
    (data / "ir").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(10):
        rows = np.linspace(-25, 25, 48)[:, None]
        pixels = (205 if number % 2 else 50) + rows + rng.normal(0, 4, (48, 48))
        pixels[10:14, 20:24] = 250 if number % 2 else 5
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(data / "ir" / f"{number}.png")
    index(data)
    return data


def test_the_published_sizes():
    """TxT2IR's released code; built without memory for the weights."""
    full = architecture("txt2ir")
    with torch.device("meta"):
        unet, autoencoder = build_unet(full.unet), build_autoencoder(full)
        latent = encode_mode(autoencoder, torch.zeros(1, 3, 128, 128))
        picture = autoencoder.decode(latent).sample
    assert latent.shape == (1, 4, 8, 8) and picture.shape == (1, 1, 128, 128)
    assert unet.conv_in.weight.shape == (320, 4, 3, 3)
    assert 855e6 < sum(p.numel() for p in unet.parameters()) < 865e6  # Stable Diffusion's
    assert autoencoder.config.scaling_factor == 0.18215
    text = full.text_encoder
    facts = [text[k] for k in ("vocab_size", "encoder_layers", "d_model")]
    assert facts == [30_522, 32, 768] and text["max_position_embeddings"] == 77
    assert architecture("txt2ir-f8").factor == 8


def test_a_vocabulary_of_the_published_size_is_kept():
    small = architecture("txt2ir-tiny")
    wide = small.model_copy(update={"text_encoder": {**small.text_encoder, "vocab_size": 300}})
    model = build_model(wide, name="t", words=("street",))
    assert model.text_encoder.get_input_embeddings().weight.shape == (300, 16)
    assert len(model.tokenizer) < 300
    own = tiny_text_model()
    assert own.text_encoder.config.vocab_size == len(own.tokenizer)


def test_one_channel_is_the_grey_image_itself():
    model, generator = tiny_text_model(), torch.Generator().manual_seed(0)
    grey = torch.rand((2, 1, 16, 24), generator=generator) * 2 - 1
    with torch.no_grad():
        direct = model.autoencoder.encode(grey).latent_dist.mode()
        picture = model.autoencoder.decode(direct).sample
    latents = encode_mode(model.autoencoder, grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(latents, direct, atol=1e-5, rtol=1e-4)
    decoded = model.decode(model.scale_latents(direct))
    assert decoded.shape == (2, 3, 16, 24)
    for channel in range(3):
        torch.testing.assert_close(decoded[:, channel], picture[:, 0], atol=1e-5, rtol=1e-4)


def test_a_saved_model_reads_text_as_before(tmp_path):
    model = tiny_text_model()
    model.save(tmp_path / "m")
    found = json.loads((tmp_path / "m" / "model_index.json").read_text())
    assert found["text_encoder"] == ["latent_diffusion", "LDMBertModel"]
    again = load_model(tmp_path / "m")
    texts = ["street at night", ""]
    torch.testing.assert_close(again.embed_prompts(texts), model.embed_prompts(texts))
    # Parity with the libraries' own use of its tokenizer and network.
    tokens = again.tokenizer(
        texts, padding="max_length", max_length=24, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = again.text_encoder(input_ids=tokens.input_ids).last_hidden_state
    assert expected.shape == (2, 24, 16)
    # Where a prompt has ended is nothing, so that padding adds nothing to the pooled text.
    words = tokens.attention_mask.unsqueeze(-1)
    torch.testing.assert_close(model.embed_prompts(texts), expected * words)
    assert words.sum(1).flatten().tolist() == [6, 2]


@pytest.mark.parametrize("name", ["GPT2Model", "AutoModel", "Trainer"])
def test_no_other_class_is_loaded(tmp_path, name):
    tiny_text_model().save(tmp_path)
    file = tmp_path / "model_index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "text_encoder": ["x", name]}))
    with pytest.raises(LookupError, match="BertModel"):
        load_model(tmp_path)


# Captions


def write_captions(data: Path) -> None:
    """Write captions in every form that infrared-only scenes can have them."""
    (data / "captions").mkdir()
    lines = []
    for number in range(10):
        text = HOT if number % 2 else COLD
        if number < 4:
            (data / "captions" / f"{number}_ir.txt").write_text(f"{text}\n\n{text} of stone\n")
        elif number < 6:
            (data / "captions" / f"{number}.txt").write_text(text)
        else:
            lines.append(json.dumps({"name": str(number), "captions": [text, f"{text} again"]}))
    (data / "captions.jsonl").write_text("\n".join(lines))


def test_infrared_scenes_bring_their_captions(infrared_only):
    write_captions(infrared_only)
    found = {i.scene.name: i.captions for i in training_scenes(infrared_only)}
    for name, captions in found.items():
        text = HOT if int(name) % 2 else COLD
        more = f"{text} of stone" if int(name) < 4 else f"{text} again"
        assert captions == ((text,) if name in "45" else (text, more))
    assert len(found) >= 6


def test_captions_of_infrared_scenes_are_brought_in(infrared_only, tmp_path):
    lines = [json.dumps({"name": str(n), "captions": [HOT]}) for n in range(4)]
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    report = import_captions(infrared_only, tmp_path / "own.jsonl")
    assert (report.taken, report.strangers) == (4, ())
    found = {i.scene.name: i.captions for i in training_scenes(infrared_only)}
    assert [found[str(n)] for n in range(5)] == [(HOT,)] * 4 + [()]


class _NoCache:
    """Latents of zeros: the test looks at what goes with them."""

    def of(self, part):
        return self

    def get(self, image_hash, variant, read):
        return torch.zeros(4, 8, 8)


def test_one_caption_is_drawn_a_step_and_one_in_ten_is_null(infrared_only):
    write_captions(infrared_only)
    stage = Stage(
        name="text", scenes="infrared", conditions=("text",), trains=("unet",), steps=1,
        drop=0.025, crop=32,
    )  # fmt: skip
    objective = OBJECTIVES["denoising"](tiny_text_model(), stage, _NoCache())
    scene = next(i for i in training_scenes(infrared_only) if len(i.captions) == 2)
    draws = [Draw(n, np.random.default_rng([n])) for n in range(2000)]
    batch = objective.batch([scene] * len(draws), draws)
    seen = Counter(batch.prompts)
    assert seen.keys() == {"", *scene.captions}
    assert 0.08 < seen[""] / 2000 < 0.12
    first, second = (seen[caption] for caption in scene.captions)
    assert 0.8 < first / second < 1.25
    assert batch.visible is None and batch.segmentation is None


# The infrared autoencoder


def stage_of(**changes):
    return Stage(
        **{
            "name": "a", "objective": "infrared_autoencoder", "scenes": "infrared",
            "conditions": (), "trains": ("autoencoder",), "steps": 1, "crop": 32, **changes,
        }
    )  # fmt: skip


def test_the_loss_is_the_published_sum():
    """L1 + 50 (1 - SSIM) + 1e-6 KL, both per pixel; Kingma and Welling 2014, Appendix B."""
    model = tiny_text_model()
    objective = OBJECTIVES["infrared_autoencoder"](model, stage_of(structure=50.0, kl=1e-6))
    generator = torch.Generator().manual_seed(1)
    images = (torch.rand((2, 1, 32, 32), generator=generator) * 2 - 1).expand(-1, 3, -1, -1)
    noise = torch.randn((2, 4, 8, 8), generator=generator)
    with torch.no_grad():
        moments = model.autoencoder.quant_conv(model.autoencoder.encoder(images[:, :1]))
        mean, logvar = moments.chunk(2, dim=1)
        made = model.autoencoder.decode(mean + (logvar / 2).exp() * noise).sample
        divergence = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum() / 2
        pieces = [
            (made - images[:, :1]).abs().mean(),
            50 * structural_dissimilarity(made, images[:, :1]),
            1e-6 * divergence / 1024,
        ]
        got = objective.loss((images, noise))
        torch.testing.assert_close(got, sum(pieces), rtol=1e-4, atol=1e-5)
        heavy = OBJECTIVES["infrared_autoencoder"](model, stage_of(kl=1.0))
        more = heavy.loss((images, noise)) - pieces[0]
        torch.testing.assert_close(more, divergence / 1024, rtol=1e-3, atol=1e-5)


def test_each_player_learns_from_its_own_loss():
    model, generator = tiny_text_model(), torch.Generator().manual_seed(1)
    images = (torch.rand((2, 1, 32, 32), generator=generator) * 2 - 1).expand(-1, 3, -1, -1)
    noise = torch.randn((2, 4, 8, 8), generator=generator)
    gradients = {}
    for adversarial in (0.0, 0.5):
        torch.manual_seed(0)
        objective = OBJECTIVES["infrared_autoencoder"](model, stage_of(adversarial=adversarial))
        assert ("discriminator" in objective.modules) == (adversarial > 0)
        for module in objective.modules.values():
            module.requires_grad_(True).zero_grad()
        objective.loss((images, noise)).backward()
        last = model.autoencoder.decoder.conv_out.weight.grad
        gradients[adversarial] = last.clone()
    judge = objective.discriminator
    assert all(p.grad is not None for p in judge.verdict.parameters())
    pulled = gradients[0.5] - gradients[0.0]
    # The adaptive weight makes the verdict pull with half the reconstruction's strength.
    ratio = float(pulled.norm() / gradients[0.0].norm())
    assert ratio == pytest.approx(0.5, rel=0.05)


def test_the_perceptual_term_is_a_weighted_distance(monkeypatch):
    pytest.importorskip("efficientnet_lite_pytorch")
    model, generator = tiny_text_model(), torch.Generator().manual_seed(1)
    images = torch.from_numpy(np.stack([street(s, 64, 64)[1] for s in (1, 2)])[:, None])
    images = (images.float() / 127.5 - 1).expand(-1, 3, -1, -1)
    noise = torch.zeros(2, 4, 16, 16)
    stage = stage_of(perceptual=2.0)
    objective = OBJECTIVES["infrared_autoencoder"](model, stage)
    assert set(objective.modules) == {"autoencoder"}, "the network must rest"
    plain = OBJECTIVES["infrared_autoencoder"](model, stage_of())
    true = images[:, :1]
    with torch.no_grad():
        made = model.autoencoder.decode(model.autoencoder.encode(true).latent_dist.mode()).sample
        expected = plain.loss((images, noise)) + 2.0 * objective.distance(made, true)
        torch.testing.assert_close(objective.loss((images, noise)), expected)
        # Zero for the same picture; more for more noise; blind to nothing.
        grain = torch.randn(true.shape, generator=generator)
        steps = [float(objective.distance(true + s * grain, true)) for s in (0.0, 0.05, 0.3)]
    assert steps[0] == 0.0 and 0.0 < steps[1] < steps[2]
    made = (true + 0.1 * grain).requires_grad_(True)
    objective.distance(made, true).backward()
    assert float(made.grad.abs().sum()) > 0

    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(MissingExtraError, match="v2ir\\[eval\\]"):
        make_perceptual("efficientnet-lite0", torch.device("cpu"))
    with pytest.raises(UnknownNameError, match="lpips"):
        make_perceptual("lpip", torch.device("cpu"))


def test_an_autoencoder_without_a_posterior_is_refused():
    with pytest.raises(ModelError, match="AutoencoderDC"):
        OBJECTIVES["infrared_autoencoder"](build_model(architecture("tiny"), name="t"), stage_of())


def test_visible_images_take_no_part(make_pairs, tmp_path):
    data = make_pairs(4)
    index(data)
    objective = OBJECTIVES["infrared_autoencoder"](tiny_text_model(), stage_of())
    scenes = training_scenes(data)
    draws = [Draw(n, np.random.default_rng(n)) for n in range(20)]
    images, noise = objective.batch([scenes[n % len(scenes)] for n in range(20)], draws)
    assert noise.shape == (20, 4, 8, 8)
    assert (images == images[:, :1]).all(), "an image with colours came in"


# Recipes


def test_the_recipes_state_the_published_facts():
    recipe = RECIPES["txt2ir"]
    first, second, text = recipe.stages
    assert (first.structure, first.kl, first.adversarial, first.steps) == (50.0, 1e-6, 0.0, 50_000)
    assert (second.adversarial, second.learning_rate) == (0.5, 4.5e-6)
    assert (text.batch_size, text.learning_rate, text.average_decay) == (2, 5e-5, 0.0)
    assert set(text.trains) == {"unet", "text_encoder"} and text.conditions == ("text",)
    assert (recipe.card["solver"], recipe.card["steps"]) == ("ddim", 200)
    for name in ("txt2ir", "txt2ir-mini", "ir-autoencoder", "ir-autoencoder-f8"):
        found = RECIPES[name]
        sizes = architecture(found.architecture)
        halvings = len(sizes.unet["block_out_channels"]) - 1
        assert found.card["multiple"] == sizes.factor * 2**halvings
        assert all(stage.crop % found.card["multiple"] == 0 for stage in found.stages)


def test_prompts_decide_what_is_made(infrared_only, tmp_path):
    """All stages from random weights on ten infrared images; then hot is brighter than cold."""
    write_captions(infrared_only)
    fast = {"crop": 32, "scales": (1.0, 1.0), "variants": 2, "average_decay": 0.9}
    recipe = Recipe(
        name="t",
        architecture="txt2ir-tiny",
        stages=(
            stage_of(
                steps=60, batch_size=4, learning_rate=3e-3, kl=1e-6, structure=0.2,
                checkpoint_every=60, **fast,
            ),
            stage_of(
                name="adversary", steps=4, batch_size=2, learning_rate=1e-4, adversarial=0.5,
                checkpoint_every=2, **fast,
            ),
            Stage(
                name="text", scenes="infrared", conditions=("text",), drop=0.025,
                trains=("unet", "text_encoder"), steps=240, batch_size=8, learning_rate=3e-3,
                checkpoint_every=240, sample_every=240, **fast,
            ),
        ),
        card={
            "conditions": ("text",), "prompt_template": "{caption}",
            "prompt_without_caption": "an infrared image", "resolution": 32, "multiple": 8,
            "solver": "ddim", "steps": 6, "guidance": {"text": 2.0},
        },
    )  # fmt: skip
    folder = train(recipe, TrainSettings(infrared_only, tmp_path / "run"))
    model = load_model(folder)
    assert model.card.conditions == ("text",) and len(model.card.latent_std) == 4
    assert model.unet.config.in_channels == 4
    assert sorted(p.name for p in (tmp_path / "run" / "models").iterdir()) == [
        "a", "adversary", "text",
    ]  # fmt: skip
    assert list((tmp_path / "run" / "samples").glob("text-*.png"))
    sampler = TextSampler(model, GenerateSettings(seed=1))
    hot, cold = (
        np.stack(sampler.run([(Prompt(text), k) for k in range(4)])) for text in (HOT, COLD)
    )
    assert hot.mean(axis=(1, 2)).min() > cold.mean(axis=(1, 2)).max() + 0.2


def one_step_on_text(name):
    """Return a recipe that takes one step, too small to see, on captions alone."""
    text = Stage(
        name="text", scenes="infrared", conditions=("text",), trains=("unet", "text_encoder"),
        steps=1, batch_size=2, crop=32, variants=1, learning_rate=1e-12, checkpoint_every=1,
    )  # fmt: skip
    card = {"conditions": ["text"], "prompt_template": "{caption}", "resolution": 32, "multiple": 8}
    return Recipe(name="told", architecture=name, stages=(text,), card=card)


def test_a_text_model_starts_from_what_a_translator_says_without_images(infrared_only, tmp_path):
    write_captions(infrared_only)
    start = build_model(architecture("tiny"), name="translator", styles=("street", "field"))
    facts = {"latent_mean": (1.0,) * 4, "latent_std": (2.0,) * 4}
    start.card = start.card.model_copy(update=facts)
    start.save(tmp_path / "start")
    recipe = one_step_on_text("txt2ir-tiny")
    settings = TrainSettings(infrared_only, tmp_path / "run", start_from=str(tmp_path / "start"))
    model = load_model(train(recipe, settings))
    assert model.card.conditions == ("text",)
    assert model.card.styles[:2] == ("street", "field")
    assert (model.card.latent_mean, model.card.latent_std) == tuple(facts.values())
    assert model.unet.config.in_channels == 4 and model.image_encoder is None
    assert type(model.text_encoder).__name__ == "LDMBertModel"
    noisy, seen = torch.randn(1, 4, 8, 8), torch.zeros(1, 8, 8, 8)
    told = torch.randn(1, 3, 16)
    with torch.no_grad():
        for row in range(3):
            style = {"class_labels": torch.tensor([row]), "encoder_hidden_states": told}
            whole = start.unet(torch.cat([noisy, seen], 1), 400, **style).sample
            torch.testing.assert_close(model.unet(noisy, 400, **style).sample, whole)


def test_a_text_model_of_its_own_size_starts_from_a_translators_autoencoder(
    infrared_only, tmp_path
):
    write_captions(infrared_only)
    facts = {"latent_mean": (1.0,) * 8, "latent_std": (2.0,) * 8}
    start = build_model(_with_latents(8), name="translator", styles=("street",))
    start.card = start.card.model_copy(update=facts)
    start.save(tmp_path / "start")
    recipe = one_step_on_text("txt2ir-mini")
    settings = TrainSettings(infrared_only, tmp_path / "run", start_from=str(tmp_path / "start"))
    model = load_model(train(recipe, settings))
    assert (model.card.latent_mean, model.card.latent_std) == tuple(facts.values())
    assert model.card.styles == ()
    assert list(model.unet.config.block_out_channels) == [96, 144]
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(model.encode(images), start.encode(images))
    build_model(architecture("tiny"), name="small").save(tmp_path / "small")
    other = TrainSettings(infrared_only, tmp_path / "x", start_from=str(tmp_path / "small"))
    with pytest.raises(ModelError, match="does not fit the autoencoder of small"):
        train(recipe, other)


def _with_latents(number):
    """Return the tiny translator's architecture with another number of latent channels."""
    tiny = architecture("tiny")
    autoencoder = {**tiny.autoencoder, "latent_channels": number}
    unet = {**tiny.unet, "in_channels": 3 * number, "out_channels": number}
    return tiny.model_copy(update={"autoencoder": autoencoder, "unet": unet})
