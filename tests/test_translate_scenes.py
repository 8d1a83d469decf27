"""Data sets: each scene in its own camera's style, and one split alone."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from v2ir.cli import app
from v2ir.data import index
from v2ir.errors import UnknownNameError
from v2ir.model import architecture, build_model
from v2ir.sampling import TranslateSettings, Translator, translate


@pytest.fixture
def model_folder(tmp_path):
    facts = {"resolution": 64, "multiple": 16, "solver": "ddim", "steps": 2}
    model = build_model(architecture("tiny"), name="small", styles=("even", "odd"), **facts)
    torch.nn.init.normal_(model.unet.class_embedding.weight)
    model.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def data(make_pairs):
    root = make_pairs(4)
    index(root, style=lambda name: ("even", "odd")[int(name[-2:]) % 2])
    return root


def invoke(*words):
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def test_each_scene_gets_the_style_of_its_camera(data, model_folder, tmp_path):
    common = ("--model", model_folder, "--without", "caption", "--without", "segmentation")
    out = tmp_path / "out"
    assert invoke("translate", data, out, "--style", "scene", *common).exit_code == 0
    for name, style in (("street_00", "even"), ("street_01", "odd")):
        assert json.loads((out / f"{name}.json").read_text())["style"] == style
        alone = tmp_path / style
        assert invoke("translate", data, alone, "--style", style, *common).exit_code == 0
        assert (alone / f"{name}.png").read_bytes() == (out / f"{name}.png").read_bytes()
    even, odd = (tmp_path / style / "street_00.png" for style in ("even", "odd"))
    assert even.read_bytes() != odd.read_bytes()


def test_one_split_alone(data, model_folder, tmp_path):
    rows = [json.loads(line) for line in (data / "scenes.jsonl").read_text().splitlines()]
    rows = [{**row, "split": "test" if index else "train"} for index, row in enumerate(rows)]
    (data / "scenes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    words = ("translate", data, out, "--model", model_folder, "--split", "test")
    assert "would make 3 of 3" in invoke(*words, "--dry-run").output
    assert invoke(*words).exit_code == 0
    assert len(list(out.glob("*.png"))) == 3


def test_a_style_that_the_model_does_not_know_fails_for_its_scene_alone(
    data, model_folder, tmp_path
):
    from v2ir.model import load_model

    translator = Translator(load_model(model_folder), TranslateSettings(style="odd"))
    styles = {"street_00": "mars", "street_01": None}
    report = translate(data, tmp_path / "out", translator, scenes=styles)
    assert report.made == 1
    assert [name for name, _ in report.failures] == ["street_00.png"]
    assert "mars" in report.failures[0][1]
    assert json.loads((tmp_path / "out" / "street_01.json").read_text())["style"] == "odd"


def test_splits_have_names(data, model_folder, tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean test"):
        invoke("translate", data, tmp_path / "out", "--model", model_folder, "--split", "tset")
