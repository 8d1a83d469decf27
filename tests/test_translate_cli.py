"""The verbs `translate`, `models` and `demo`, with a tiny model and the real annotators."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import street
from v2ir import cli
from v2ir.cli import demo
from v2ir.cli.translate import parse_guidance, parse_resolution
from v2ir.errors import InputError, UnknownNameError
from v2ir.images import image_size
from v2ir.model import Guidance, architecture, build_model
from v2ir.sampling.sheet import SheetRow, draw_sheet


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    model = build_model(
        architecture("tiny"),
        name="tiny",
        styles=("north", "south"),
        resolution=64,
        multiple=16,
        solver="dpmpp",
        steps=1,
        guidance=Guidance(text=1.0, visible=1.0, segmentation=1.0),
        captioner="statistics",
        segmenter="regions",
        licence="for tests",
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.save(folder)
    return str(folder)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(2):
        Image.fromarray(street(index)[0]).save(folder / f"street_{index}.jpg")
    return folder


def v2ir(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command line in this process and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["v2ir", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_translate(photos, tmp_path, model_folder, monkeypatch, capsys):
    out = tmp_path / "out"
    (photos / "notes.png").write_text("no image")
    arguments = ["translate", photos, out, "--model", model_folder, "--device", "cpu"]
    assert v2ir(monkeypatch, *arguments, "--dry-run") == 0
    assert "would make 3 of 3" in capsys.readouterr().err
    assert not out.exists()
    assert v2ir(monkeypatch, *arguments, "--style", "south") == 1
    printed = capsys.readouterr().err
    assert "2 infrared images made" in printed
    assert "notes.png" in printed
    assert files(out) == ["street_0.json", "street_0.png", "street_1.json", "street_1.png"]
    facts = json.loads((out / "street_0.json").read_text())
    assert facts["style"] == "south"
    assert facts["captioner"].startswith("statistics ")
    assert facts["segmenter"].startswith("regions ")
    assert facts["caption"]
    assert v2ir(monkeypatch, *arguments, "--style", "south", "--dry-run") == 0
    assert "would make 1 of 3" in capsys.readouterr().err


def test_every_option_reaches_the_sidecar(photos, tmp_path, model_folder, monkeypatch):
    out = tmp_path / "out"
    captions = tmp_path / "captions.jsonl"
    captions.write_text('{"name": "street_0", "caption": "a yard"}\n')
    options = (
        "--seed 3 --steps 2 --solver euler --guidance 2,1.5,1 --nesting released "
        "--guidance-interval 0.1,0.9 --batch-size 2 --resolution 48 --without segmentation "
        "--device cpu"
    )
    arguments = [photos / "street_0.jpg", out, "--model", model_folder, *options.split()]
    assert v2ir(monkeypatch, "translate", *arguments, "--captions", captions) == 0
    facts = json.loads((out / "street_0.json").read_text())
    assert facts["guidance"] == {
        "text": 2.0,
        "visible": 1.5,
        "segmentation": 1.0,
        "nesting": "released",
        "interval": [0.1, 0.9],
    }
    assert (facts["seed"], facts["steps"], facts["solver"]) == (3, 2, "euler")
    assert (facts["resolution"], facts["without"]) == (48, ["segmentation"])
    assert (facts["caption"], facts["captioner"]) == ("a yard", "user")
    assert "segmenter" not in facts


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--style", "nort"], "did you mean north"),
        (["--model", "mimi"], "unknown model"),
        (["--captioner", "statistic"], "did you mean statistics"),
        (["--segmenter", "region"], "did you mean regions"),
        (["--without", "segmentation", "--segmenter", "regions"], "no effect"),
        (["--without", "caption", "--captioner", "statistics"], "no effect"),
        (["--device", "gpu9"], "device gpu9 cannot be used"),
        (["--guidance", "1,2"], "takes 3 numbers"),
        (["--resolution", "big"], "pixels or `native`"),
    ],
    ids=str,
)
def test_wrong_use_says_what_to_do(
    options, part, photos, tmp_path, model_folder, monkeypatch, capsys
):
    arguments = ["translate", photos, tmp_path / "out", "--model", model_folder, "--device", "cpu"]
    assert v2ir(monkeypatch, *arguments, *options) == 2
    assert part in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_guidance_is_changed_only_where_asked():
    default = Guidance(text=4.0, visible=1.2, segmentation=1.1)
    assert parse_guidance(default, None, None, None) == default
    changed = parse_guidance(default, None, "released", "0.2,0.7")
    assert changed == Guidance(
        text=4.0, visible=1.2, segmentation=1.1, nesting="released", interval=(0.2, 0.7)
    )
    with pytest.raises(UnknownNameError, match="did you mean paper"):
        parse_guidance(default, None, "papers", None)
    with pytest.raises(InputError, match="interval"):
        parse_guidance(default, None, None, "0.9,0.1")
    assert [parse_resolution(text) for text in (None, "native", "96")] == [None, "native", 96]


def test_models_shows_what_a_model_says_about_itself(model_folder, monkeypatch, capsys):
    assert v2ir(monkeypatch, "models", model_folder) == 0
    printed = capsys.readouterr().out
    for part in ("north, south", "text, visible, segmentation", "for tests", "dpmpp, 1 steps"):
        assert part in printed
    assert v2ir(monkeypatch, "models") == 0
    assert v2ir(monkeypatch, "models", "no-such-model") == 2


def test_demo_on_your_own_photographs(photos, tmp_path, model_folder, monkeypatch, capsys):
    out = tmp_path / "demo"
    arguments = ["demo", photos, "--out", out, "--model", model_folder, "--device", "cpu"]
    assert v2ir(monkeypatch, *arguments, "--dry-run") == 0
    assert not out.exists()
    assert v2ir(monkeypatch, *arguments) == 0
    assert "overview.png" in capsys.readouterr().err
    assert image_size(out / "infrared" / "street_0.png") == (96, 80)
    width, height = image_size(out / "overview.png")
    assert width == 2 * round(77 * 240 / 64) + 96 * 240 // 80 + 4 * 8
    assert height > 2 * 240
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert v2ir(monkeypatch, *arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_demo_finds_photographs_in_installed_packages(tmp_path, monkeypatch, capsys):
    found = demo.carried_photographs()
    assert {"camera.png", "rocket.jpg"} <= {path.name for path in found}
    assert all(min(image_size(path)) >= 256 for path in found)
    assert v2ir(monkeypatch, "demo", "--out", tmp_path / "demo", "--dry-run") == 0
    assert "camera.png" in capsys.readouterr().err


def test_demo_translates_them(tmp_path, model_folder, monkeypatch):
    out = tmp_path / "demo"
    monkeypatch.setattr(demo, "PHOTOGRAPHS", demo.PHOTOGRAPHS[1:2])
    assert v2ir(monkeypatch, "demo", "--out", out, "--model", model_folder, "--device", "cpu") == 0
    assert files(out) == [
        "infrared/camera.json",
        "infrared/camera.png",
        "overview.png",
        "visible/camera.png",
    ]
    assert image_size(out / "infrared" / "camera.png") == (512, 512)


def test_the_sheet_shows_every_image_and_the_text():
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 255
    row = SheetRow(
        red, np.full((48, 64), 255, np.uint8), np.full((48, 64), 99, np.uint8), "a street"
    )
    sheet = draw_sheet([row, row])
    assert sheet.shape[0] % 2 == 0
    np.testing.assert_array_equal(sheet[: len(sheet) // 2], sheet[len(sheet) // 2 :])
    middle = sheet[len(sheet) // 4]
    assert ((middle == (255, 0, 0)).all(axis=1)).sum() == 320
    assert ((middle == (99, 99, 99)).all(axis=1)).sum() == 320
    silent = draw_sheet([SheetRow(row.visible, row.segmentation, row.infrared, "")])
    assert (silent != sheet[: len(silent)]).any()


@pytest.mark.parametrize("size", [(1, 300), (300, 1), (2000, 100)])
def test_the_sheet_takes_any_aspect(size):
    width, height = size
    grey = np.zeros((height, width), np.uint8)
    sheet = draw_sheet(
        [SheetRow(np.zeros((height, width, 3), np.uint8), None, grey, "strip " * 50)]
    )
    assert sheet.shape[1] <= 2 * 3 * 240 + 3 * 8
