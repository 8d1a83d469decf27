"""Convert: equal outputs before and after, equal tensors there and back, clear refusals."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

import compvis_reference as reference
from compvis_reference import Inputs, Sizes
from v2ir.annotation import make_captioner, make_segmenter
from v2ir.cli import app
from v2ir.errors import InputError, ModelError, OutputError, UnknownNameError
from v2ir.hub import (
    LAYOUTS,
    ConvertSettings,
    ReadSettings,
    choose_layout,
    compvis,
    convert,
    inference,
    inspect_checkpoint,
    keys,
    pickles,
    write_model,
)
from v2ir.hub.contents import Problem, expected_shapes
from v2ir.model import ARCHITECTURES, Conditions, Model, load_model
from v2ir.model.networks import Architecture, build_tokenizer

SMALL = Sizes()
TOLERANCE = 1e-5


@functools.lru_cache(maxsize=8)
def make_state(sizes: Sizes = SMALL, averaged: bool = True) -> dict[str, Tensor]:
    """Return a random checkpoint's state dictionary."""
    weights = reference.Weights()
    reference.outputs(weights, sizes, reference.make_inputs(sizes))
    state = {**weights.state, **reference.buffers(sizes.length)}
    return reference.with_average(state, lambda x: 1.1 * x + 0.01) if averaged else state


@functools.lru_cache(maxsize=8)
def expected(sizes: Sizes = SMALL, averaged: bool = True) -> tuple[Inputs, dict[str, Tensor]]:
    """Return inputs and the outputs that the reference gives for them."""
    state, inputs = make_state(sizes, averaged), reference.make_inputs(sizes)
    if averaged:
        state = reference.averaged_weights(state)
    return inputs, reference.outputs(reference.Weights(state=dict(state)), sizes, inputs)


def without_average(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if not key.startswith("model_ema.")}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(["street", "infrared"], SMALL.length).save_pretrained(folder)
    return folder


@pytest.fixture
def reading(tokenizer: Path) -> ReadSettings:
    return ReadSettings(heads=4, text_heads=1, tokenizer=str(tokenizer))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "small.ckpt"
    reference.save_lightning(path, make_state())
    return path


@pytest.fixture
def model_folder(checkpoint: Path, tmp_path: Path, reading: ReadSettings) -> Path:
    convert(checkpoint, tmp_path / "model", ConvertSettings(reading))
    return tmp_path / "model"


def assert_outputs(model: Model, sizes: Sizes = SMALL, averaged: bool = True) -> None:
    inputs, wanted = expected(sizes, averaged)
    for name, got in reference.model_outputs(model, inputs).items():
        difference = reference.relative_difference(got, wanted[name])
        assert difference <= TOLERANCE, f"{name}: {difference}"


def files_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- equal outputs ---------------------------------------------------------------------

SHAPES = {
    "attention above": Sizes(),
    "attention below": Sizes(attends=(False, True), blocks=2, in_channels=8),
    "three levels": Sizes(
        multipliers=(1, 2, 2),
        attends=(True, True, False),
        pixel_multipliers=(1, 1, 2),
        pixel_blocks=2,
        heads=8,
    ),
}


@pytest.mark.parametrize("sizes", SHAPES.values(), ids=SHAPES)
def test_networks_agree_with_the_layouts_mathematics(
    sizes: Sizes, tmp_path: Path, reading: ReadSettings
) -> None:
    reference.save_lightning(tmp_path / "a.ckpt", make_state(sizes))
    asked = dataclasses.replace(reading, heads=sizes.heads)
    read = convert(tmp_path / "a.ckpt", tmp_path / "model", ConvertSettings(asked))
    assert read is not None and read.weights == "averaged" and read.problems == ()
    model = load_model(tmp_path / "model")
    assert_outputs(model, sizes)
    assert model.unet.config.in_channels == sizes.in_channels
    assert model.card.factor == 2 ** (len(sizes.pixel_multipliers) - 1)


def test_a_wrong_number_of_heads_is_seen_by_the_comparison(
    checkpoint: Path, tmp_path: Path, reading: ReadSettings
) -> None:
    asked = dataclasses.replace(reading, heads=2)
    convert(checkpoint, tmp_path / "model", ConvertSettings(asked))
    with pytest.raises(AssertionError, match="unet"):
        assert_outputs(load_model(tmp_path / "model"))


def test_plain_weights_on_request(checkpoint: Path, tmp_path: Path, reading: ReadSettings) -> None:
    asked = dataclasses.replace(reading, weights="plain")
    read = convert(checkpoint, tmp_path / "model", ConvertSettings(asked))
    assert read is not None and read.weights == "plain"
    assert_outputs(load_model(tmp_path / "model"), averaged=False)


def test_safetensors_without_average(tmp_path: Path, reading: ReadSettings) -> None:
    save_file(make_state(averaged=False), tmp_path / "a.safetensors")
    read = convert(tmp_path / "a.safetensors", tmp_path / "model", ConvertSettings(reading))
    assert read is not None and read.weights == "plain"
    assert_outputs(load_model(tmp_path / "model"), averaged=False)
    with pytest.raises(InputError, match="no averaged weights"):
        inspect_checkpoint(
            tmp_path / "a.safetensors", dataclasses.replace(reading, weights="averaged")
        )


def test_the_old_file_format_of_torch(tmp_path: Path, reading: ReadSettings) -> None:
    torch.save(
        {"state_dict": make_state()}, tmp_path / "a.ckpt", _use_new_zipfile_serialization=False
    )
    contents = inspect_checkpoint(tmp_path / "a.ckpt", reading)
    assert contents.problems == ()


def test_text_encoder_keys_without_their_wrapper(tmp_path: Path, reading: ReadSettings) -> None:
    state = {
        key.replace("transformer.text_model.", "transformer."): t for key, t in make_state().items()
    }
    reference.save_lightning(tmp_path / "a.ckpt", state)
    convert(tmp_path / "a.ckpt", tmp_path / "model", ConvertSettings(reading))
    assert_outputs(load_model(tmp_path / "model"))


def test_half_precision_on_request(checkpoint: Path, tmp_path: Path, reading: ReadSettings) -> None:
    convert(checkpoint, tmp_path / "model", ConvertSettings(reading, dtype="float16"))
    stored = load_file(tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    with pytest.raises(UnknownNameError, match="float16"):
        convert(checkpoint, tmp_path / "other", ConvertSettings(reading, dtype="float61"))


# --- the card --------------------------------------------------------------------------


def test_the_card_holds_the_published_facts(model_folder: Path) -> None:
    card = load_model(model_folder).card
    assert card.name == "small"
    assert card.conditions == ("text", "visible", "segmentation")
    assert (card.solver, card.steps, card.resolution, card.multiple) == (
        "euler_ancestral",
        100,
        512,
        64,
    )
    assert (card.guidance.text, card.guidance.visible, card.guidance.segmentation) == (
        7.5,
        1.5,
        1.5,
    )
    assert card.prompt("a street") == "turn the visible image of a street into infrared"
    assert card.prompt(None) == "turn the RGB image into the infrared one"
    assert not card.scale_conditions
    assert "small.ckpt" in card.data and "averaged" in card.data
    assert make_captioner(card.captioner).weights == "Salesforce/blip-image-captioning-base"
    assert make_segmenter(card.segmenter).weights == "facebook/sam-vit-huge"


def test_a_converted_model_denoises_under_all_conditions(model_folder: Path) -> None:
    model = load_model(model_folder)
    assert model.autoencoder.config.scaling_factor == 0.18215
    assert model.schedule.prediction_type == "epsilon"
    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    conditions = model.conditions(visible=torch.zeros(2, 3, 16, 16), captions=["a street", None])
    with torch.no_grad():
        told = model.denoiser(noisy, torch.tensor([9, 9]), conditions)
        untold = model.denoiser(noisy, torch.tensor([9, 9]), Conditions())
    assert told.shape == noisy.shape and not torch.allclose(told, untold)


# --- channels --------------------------------------------------------------------------

TEXT_ONLY = Sizes(in_channels=4)


@pytest.mark.parametrize(("channels", "there"), [(None, 12), (4, 4), (8, 8), (12, 12)])
def test_stable_diffusion_is_widened_with_zeros(
    channels: int | None, there: int, tmp_path: Path, reading: ReadSettings
) -> None:
    reference.save_lightning(tmp_path / "sd.ckpt", make_state(TEXT_ONLY, averaged=False))
    asked = dataclasses.replace(reading, channels=channels)
    convert(tmp_path / "sd.ckpt", tmp_path / "model", ConvertSettings(asked))
    model = load_model(tmp_path / "model")
    assert model.unet.config.in_channels == there
    assert len(model.card.conditions) == there // 4
    assert model.card.captioner is None and model.card.segmenter is None  # it saw no such map
    inputs, wanted = expected(TEXT_ONLY, averaged=False)
    more = torch.randn(2, there - 4, 8, 8, generator=torch.Generator().manual_seed(5))
    wide = dataclasses.replace(inputs, noisy=torch.cat([inputs.noisy, 100 * more], dim=1))
    got = reference.model_outputs(model, wide)["unet"]
    assert reference.relative_difference(got, wanted["unet"]) <= TOLERANCE


def test_channels_cannot_be_removed(
    checkpoint: Path, tmp_path: Path, reading: ReadSettings
) -> None:
    asked = dataclasses.replace(reading, channels=8)
    with pytest.raises(InputError, match="ask for 12"):
        convert(checkpoint, tmp_path / "model", ConvertSettings(asked))
    assert not (tmp_path / "model").exists()


def test_inpainting_channels_are_refused(tmp_path: Path, reading: ReadSettings) -> None:
    sizes = Sizes(in_channels=9)
    save_file(make_state(sizes, averaged=False), tmp_path / "inpaint.safetensors")
    with pytest.raises(ModelError, match="9 channels"):
        convert(tmp_path / "inpaint.safetensors", tmp_path / "model", ConvertSettings(reading))


# --- and back --------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_back_to_a_compvis_checkpoint_gives_equal_tensors(
    suffix: str, checkpoint: Path, model_folder: Path, tmp_path: Path
) -> None:
    back = tmp_path / f"back{suffix}"
    convert(model_folder, back)
    got, _ = pickles.read_tensors(back)
    wanted = reference.averaged_weights(make_state())
    wanted = {key: wanted[key] for key in without_average(wanted)}
    weights = {key for key in wanted if key.startswith(("model.", "first_stage", "cond_stage"))}
    assert weights - {"cond_stage_model.transformer.text_model.embeddings.position_ids"}
    for key in weights:
        assert torch.equal(got[key], wanted[key]), key
    assert not {key for key in got if key.startswith("model.diffusion")} - weights
    for key in ("betas", "alphas_cumprod"):
        torch.testing.assert_close(got[key], wanted[key], rtol=1e-5, atol=1e-7)
    if suffix == ".ckpt":
        # The released sampling code takes the average, so it must be the same weights.
        assert all(
            torch.equal(got[keys.averaged_key(key)], wanted[key])
            for key in weights
            if key.startswith("model.")
        )
        assert torch.load(back, weights_only=True)["global_step"] == 0
        size = sum(t.numel() * t.element_size() for t in wanted.values())
        assert back.stat().st_size < 1.3 * size, "the average is a second copy on the disk"


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_our_own_checkpoint_remembers_card_and_heads(
    suffix: str, checkpoint: Path, tmp_path: Path, reading: ReadSettings, tokenizer: Path
) -> None:
    asked = dataclasses.replace(reading, name="my camera", licence="ours")
    convert(checkpoint, tmp_path / "one", ConvertSettings(asked))
    convert(tmp_path / "one", tmp_path / f"back{suffix}")
    # Neither heads nor name are given again.
    silent = ConvertSettings(ReadSettings(tokenizer=str(tokenizer)))
    convert(tmp_path / f"back{suffix}", tmp_path / "two", silent)
    one, two = load_model(tmp_path / "one"), load_model(tmp_path / "two")
    assert one.card == two.card and two.card.licence == "ours"
    assert_outputs(two)
    for part in ("unet", "autoencoder", "text_encoder"):
        mine, other = getattr(one, part).state_dict(), getattr(two, part).state_dict()
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[key], other[key]) for key in mine)


def test_styles_survive_the_compvis_layout(
    model_folder: Path, tmp_path: Path, tokenizer: Path
) -> None:
    from v2ir.model import add_styles

    model = load_model(model_folder)
    model.unet = add_styles(model.unet, 2)
    with torch.no_grad():
        model.unet.class_embedding.weight.normal_(generator=torch.Generator().manual_seed(0))
    model.card = model.card.model_copy(update={"styles": ("day", "night")})
    write_model(model, tmp_path / "styled.ckpt", "compvis")
    asked = ReadSettings(tokenizer=str(tokenizer))
    convert(tmp_path / "styled.ckpt", tmp_path / "styled", ConvertSettings(asked))
    again = load_model(tmp_path / "styled")
    assert again.card.styles == ("day", "night")
    assert torch.equal(again.unet.class_embedding.weight, model.unet.class_embedding.weight)


def test_what_the_compvis_layout_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="AutoencoderDC"):
        write_model(load_model("mini"), tmp_path / "mini.ckpt", "compvis")
    assert list(tmp_path.iterdir()) == []


# --- diffusers folders -----------------------------------------------------------------


@pytest.mark.parametrize("channels", [4, 8])
def test_diffusers_pipelines_open_the_plain_folder(
    channels: int, tmp_path: Path, reading: ReadSettings
) -> None:
    from diffusers import StableDiffusionInstructPix2PixPipeline, StableDiffusionPipeline

    reference.save_lightning(tmp_path / "sd.ckpt", make_state(TEXT_ONLY, averaged=False))
    asked = dataclasses.replace(reading, channels=channels)
    convert(tmp_path / "sd.ckpt", tmp_path / "plain", ConvertSettings(asked, layout="diffusers"))
    assert not (tmp_path / "plain" / "v2ir.json").exists()
    kinds = {4: StableDiffusionPipeline, 8: StableDiffusionInstructPix2PixPipeline}
    index = json.loads((tmp_path / "plain" / "model_index.json").read_text())
    assert index["_class_name"] == kinds[channels].__name__
    pipeline = kinds[channels].from_pretrained(tmp_path / "plain")
    pipeline.set_progress_bar_config(disable=True)
    image = {"image": torch.rand(1, 3, 16, 16)} if channels == 8 else {"height": 16, "width": 16}
    made = pipeline("a street", num_inference_steps=2, output_type="np", **image).images
    assert made.shape == (1, 16, 16, 3)


def test_there_and_back_through_a_plain_folder(model_folder: Path, tmp_path: Path) -> None:
    read = convert(model_folder, tmp_path / "plain")
    assert read is not None and read.layout == "model"
    again = convert(tmp_path / "plain", tmp_path / "again")
    assert again is not None and again.layout == "diffusers" and again.problems == ()
    assert_outputs(load_model(tmp_path / "again"))
    assert load_model(tmp_path / "again").card.factor == 2


def test_names_of_old_diffusers_folders(model_folder: Path, tmp_path: Path) -> None:
    """Old attention names, pickled weights, wrapped text keys with a buffer."""
    old = tmp_path / "old"
    convert(model_folder, old)
    path = old / "vae" / "diffusion_pytorch_model.safetensors"
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {
        re.sub(r"(to_q|to_k|to_v|to_out\.0)", lambda m: names[m[1]], key): tensor
        for key, tensor in load_file(path).items()
    }
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in renamed
    save_file(renamed, path)
    path = old / "text_encoder" / "model.safetensors"
    text = {
        f"text_model.{key.removeprefix('text_model.')}": t for key, t in load_file(path).items()
    }
    text["text_model.embeddings.position_ids"] = torch.arange(SMALL.length)[None]
    torch.save(text, old / "text_encoder" / "pytorch_model.bin")
    path.unlink()
    read = convert(old, tmp_path / "again")
    assert read is not None and read.problems == () and read.passed_over == 1
    assert_outputs(load_model(tmp_path / "again"))


def test_sharded_weights(model_folder: Path, tmp_path: Path) -> None:
    model = load_model(model_folder)
    shutil.copytree(model_folder, tmp_path / "shards")
    (tmp_path / "shards" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    model.unet.save_pretrained(tmp_path / "shards" / "unet", max_shard_size="1MB")
    assert len(list((tmp_path / "shards" / "unet").glob("*.safetensors"))) > 1
    convert(tmp_path / "shards", tmp_path / "again", ConvertSettings(layout="model"))
    assert_outputs(load_model(tmp_path / "again"))


def test_a_folder_that_lacks_a_tensor_names_it(model_folder: Path, tmp_path: Path) -> None:
    path = model_folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["conv_in.bias"]
    save_file(tensors, path)
    with pytest.raises(ModelError, match=r"missing: unet/conv_in\.bias"):
        convert(model_folder, tmp_path / "plain")
    assert not (tmp_path / "plain").exists()


def test_folders_of_other_families_are_refused(model_folder: Path, tmp_path: Path) -> None:
    path = model_folder / "model_index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({**index, "text_encoder_2": ["transformers", "CLIPTextModel"]}))
    with pytest.raises(ModelError, match="text_encoder_2"):
        convert(model_folder, tmp_path / "plain")


# --- strictness ------------------------------------------------------------------------

WEIGHT_KEYS = sorted(
    key
    for key in make_state()
    if key.startswith(("model.diffusion", "first_stage", "cond_stage")) and "position" not in key
)


@given(key=st.sampled_from(WEIGHT_KEYS))
@settings(max_examples=8)
def test_any_missing_key_is_named(tmp_path_factory: pytest.TempPathFactory, key: str) -> None:
    path = tmp_path_factory.mktemp("missing") / "a.safetensors"
    save_file({k: t for k, t in make_state(averaged=False).items() if k != key}, path)
    with pytest.raises(ModelError) as caught:
        inspect_checkpoint(path, ReadSettings()).refuse(())
    assert key in str(caught.value)


@given(key=st.sampled_from(WEIGHT_KEYS))
@settings(max_examples=8)
def test_any_renamed_key_is_named_twice(tmp_path_factory: pytest.TempPathFactory, key: str) -> None:
    path = tmp_path_factory.mktemp("renamed") / "a.safetensors"
    state = dict(make_state(averaged=False))
    state["extra_" + key] = state.pop(key)
    save_file(state, path)
    with pytest.raises(ModelError) as caught:
        inspect_checkpoint(path, ReadSettings()).refuse(())
    assert key in str(caught.value)


def altered(tmp_path: Path, **changes: Tensor | None) -> Path:
    state = dict(make_state())
    for key, tensor in changes.items():
        state.pop(key, None)
        if tensor is not None:
            state[key] = tensor
    reference.save_lightning(tmp_path / "altered.ckpt", state)
    return tmp_path / "altered.ckpt"


BIAS = "first_stage_model.decoder.conv_out.bias"
AVERAGED_BIAS = "model_ema.diffusion_modelinput_blocks00bias"


def test_every_kind_of_problem_is_listed(tmp_path: Path, reading: ReadSettings) -> None:
    path = altered(
        tmp_path,
        **{BIAS: torch.zeros(7), AVERAGED_BIAS: None, "control_model.zero.weight": torch.zeros(1)},
    )
    contents = inspect_checkpoint(path, reading)
    assert set(contents.problems) == {
        Problem("misshapen", BIAS, "got (7,), wanted (3,)"),
        Problem("missing", AVERAGED_BIAS),
        Problem("unexpected", "control_model.zero.weight"),
    }
    with pytest.raises(ModelError, match=r"3 keys of altered\.ckpt") as caught:
        convert(path, tmp_path / "model", ConvertSettings(reading))
    assert all(str(problem) in str(caught.value) for problem in contents.problems)
    assert not (tmp_path / "model").exists()


def test_problems_can_be_allowed_by_name(tmp_path: Path, reading: ReadSettings) -> None:
    path = altered(
        tmp_path,
        **{BIAS: torch.zeros(7), AVERAGED_BIAS: None, "control_model.zero.weight": torch.zeros(1)},
    )
    some = dataclasses.replace(reading, allow=("control_model.*", BIAS))
    with pytest.raises(ModelError, match="1 keys"):
        convert(path, tmp_path / "model", ConvertSettings(some))
    every = dataclasses.replace(reading, allow=(*some.allow, "model_ema.*bias"))
    convert(path, tmp_path / "model", ConvertSettings(every))
    model = load_model(tmp_path / "model")
    wanted = reference.averaged_weights(make_state())
    first = wanted["model.diffusion_model.input_blocks.0.0.weight"]
    assert torch.equal(model.unet.conv_in.weight, first)
    assert model.unet.conv_in.bias.shape == (32,)
    assert model.autoencoder.decoder.conv_out.bias.shape == (3,)
    convert(path, tmp_path / "twin", ConvertSettings(every))
    twin = load_model(tmp_path / "twin")
    assert torch.equal(model.unet.conv_in.bias, twin.unet.conv_in.bias), "the draw is seeded"


# --- pickles and wrong files -----------------------------------------------------------


class Evil:
    """Would create a file if its pickle were run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused_by_name(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "evil.ckpt"
    torch.save(
        {"state_dict": {"a": torch.ones(1)}, "callbacks": Evil(tmp_path / "ran")},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(InputError, match=r"asks for posix\.mkdir"):
        inspect_checkpoint(path, ReadSettings())
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists(), "the trap does not work"


def test_stand_ins_do_nothing() -> None:
    for name, stand_in in pickles.ALLOWED_CLASSES.items():
        made = stand_in() if stand_in is dict else stand_in({"command": "x"})
        assert type(made).__module__ in {"builtins", "v2ir.hub.pickles"}, name
        assert not made if isinstance(made, dict) else vars(made) == {}


def test_a_class_with_the_name_of_no_harmless_one_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}, "x": Sizes()}, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"asks for compvis_reference\.Sizes"):
        inspect_checkpoint(tmp_path / "a.ckpt", ReadSettings())


WRONG = {
    "empty.ckpt": b"",
    "pointer.ckpt": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "page.safetensors": b"<!DOCTYPE html><html></html>",
    "noise.ckpt": bytes(range(256)),
    "noise.safetensors": bytes(range(256)),
    "numbers.ckpt": pickle.dumps([1, 2, 3], protocol=2),
    "image.png": b"\x89PNG\r\n\x1a\n",
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(WRONG[name])
    with pytest.raises(InputError, match=re.escape(name)):
        inspect_checkpoint(tmp_path / name, ReadSettings())


def test_a_torn_checkpoint_is_refused(checkpoint: Path) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:-5000])
    with pytest.raises(InputError, match=r"small\.ckpt"):
        inspect_checkpoint(checkpoint, ReadSettings())


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    save_file({"lora_up.weight": torch.ones(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(ModelError, match=r"lora_up\.weight"):
        inspect_checkpoint(tmp_path / "lora.safetensors", ReadSettings())
    torch.save({"state_dict": {"a": 1}}, tmp_path / "none.ckpt")
    with pytest.raises(InputError, match="no tensors"):
        inspect_checkpoint(tmp_path / "none.ckpt", ReadSettings())


def test_no_tokenizer_is_said_with_the_cure(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="--tokenizer FOLDER"):
        convert(checkpoint, tmp_path / "model", ConvertSettings(ReadSettings(heads=4)))
    assert not (tmp_path / "model").exists()


def test_a_tokenizer_of_another_model_is_refused(
    checkpoint: Path, tmp_path: Path, reading: ReadSettings
) -> None:
    build_tokenizer([f"word{n}" for n in range(99)], 12).save_pretrained(tmp_path / "big")
    asked = dataclasses.replace(reading, tokenizer=str(tmp_path / "big"))
    with pytest.raises(ModelError, match="pieces for a vocabulary of 120"):
        convert(checkpoint, tmp_path / "model", ConvertSettings(asked))


# --- tables and inference --------------------------------------------------------------

KNOWN_NAMES = {
    "conv_in.weight": "input_blocks.0.0.weight",
    "time_embedding.linear_2.bias": "time_embed.2.bias",
    "down_blocks.0.downsamplers.0.conv.bias": "input_blocks.3.0.op.bias",
    "down_blocks.1.attentions.0.proj_in.weight": "input_blocks.4.1.proj_in.weight",
    "down_blocks.1.resnets.0.conv_shortcut.weight": "input_blocks.4.0.skip_connection.weight",
    "down_blocks.3.resnets.1.conv2.weight": "input_blocks.11.0.out_layers.3.weight",
    "mid_block.resnets.1.time_emb_proj.weight": "middle_block.2.emb_layers.1.weight",
    "up_blocks.0.upsamplers.0.conv.weight": "output_blocks.2.1.conv.weight",
    "up_blocks.1.upsamplers.0.conv.weight": "output_blocks.5.2.conv.weight",
    "up_blocks.3.attentions.2.transformer_blocks.0.ff.net.0.proj.bias": (
        "output_blocks.11.1.transformer_blocks.0.ff.net.0.proj.bias"
    ),
    "conv_norm_out.weight": "out.0.weight",
}


def test_the_full_size_table() -> None:
    architecture = ARCHITECTURES["sd15"]
    shapes = expected_shapes("unet", architecture)
    table = keys.unet_modules(architecture.unet)
    theirs = {key: keys.translate(key, table) for key in shapes}
    assert len(shapes) == 686 and len(set(theirs.values())) == 686 and None not in theirs.values()
    assert {key: theirs[key] for key in KNOWN_NAMES} == KNOWN_NAMES
    back = keys.reverse(table)
    assert all(keys.translate(their, back) == key for key, their in theirs.items() if their)
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 859_544_004
    averaged = {keys.averaged_key(f"model.diffusion_model.{their}") for their in theirs.values()}
    assert len(averaged) == 686
    assert "model_ema.diffusion_modelinput_blocks00weight" in averaged


def test_the_full_size_table_of_the_autoencoder() -> None:
    architecture = ARCHITECTURES["sd15"]
    shapes = expected_shapes("autoencoder", architecture)
    table = keys.autoencoder_modules(architecture.autoencoder)
    theirs = {key: keys.translate(key, table) for key in shapes}
    assert len(shapes) == 248 == len(set(theirs.values())) and None not in theirs.values()
    assert (
        theirs["decoder.up_blocks.0.resnets.2.conv1.weight"] == "decoder.up.3.block.2.conv1.weight"
    )
    assert (
        theirs["encoder.mid_block.attentions.0.to_out.0.bias"] == "encoder.mid.attn_1.proj_out.bias"
    )
    assert sum(map(keys.is_pointwise, shapes)) == 8


@st.composite
def unet_sizes(draw: st.DrawFn) -> dict[str, Any]:
    levels = draw(st.integers(1, 4))
    attends = draw(st.lists(st.booleans(), min_size=levels, max_size=levels))
    down = ["CrossAttnDownBlock2D" if here else "DownBlock2D" for here in attends]
    up = ["CrossAttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attends)]
    widths = draw(st.lists(st.sampled_from([32, 64, 96]), min_size=levels, max_size=levels))
    return {
        "sample_size": 64,
        "in_channels": draw(st.sampled_from([4, 8, 12])),
        "out_channels": 4,
        "block_out_channels": widths,
        "layers_per_block": draw(st.integers(1, 3)),
        "down_block_types": down,
        "up_block_types": up,
        "cross_attention_dim": draw(st.sampled_from([48, 64])),
        "attention_head_dim": 8,
        "transformer_layers_per_block": draw(st.integers(1, 2)),
        "use_linear_projection": draw(st.booleans()),
        "num_class_embeds": draw(st.sampled_from([None, 3])),
    }


@given(config=unet_sizes())
@settings(max_examples=8)
def test_sizes_are_read_from_shapes(config: dict[str, Any]) -> None:
    architecture = ARCHITECTURES["sd15"].model_copy(update={"unet": config})
    name_of = compvis.naming("unet", architecture)
    tensors = {
        str(name_of(key)): torch.empty(shape, device="meta")
        for key, shape in expected_shapes("unet", architecture).items()
    }
    found = inference.unet_config(inference.Shapes(tensors, keys.UNET_PREFIX), heads=8)
    assert found == config


SCHEDULES = {
    "published": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
    "linear": {"beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "linear"},
    "short": {"num_train_timesteps": 250, "beta_start": 0.001, "beta_schedule": "linear"},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_schedules_are_read_from_their_buffers(schedule: dict[str, Any]) -> None:
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    wanted = DDPMScheduler(**schedule).alphas_cumprod
    found = inference.schedule_config({"alphas_cumprod": wanted}, ARCHITECTURES["sd15"].scheduler)
    got = DDPMScheduler(**found).alphas_cumprod
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-7)
    if schedule["beta_schedule"] != "squaredcos_cap_v2":
        assert {key: found[key] for key in schedule} == schedule


def test_written_buffers_are_those_of_the_forward_process() -> None:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    got = compvis.schedule_buffers(torch.cumprod(1 - betas, dim=0))
    assert tuple(got) == keys.SCHEDULE_BUFFERS
    torch.testing.assert_close(got["betas"], betas.float(), rtol=1e-5, atol=1e-9)
    # x_{t-1} given x_t and x_0 = x: the two means of an unnoised signal add up to alpha_{t-1}.
    mean = got["posterior_mean_coef1"] + got["posterior_mean_coef2"] * got["sqrt_alphas_cumprod"]
    torch.testing.assert_close(mean, got["alphas_cumprod_prev"].sqrt(), rtol=1e-4, atol=1e-5)


def test_a_stored_latent_scale_counts(tmp_path: Path, reading: ReadSettings) -> None:
    path = altered(tmp_path, scale_factor=torch.tensor(0.25))
    assert inspect_checkpoint(path, reading).architecture.autoencoder["scaling_factor"] == 0.25


def test_one_channel_autoencoders_are_read(tmp_path: Path, reading: ReadSettings) -> None:
    sizes = Sizes(colours=1, pixel_multipliers=(1, 1, 1, 1, 2))
    reference.save_lightning(tmp_path / "a.ckpt", make_state(sizes))
    contents = inspect_checkpoint(tmp_path / "a.ckpt", reading)
    assert contents.problems == () and contents.architecture.factor == 16
    assert contents.architecture.autoencoder["in_channels"] == 1


# --- files and the command line --------------------------------------------------------


def test_the_layout_follows_from_the_names(model_folder: Path, checkpoint: Path) -> None:
    assert choose_layout(checkpoint, Path("out"), None) == "model"
    assert choose_layout(model_folder, Path("out"), None) == "diffusers"
    assert choose_layout(model_folder, Path("out.ckpt"), None) == "compvis"
    assert choose_layout(checkpoint, Path("out"), "diffusers") == "diffusers"
    with pytest.raises(InputError, match="of a folder"):
        choose_layout(checkpoint, Path("out.ckpt"), "model")
    with pytest.raises(InputError, match=r"\.ckpt or"):
        choose_layout(checkpoint, Path("out"), "compvis")
    with pytest.raises(UnknownNameError, match="diffusers"):
        choose_layout(checkpoint, Path("out"), "diffuser")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_writes_what_it_reads(layout: str, model_folder: Path, tmp_path: Path) -> None:
    target = tmp_path / f"out{min(LAYOUTS[layout].suffixes, default='')}"
    model = load_model(model_folder)
    write_model(model, target, layout)
    assert LAYOUTS[layout].is_there(target)
    contents = LAYOUTS[layout].read(target, ReadSettings())
    assert contents.problems == ()
    unet = model.unet.state_dict()
    assert all(torch.equal(unet[key], t) for key, t in contents.tensors["unet"].items())


@pytest.mark.parametrize("name", ["again.ckpt", "again"])
def test_a_failed_write_leaves_nothing(
    name: str, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("disk full")

    model = load_model(model_folder)
    before = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.setattr(torch, "save", fail)
    monkeypatch.setattr(type(model.scheduler), "save_pretrained", fail)
    with pytest.raises(OutputError, match="disk full"):
        write_model(model, tmp_path / name, "compvis" if name.endswith("ckpt") else "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


def test_the_verb_converts_and_then_changes_nothing(
    checkpoint: Path, tmp_path: Path, tokenizer: Path
) -> None:
    call = (checkpoint, tmp_path / "m", "--heads", 4, "--text-heads", 1, "--tokenizer", tokenizer)
    first = run(*call)
    assert first.exit_code == 0, first.output
    assert "DiffV2IR" in first.output and "averaged" in first.output
    assert_outputs(load_model(tmp_path / "m"))
    before = files_of(tmp_path)
    second = run(*call)
    assert second.exit_code == 0 and "--overwrite" in second.output
    assert files_of(tmp_path) == before
    third = run(*call, "--weights", "plain", "--overwrite")
    assert third.exit_code == 0, third.output
    assert_outputs(load_model(tmp_path / "m"), averaged=False)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_dry_run_shows_and_writes_nothing(checkpoint: Path, tmp_path: Path) -> None:
    before = files_of(tmp_path)
    # No tokenizer is needed to see what a checkpoint holds.
    done = run(checkpoint, tmp_path / "m", "--dry-run")
    assert done.exit_code == 0, done.output
    state = make_state()
    unet = [t for key, t in state.items() if key.startswith("model.diffusion_model.")]
    assert f"{len(unet)} tensors, {sum(t.numel() for t in unet):,} parameters" in done.output
    assert "would write" in done.output
    assert files_of(tmp_path) == before


def test_a_dry_run_lists_what_is_wrong_and_what_is_allowed(tmp_path: Path) -> None:
    path = altered(tmp_path, **{BIAS: None, "control.weight": torch.zeros(1)})
    done = run(path, tmp_path / "m", "--dry-run", "--allow", "control.*")
    assert isinstance(done.exception, ModelError)
    assert f"ERROR missing: {BIAS}" in done.output
    assert "allowed unexpected: control.weight" in done.output


def test_what_is_there_is_not_overwritten(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"mine")
    for more in ([], ["--overwrite"]):
        done = run(checkpoint, tmp_path / "photos", *more)
        assert isinstance(done.exception, InputError)
    assert (tmp_path / "photos" / "a.jpg").read_bytes() == b"mine"
    done = run(checkpoint, checkpoint, "--overwrite")
    assert isinstance(done.exception, InputError) and "itself" in str(done.exception)


def test_wrong_choices_list_the_nearest(checkpoint: Path, tmp_path: Path) -> None:
    done = run(checkpoint, tmp_path / "m", "--weights", "average")
    assert isinstance(done.exception, UnknownNameError) and "averaged" in str(done.exception)


def test_architecture_records_are_plain_json(model_folder: Path) -> None:
    architecture = compvis.architecture_of(load_model(model_folder))
    assert Architecture.model_validate_json(architecture.model_dump_json()) == architecture
