"""Convert at the full size of DiffV2IR: 1.07 billion parameters, about 17 GB in files.

Run it with `pytest -m slow -o log_cli=true tests/test_convert_full.py`, which shows the
differences.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import compvis_reference as reference
from compvis_reference import FULL_SIZE, Weights
from v2ir.hub import ConvertSettings, ReadSettings, convert, pickles
from v2ir.model import load_model
from v2ir.model.networks import build_tokenizer

FREE_BYTES = 25 * 2**30


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Path]:
    """Give a folder that is emptied at once, since pytest would keep the last three."""
    if shutil.disk_usage(tmp_path).free < FREE_BYTES:
        pytest.skip(f"less than {FREE_BYTES / 2**30:.0f} GiB free")
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


def write_checkpoint(path: Path) -> None:
    weights = Weights()
    reference.outputs(weights, FULL_SIZE, reference.make_inputs(FULL_SIZE))
    state = {**weights.state, **reference.buffers(FULL_SIZE.length)}
    reference.save_lightning(path, reference.with_average(state, lambda x: 1.1 * x))


@pytest.mark.slow
def test_full_size_both_ways(room: Path) -> None:
    source = room / "diffv2ir.ckpt"
    write_checkpoint(source)
    build_tokenizer(["street"], FULL_SIZE.length).save_pretrained(room / "tokenizer")
    reading = ReadSettings(tokenizer=str(room / "tokenizer"))
    read = convert(source, room / "model", ConvertSettings(reading))
    assert read is not None and read.problems == () and read.weights == "averaged"
    sizes = {part: sum(t.numel() for t in t.values()) for part, t in read.tensors.items()}
    assert sizes == {"unet": 859_544_004, "autoencoder": 83_653_863, "text_encoder": 123_060_480}
    original, _ = pickles.read_tensors(source)
    original = reference.averaged_weights(original)
    inputs = dataclasses.replace(reference.make_inputs(FULL_SIZE), timestep=torch.tensor([11, 880]))
    wanted = reference.outputs(Weights(state=original), FULL_SIZE, inputs)
    model = load_model(room / "model")
    differences = {
        name: reference.relative_difference(got, wanted[name])
        for name, got in reference.model_outputs(model, inputs).items()
    }
    logging.getLogger(__name__).warning("relative differences: %s", differences)
    assert max(differences.values()) <= 1e-5
    del model
    convert(room / "model", room / "back.ckpt")
    back, _ = pickles.read_tensors(room / "back.ckpt")
    weights = [
        key
        for key in original
        if key.startswith(("model.diffusion_model.", "first_stage_model.", "cond_stage_model."))
    ]
    assert len(weights) == 686 + 248 + 196 + 1  # and CLIP's buffer of positions
    assert [key for key in weights if not torch.equal(back[key], original[key])] == []
