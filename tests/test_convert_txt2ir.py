"""Convert TxT2IR's layout: one-channel autoencoder, latent diffusion's own text encoder."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from typer.testing import CliRunner

import compvis_reference as reference
from compvis_reference import Sizes, Weights, attend, layer_norm, linear
from v2ir.cli import app
from v2ir.errors import ModelError
from v2ir.files import read_json
from v2ir.hub import ConvertSettings, ReadSettings, convert, inspect_checkpoint, keys, pickles
from v2ir.hub.contents import expected_shapes
from v2ir.model import ARCHITECTURES, architecture, build_model, load_model
from v2ir.model.networks import build_tokenizer

HEADS, HEAD_WIDTH = 2, 8
# Five levels halve four times, so f = 16 as published; heads need not fill the width.
SIZES = Sizes(
    in_channels=4, context=48, colours=1, words=200, length=12, text_layers=3,
    pixel_multipliers=(1, 1, 1, 1, 2), text_heads=HEADS,
)  # fmt: skip
ROOT = "cond_stage_model.transformer"
TOLERANCE = 1e-5


def embed_text(w: Weights, sizes: Sizes, ids: Tensor) -> Tensor:
    """The text encoder of latent diffusion: (N, L, D) of the token numbers (N, L).

    Normed before each block, no bias in queries, keys and values, no mask, positions learned;
    attention and feed-forward blocks stand in turn in one list. After the released code's
    x_transformer.py; the logits are weights that sampling does not use.
    """
    width, inner = sizes.context, HEADS * HEAD_WIDTH
    x = w(f"{ROOT}.token_emb.weight", sizes.words, width)[ids]
    x = x + w(f"{ROOT}.pos_emb.emb.weight", sizes.length, width)[: ids.shape[1]]
    for layer in range(sizes.text_layers):
        name = f"{ROOT}.attn_layers.layers.{2 * layer}"
        h = layer_norm(w, f"{name}.0", x)
        q, k, v = (linear(w, f"{name}.1.to_{part}", h, inner, bias=False) for part in "qkv")
        x = x + linear(w, f"{name}.1.to_out", attend(q, k, v, HEADS, None), width)
        name = f"{ROOT}.attn_layers.layers.{2 * layer + 1}"
        h = linear(w, f"{name}.1.net.0.0", layer_norm(w, f"{name}.0", x), 4 * width)
        x = x + linear(w, f"{name}.1.net.2", F.gelu(h), width)
    x = layer_norm(w, f"{ROOT}.norm", x)
    linear(w, f"{ROOT}.to_logits", x, sizes.words)
    return x


@torch.no_grad()
def outputs(w: Weights, sizes: Sizes = SIZES) -> dict[str, Tensor]:
    inputs = reference.make_inputs(sizes)
    return {
        "unet": reference.unet(w, sizes, inputs.noisy, inputs.timestep, inputs.context),
        "encoder": reference.encode(w, sizes, inputs.image),
        "decoder": reference.decode(w, sizes, inputs.latent),
        "text": embed_text(w, sizes, inputs.ids),
    }


@functools.cache
def state() -> dict[str, Tensor]:
    """Return a random checkpoint: no average, as `use_ema: false` leaves it."""
    weights = Weights()
    outputs(weights)
    buffers = reference.buffers(SIZES.length)
    return {**weights.state, **{k: v for k, v in buffers.items() if "position_ids" not in k}}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(["street", "infrared"], SIZES.length).save_pretrained(folder)
    return folder


@pytest.fixture
def reading(tokenizer: Path) -> ReadSettings:
    return ReadSettings(heads=4, text_heads=HEADS, tokenizer=str(tokenizer))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "txt2ir.ckpt"
    reference.save_lightning(path, state())
    return path


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path, reading: ReadSettings) -> Path:
    convert(checkpoint, tmp_path / "model", ConvertSettings(reading))
    return tmp_path / "model"


def differences(model: Any, wanted: dict[str, Tensor]) -> dict[str, float]:
    got = reference.model_outputs(model, reference.make_inputs(SIZES))
    return {name: reference.relative_difference(got[name], wanted[name]) for name in wanted}


def test_all_networks_agree_with_the_published_layout(
    checkpoint: Path, tmp_path: Path, reading: ReadSettings
) -> None:
    read = convert(checkpoint, tmp_path / "model", ConvertSettings(reading))
    assert read is not None and read.problems == () and read.weights == "plain"
    found = differences(load_model(tmp_path / "model"), outputs(Weights(state=dict(state()))))
    assert found.keys() == {"unet", "encoder", "decoder", "text"}
    assert max(found.values()) <= TOLERANCE, found


def test_the_comparison_sees_layers_heads_and_tokens_that_are_exchanged(
    tmp_path: Path, tokenizer: Path, reading: ReadSettings
) -> None:
    wanted = outputs(Weights(state=dict(state())))
    there = f"{ROOT}.attn_layers.layers"
    swapped = dict(state())
    for part in ("q", "k", "v"):
        one, other = f"{there}.0.1.to_{part}.weight", f"{there}.2.1.to_{part}.weight"
        swapped[one], swapped[other] = swapped[other], swapped[one]
    reference.save_lightning(tmp_path / "a.ckpt", swapped)
    convert(tmp_path / "a.ckpt", tmp_path / "a", ConvertSettings(reading))
    assert differences(load_model(tmp_path / "a"), wanted)["text"] > 1e-3
    reference.save_lightning(tmp_path / "b.ckpt", state())
    asked = dataclasses.replace(reading, text_heads=4)
    convert(tmp_path / "b.ckpt", tmp_path / "b", ConvertSettings(asked))
    assert differences(load_model(tmp_path / "b"), wanted)["text"] > 1e-3


def test_the_card_holds_the_published_facts(folder: Path) -> None:
    model = load_model(folder)
    card = model.card
    assert card.conditions == ("text",) and card.channels == 4
    assert (card.solver, card.steps, card.guidance.text) == ("ddim", 200, 1.0)
    # Two levels of the small UNet halve once; the autoencoder's five four times.
    assert (card.factor, card.multiple, card.text_length) == (16, 32, SIZES.length)
    assert card.prompt("a street at night") == "a street at night"
    assert "TxT2IR" in card.data
    assert model.autoencoder.config.in_channels == 1
    assert model.autoencoder.config.scaling_factor == 0.18215
    assert model.schedule.prediction_type == "epsilon"
    assert model.text_encoder.config.vocab_size == SIZES.words
    index = read_json(folder / "model_index.json")
    assert index["text_encoder"] == ["latent_diffusion", "LDMBertModel"]


def test_it_embeds_prompts_and_encodes_pictures(folder: Path) -> None:
    model = load_model(folder)
    picture = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = model.encode_target(picture)
    assert latents.shape == (1, 4, 4, 4)
    assert model.decode(latents).shape == (1, 3, 64, 64)
    one, other = model.embed_prompts(["a street", "infrared"])
    assert one.shape == (SIZES.length, SIZES.context) and not torch.equal(one, other)


def test_there_and_back_is_the_same_checkpoint(folder: Path, tmp_path: Path) -> None:
    for name in ("back.ckpt", "back.safetensors"):
        convert(folder, tmp_path / name)
        tensors, _ = pickles.read_tensors(tmp_path / name)
        wanted = {k: v for k, v in state().items() if not k.startswith(("posterior", "logvar"))}
        for key, value in wanted.items():
            if key in keys.SCHEDULE_BUFFERS:
                torch.testing.assert_close(tensors[key], value, rtol=1e-4, atol=1e-6)
            else:
                assert torch.equal(tensors[key], value), key
        more = {k for k in tensors if k.startswith(("cond_", "first_", "model."))} - wanted.keys()
        assert not more
    again = convert(tmp_path / "back.ckpt", tmp_path / "again", ConvertSettings(
        ReadSettings(tokenizer=str(folder))
    ))  # fmt: skip
    assert again is not None and again.problems == ()
    first, second = load_model(folder), load_model(tmp_path / "again")
    assert second.card == first.card
    for part in ("unet", "autoencoder", "text_encoder"):
        one, other = (getattr(model, part).state_dict() for model in (first, second))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s.pop(f"{ROOT}.attn_layers.layers.3.1.net.2.bias"), "missing: cond_stage"),
        (lambda s: s.pop(f"{ROOT}.to_logits.weight"), "missing: cond_stage"),
        (lambda s: s.update({f"{ROOT}.memory_tokens": torch.zeros(2)}), "unexpected: cond_stage"),
        (lambda s: s.update({f"{ROOT}.norm.bias": torch.zeros(3)}), "misshapen: cond_stage"),
        (lambda s: s.pop("first_stage_model.decoder.conv_out.bias"), "missing: first_stage"),
    ],
)
def test_nothing_passes_silently(change, told, tmp_path: Path, reading: ReadSettings) -> None:
    tensors = dict(state())
    change(tensors)
    reference.save_lightning(tmp_path / "bad.ckpt", tensors)
    with pytest.raises(ModelError, match=told):
        convert(tmp_path / "bad.ckpt", tmp_path / "model", ConvertSettings(reading))
    assert not (tmp_path / "model").exists()


def test_heads_that_do_not_fit_are_refused(checkpoint: Path, reading: ReadSettings) -> None:
    with pytest.raises(ModelError, match="16 channels for 3 heads"):
        inspect_checkpoint(checkpoint, dataclasses.replace(reading, text_heads=3))


def test_the_published_size_is_read_from_shapes_alone() -> None:
    """32 layers of width 768, heads of 64: shapes on no device, so nothing is computed."""
    shapes = {
        f"{ROOT}.token_emb.weight": (30_522, 768),
        f"{ROOT}.pos_emb.emb.weight": (77, 768),
        f"{ROOT}.attn_layers.layers.0.1.to_q.weight": (512, 768),
        f"{ROOT}.attn_layers.layers.1.1.net.0.0.weight": (3_072, 768),
        f"{ROOT}.attn_layers.layers.63.1.net.2.bias": (768,),
    }
    from v2ir.hub.inference import Shapes, word_piece_config

    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    config = word_piece_config(Shapes(tensors, keys.TEXT_PREFIX), None)
    assert (config["encoder_layers"], config["encoder_attention_heads"]) == (32, 8)
    published = ARCHITECTURES["txt2ir"]
    assert published.text_encoder == config and published.text_encoder_class == "LDMBertModel"
    wanted = expected_shapes("text_encoder", published)
    table = keys.word_piece_modules(32)
    names = {
        keys.TEXT_PREFIX + str(keys.translate(key, table)): shape for key, shape in wanted.items()
    }
    assert names.keys() >= shapes.keys() and all(names[k] == s for k, s in shapes.items())
    per_layer = 4 * 768 * 512 + 768 + 8 * 768**2 + 5 * 768 + 4 * 768
    outer = 30_522 * 768 + 77 * 768 + 2 * 768 + 30_522 * 769
    assert sum(torch.Size(s).numel() for s in wanted.values()) == 32 * per_layer + outer


def test_an_encoder_without_a_place_in_the_layout_is_refused(tmp_path: Path) -> None:
    """Transformers' BERT norms after each block: no tensor of the layout says that."""
    bert = {
        "vocab_size": 0, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 24,
    }  # fmt: skip
    changes = {"text_encoder_class": "BertModel", "text_encoder": bert}
    made = architecture("txt2ir-tiny").model_copy(update=changes)
    text = build_model(made, name="x", words=["street"])
    text.save(tmp_path / "model")
    read = inspect_checkpoint(tmp_path / "model", ReadSettings())
    assert read.problems == () and read.architecture.text_encoder_class == "BertModel"
    with pytest.raises(ModelError, match="text encoder"):
        convert(tmp_path / "model", tmp_path / "x.ckpt")
    assert not (tmp_path / "x.ckpt").exists()


def test_a_folder_of_any_text_encoder_goes_to_a_folder(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "copy", ConvertSettings(layout="model"))
    assert load_model(tmp_path / "copy").card == load_model(folder).card
    index = tmp_path / "copy" / "model_index.json"
    index.write_text(index.read_text().replace("LDMBertModel", "T5EncoderModel"))
    with pytest.raises(ModelError, match="T5EncoderModel"):
        inspect_checkpoint(tmp_path / "copy", ReadSettings())


def test_the_verb_converts_it(checkpoint: Path, tmp_path: Path, tokenizer: Path) -> None:
    arguments = ["--heads", "4", "--text-heads", "2", "--tokenizer", str(tokenizer)]
    done = CliRunner().invoke(
        app, ["convert", str(checkpoint), str(tmp_path / "model"), *arguments]
    )
    assert done.exit_code == 0, done.output
    assert load_model(tmp_path / "model").card.conditions == ("text",)
