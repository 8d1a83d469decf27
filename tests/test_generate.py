"""Infrared scenes from text: prompts, the sampler, folders of pictures, the verb."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from v2ir import cli
from v2ir.errors import InputError, UnknownNameError
from v2ir.images import read_infrared
from v2ir.model import Guidance, Model, architecture, build_model, load_model
from v2ir.sampling import (
    GenerateSettings,
    Prompt,
    TextSampler,
    generate,
    list_pictures,
    read_prompts,
)
from v2ir.sampling.grid import draw_grid
from v2ir.sampling.prompts import parse_prompts
from v2ir.sampling.text_sampler import LONGEST_SIDE, nearest_side

STREET, HOUSE = Prompt("a street at night"), Prompt("a warm house")


def tiny(planes: int = 3, **facts: object) -> Model:
    base = architecture("tiny")
    narrow = base.model_copy(update={"unet": {**base.unet, "in_channels": 4 * planes}})
    return build_model(
        narrow,
        name="tiny",
        styles=("north", "south"),
        words=("street", "night", "warm", "house", "of"),
        resolution=64,
        multiple=16,
        solver="ddim",
        steps=2,
        guidance=Guidance(text=2.0),
        **facts,
    )


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny()


@pytest.fixture(scope="module")
def model_folder(model, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.save(folder)
    return str(folder)


def made(sampler: TextSampler, *batch: tuple[Prompt, int]) -> np.ndarray:
    return np.stack(sampler.run(batch))


# Prompts


def test_prompts_from_files(tmp_path):
    plain, lines = tmp_path / "a.txt", tmp_path / "a.jsonl"
    plain.write_text('\ufeffa street\n\n  a house \n{"prompt": "x"}\na street\n')
    assert [p.text for p in read_prompts(plain)] == ["a street", "a house", '{"prompt": "x"}']
    rows = [
        {"prompt": "one", "caption": "not this"},
        {"caption": "two", "name": "street/2"},
        {"captions": ["three", " ", "four"], "name": 7},
        {"prompt": "two"},
    ]
    lines.write_text("\n".join(map(json.dumps, rows)))
    found = [(p.text, p.name) for p in read_prompts(lines)]
    assert found == [
        ("one", None), ("two", "street/2"), ("three", "7"), ("four", "7"), ("two", None),
    ]  # fmt: skip


@pytest.mark.parametrize("line", ["{", "[]", '"a"', "{}", '{"prompt": " "}', '{"prompt": 3}'])
def test_a_line_that_is_no_prompt_is_named(line):
    with pytest.raises(InputError, match="line 2 of here"):
        parse_prompts(['{"prompt": "a"}', line], "here", json_lines=True)


def test_files_without_prompts_are_refused(tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xfa")
    for name in ("empty.txt", "bytes.txt", "absent.txt"):
        with pytest.raises(InputError, match=name):
            read_prompts(tmp_path / name)


@given(st.lists(st.tuples(st.text(min_size=1), st.none() | st.text()), min_size=2, max_size=4))
def test_stems_stay_below_the_folder_and_tell_texts_apart(pairs):
    root = Path("/out")
    stems = {}
    for text, name in pairs:
        stem = Prompt(text, name).stem
        path = root / f"{stem}-0.png"
        assert ".." not in path.parts and path.is_relative_to(root)
        assert path.name.isprintable() and max(map(len, map(str.encode, path.parts))) < 120
        stems.setdefault(stem, set()).add(text)
    assert all(len(texts) == 1 for texts in stems.values())


def test_a_stem_is_readable():
    assert STREET.stem == f"a-street-at-night-{STREET.hash[:8]}"
    assert Prompt("x", "../cam 1/0001.A").stem.startswith("cam-1/0001-a-")
    assert Prompt("?!").stem.startswith("prompt-")


# The sampler


@pytest.mark.parametrize("negative", [None, HOUSE.text])
def test_parity_with_a_loop_written_out(model, negative):
    """DDIM with guidance by the textbook: Song et al. 2021, Eq. 12; Ho and Salimans, Eq. 6."""
    settings = GenerateSettings(
        seed=3, steps=4, guidance=3.0, style="south", negative_prompt=negative
    )
    sampler = TextSampler(model, settings)
    generator = sampler._generator(STREET, 1)
    x = torch.randn((1, 4, 8, 8), generator=generator)
    alphas = model.schedule.alphas_cumprod
    nothing = torch.zeros(1, 8, 8, 8)
    away = model.embed([negative]) if negative else model.embed_prompts([""])
    texts = [model.embed([STREET.text]), away]
    with torch.no_grad():
        for place, t in enumerate((999, 749, 499, 249)):
            v_text, v_none = (
                model.unet(
                    torch.cat([x, nothing], 1),
                    t,
                    encoder_hidden_states=text,
                    class_labels=torch.tensor([2]),
                ).sample
                for text in texts
            )
            v = v_none + 3.0 * (v_text - v_none)
            a = alphas[t]
            clean = (a**0.5 * x - (1 - a) ** 0.5 * v).float()
            noise = (a**0.5 * v + (1 - a) ** 0.5 * x).float()
            after = alphas[t - 250] if place < 3 else torch.tensor(1.0)
            x = (after**0.5 * clean + (1 - after) ** 0.5 * noise).float()
        picture = model.decode(x).mean(dim=1)[0]
    expected = ((picture + 1) / 2).clamp(0, 1).numpy()
    np.testing.assert_allclose(made(sampler, (STREET, 1))[0], expected, atol=2e-5)


def test_a_picture_does_not_depend_on_its_batch(model):
    sampler = TextSampler(model, GenerateSettings(solver="euler_ancestral"))
    alone = [made(sampler, each)[0] for each in ((STREET, 0), (HOUSE, 0), (STREET, 1))]
    together = made(sampler, (STREET, 1), (STREET, 0), (HOUSE, 0))
    np.testing.assert_allclose(together, [alone[2], alone[0], alone[1]], atol=1e-4)


def test_seed_number_text_style_and_guidance_change_the_picture(model):
    pictures = [
        made(TextSampler(model, settings), chosen)[0]
        for settings, chosen in (
            (GenerateSettings(), (STREET, 0)),
            (GenerateSettings(), (STREET, 1)),
            (GenerateSettings(seed=1), (STREET, 0)),
            (GenerateSettings(), (HOUSE, 0)),
            (GenerateSettings(guidance=7.0), (STREET, 0)),
            (GenerateSettings(steps=3), (STREET, 0)),
            (GenerateSettings(negative_prompt=HOUSE.text), (STREET, 0)),
        )
    ]
    for place, picture in enumerate(pictures):
        for other in pictures[place + 1 :]:
            assert np.abs(picture - other).max() > 1e-3
    again = made(TextSampler(model), (Prompt(STREET.text, "another name"), 0))[0]
    np.testing.assert_array_equal(again, pictures[0])


def test_text_alone_without_guidance_costs_one_evaluation(model):
    calls = []
    hook = model.unet.conv_out.register_forward_hook(lambda _, args, __: calls.append(len(args[0])))
    try:
        made(TextSampler(model, GenerateSettings(guidance=1.0)), (STREET, 0))
        made(TextSampler(model, GenerateSettings(guidance=2.0)), (STREET, 0))
    finally:
        hook.remove()
    assert calls == [1, 1, 2, 2]


@pytest.mark.parametrize(("width", "height"), [(64, 64), (16, 48), (320, 64)])
def test_any_size_that_the_model_allows(model, width, height):
    sampler = TextSampler(model, GenerateSettings(width=width, height=height, steps=1))
    picture = made(sampler, (STREET, 0))[0]
    assert picture.shape == (height, width)
    assert np.isfinite(picture).all() and picture.std() > 0


@given(st.integers(-100, LONGEST_SIDE + 100), st.integers(1, 128))
def test_the_nearest_side(pixels, multiple):
    side = nearest_side(pixels, multiple)
    assert side > 0 and side % multiple == 0 and side <= LONGEST_SIDE
    if multiple <= pixels <= LONGEST_SIDE - multiple:
        assert abs(side - pixels) <= multiple / 2


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (GenerateSettings(width=70), InputError, "width.*70 px.*nearest is 64"),
        (GenerateSettings(height=0), InputError, "height.*nearest is 16"),
        (GenerateSettings(steps=0), InputError, "steps"),
        (GenerateSettings(batch_size=0), InputError, "batch size"),
        (GenerateSettings(guidance=float("nan")), InputError, "guidance"),
        (GenerateSettings(solver="dim"), UnknownNameError, "ddim"),
        (GenerateSettings(style="nort"), UnknownNameError, "north"),
        (GenerateSettings(guidance=1.0, negative_prompt="x"), InputError, "no effect.*scale 1"),
    ],
)
def test_wrong_settings_are_refused(model, settings, error, message):
    with pytest.raises(error, match=message):
        TextSampler(model, settings)


def test_models_of_text_alone_and_models_without_text(tmp_path):
    alone = tiny(1, conditions=("text",))
    alone.save(tmp_path / "alone")
    sampler = TextSampler(load_model(tmp_path / "alone"))
    picture = made(sampler, (STREET, 0))[0]
    np.testing.assert_array_equal(picture, made(TextSampler(alone), (STREET, 0))[0])
    assert np.abs(picture - made(sampler, (HOUSE, 0))[0]).max() > 1e-3
    with pytest.raises(InputError, match="not trained with text"):
        TextSampler(tiny(2, conditions=("visible",)))


def test_long_prompts_are_known():
    sampler = TextSampler(tiny(prompt_template="{caption}"))
    most = sampler.model.card.text_length - 2  # the marks of start and end
    assert not sampler.is_cut(Prompt(" ".join(["street"] * most)))
    assert sampler.is_cut(Prompt(" ".join(["street"] * (most + 1))))


# Folders


def test_one_that_fails_does_not_stop_the_others(model, tmp_path, monkeypatch):
    sampler = TextSampler(model, GenerateSettings(batch_size=2, steps=1))
    real = sampler.run

    def short_of_memory(batch):
        if any(prompt == HOUSE for prompt, _ in batch):
            raise RuntimeError("out of memory")
        return real(batch)

    monkeypatch.setattr(sampler, "run", short_of_memory)
    told = []
    pictures = list_pictures([STREET, HOUSE], 1, tmp_path)
    report = generate(pictures, sampler, lambda done, total: told.append((done, total)))
    assert (report.made, report.kept) == (1, 0)
    assert report.failures == ((f"{HOUSE.stem}-0.png", "out of memory"),)
    assert told[-1] == (2, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"{STREET.stem}-0.json",
        f"{STREET.stem}-0.png",
    ]


def test_lists_that_cannot_be(tmp_path):
    with pytest.raises(InputError, match="no prompts"):
        list_pictures([], 1, tmp_path)
    with pytest.raises(InputError, match="positive"):
        list_pictures([STREET], 0, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        list_pictures([STREET], 1, tmp_path / "file")
    assert len(list_pictures([STREET, STREET], 3, tmp_path)) == 3


def test_the_grid_shows_every_picture():
    levels = [[10, 80], [150, 220]]
    rows = [("text", [np.full((30, 60), level, np.uint8) for level in row]) for row in levels]
    grid = draw_grid(rows)
    for (row, column), level in np.ndenumerate(np.array(levels)):
        height, width = np.array(grid.shape[:2]) // 2
        part = grid[row * height :, column * width :][:height, :width]
        assert (part == level).all(axis=-1).sum() > 10_000


# The verb


def v2ir(monkeypatch: pytest.MonkeyPatch, *arguments: object, given: str = "") -> int:
    """Run the command line in this process and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["v2ir", *map(str, arguments)])
    monkeypatch.setattr(sys, "stdin", io.StringIO(given))
    try:
        cli.main()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        p.relative_to(folder).as_posix(): (p.stat().st_mtime_ns, p.read_bytes())
        for p in folder.rglob("*")
        if p.is_file()
    }


def test_the_verb_makes_keeps_and_remakes(model_folder, tmp_path, monkeypatch, capsys):
    out, grid = tmp_path / "out", tmp_path / "grid.png"
    arguments = [
        "generate", out, "-p", STREET.text, "--prompts", "-", "-n", 2, "--width", 48,
        "--model", model_folder, "--device", "cpu", "--grid", grid, "--steps", 1,
    ]  # fmt: skip
    asked = '{"prompt": "a warm house", "name": "cam/7"}\n'
    assert v2ir(monkeypatch, *arguments, "--dry-run", given=asked) == 0
    assert "would make 4 of 4" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert v2ir(monkeypatch, *arguments, given=asked) == 0
    before = state(tmp_path)
    named = Prompt(HOUSE.text, "cam/7").stem
    stems = [f"out/{stem}-{k}" for stem in (STREET.stem, named) for k in (0, 1)]
    assert set(before) == {"grid.png", *(s + e for s in stems for e in (".png", ".json"))}
    facts = json.loads(before[f"out/{named}-1.json"][1])
    assert facts["synthetic"] is True and facts["prompt"] == HOUSE.text and facts["number"] == 1
    assert (facts["width"], facts["height"], facts["steps"]) == (48, 64, 1)
    assert facts["full_prompt"] == "turn the visible image of a warm house into infrared"
    assert read_infrared(tmp_path / f"{stems[0]}.png").shape == (64, 48)

    assert v2ir(monkeypatch, *arguments, given=asked) == 0
    assert "0 infrared images made, 4 kept" in capsys.readouterr().err
    assert state(tmp_path) == before

    (tmp_path / f"{stems[1]}.json").unlink()
    (tmp_path / f"{stems[2]}.json").write_text("torn {")
    assert v2ir(monkeypatch, *arguments, given=asked) == 0
    after = state(tmp_path)
    assert {name: data for name, (_, data) in after.items()} == {
        name: data for name, (_, data) in before.items()
    }
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {s + e for s in stems[1:3] for e in (".png", ".json")}

    assert v2ir(monkeypatch, *arguments, "--seed", 1, given=asked) == 0
    assert "4 infrared images made:" in capsys.readouterr().err

    away = (*arguments, "--seed", 1, "--negative-prompt", "night")
    assert v2ir(monkeypatch, *away, given=asked) == 0
    assert "4 infrared images made:" in capsys.readouterr().err
    assert json.loads((out / f"{named}-1.json").read_text())["negative_prompt"] == "night"
    assert v2ir(monkeypatch, *away, given=asked) == 0
    assert "0 infrared images made, 4 kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there are no prompts"),
        (["-p", "x", "--grid", "grid.jpg"], ".png"),
        (["-p", "x", "--width", "70"], "nearest is 64"),
        (["--prompts", "-"], "standard input holds no prompts"),
    ],
)
def test_wrong_use_writes_nothing(model_folder, tmp_path, monkeypatch, capsys, arguments, message):
    out = tmp_path / "out"
    call = ["generate", out, "--model", model_folder, "--device", "cpu", *arguments]
    assert v2ir(monkeypatch, *call) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_default_solver_without_chance_gives_way(model):
    certain = model.card.model_copy(update={"solver": "mean", "steps": 1})
    alike = dataclasses.replace(model, card=certain)
    sampler = TextSampler(alike)
    assert (sampler.solver, sampler.steps) == ("dpmpp", 20)
    ddim = TextSampler(alike, GenerateSettings(solver="ddim", steps=4))
    assert (ddim.solver, ddim.steps) == ("ddim", 4)
    asked = TextSampler(alike, GenerateSettings(solver="mean"))
    assert (asked.solver, asked.steps) == ("mean", 1)
    first, second = made(asked, (STREET, 0), (STREET, 1))
    np.testing.assert_allclose(first, second, atol=1e-5)
    first, second = made(sampler, (STREET, 0), (STREET, 1))
    assert np.abs(first - second).max() > 1e-3
    assert TextSampler(model).solver == "ddim" and TextSampler(model).steps == 2


def test_the_bundled_model_makes_different_pictures():
    sampler = TextSampler(load_model("mini"), GenerateSettings(width=64, height=96, steps=2))
    first, second = (made(sampler, (STREET, k))[0] for k in (0, 1))
    assert first.shape == (96, 64) and first.std() > 0.01
    assert np.abs(first - second).max() > 0.02
