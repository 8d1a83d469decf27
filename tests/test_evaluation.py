"""Folders against folders: matching, failures, tables, reports, and the verb itself."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from v2ir.cli import app
from v2ir.errors import DataError, InputError, UnknownNameError
from v2ir.evaluation import BASELINES, SCORES
from v2ir.evaluation.cases import Knowledge, plan_comparison
from v2ir.evaluation.comparison import Evaluation, Row, evaluate
from v2ir.evaluation.context import Selection, context_of_data, context_of_folders, named_images
from v2ir.evaluation.pictures import error_colours, pick_images, picture
from v2ir.evaluation.report import summary
from v2ir.evaluation.results import Results
from v2ir.evaluation.statistics import Reference, cached_reference, measure_reference
from v2ir.evaluation.tables import TABLES, make_table, markdown
from v2ir.files import write_jsonl
from v2ir.images import read_infrared, write_image
from v2ir.records import Scene

SIZE = (40, 32)


def scene_pixels(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (visible HWC uint8, infrared HW uint8) of a ramp with a warm box."""
    rng = np.random.default_rng(seed)
    infrared = np.linspace(30, 120, SIZE[0]) * np.ones((SIZE[1], 1))
    infrared[8:20, 5 + seed : 15 + seed] = 220
    visible = np.stack([160 - infrared / 2, infrared / 3 + 40, 200 - infrared], axis=2)
    visible += rng.normal(0, 8, visible.shape)
    infrared += rng.normal(0, 4, infrared.shape)
    return visible.clip(0, 255).astype(np.uint8), infrared.clip(0, 255).astype(np.uint8)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Write an indexed data set: two styles, four training pairs, six test pairs."""
    folder, scenes = tmp_path / "data", []
    for index in range(10):
        style, split = ("dark", "bright")[index % 2], "train" if index < 4 else "test"
        visible, infrared = scene_pixels(index)
        name = f"{style}/{index:02d}"
        write_image(folder / "rgb" / f"{name}.png", visible)
        write_image(folder / "ir" / f"{name}.png", infrared // 4 if style == "dark" else infrared)
        scenes.append(
            Scene(
                name=name,
                split=split,  # type: ignore[arg-type]
                group=str(index),
                width=SIZE[0],
                height=SIZE[1],
                visible=f"rgb/{name}.png",
                infrared=f"ir/{name}.png",
                style=style,
                alignment="near" if index == 9 else "strict",
            )
        )
    write_jsonl(folder / "scenes.jsonl", (scene.to_json() for scene in scenes))
    return folder


@pytest.fixture
def predictions(data: Path, tmp_path: Path) -> Path:
    """Write the truth, 26 levels brighter, for the six test scenes; with sidecars."""
    folder = tmp_path / "out"
    for path in sorted((data / "ir").rglob("*.png")):
        if int(path.stem) >= 4:
            target = folder / path.relative_to(data / "ir")
            write_image(target, np.minimum(np.asarray(Image.open(path)), 229) + np.uint8(26))
            target.with_suffix(".json").write_text('{"synthetic": true}')
    return folder


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    if isinstance(result.exception, Exception):
        raise result.exception
    return result.exit_code, result.output


def files_of(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {
        p: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.rglob("*")) if p.is_file()
    }


# Matching


def test_images_match_by_stem_with_other_suffixes_and_sidecars_are_ignored(tmp_path: Path) -> None:
    image = Image.fromarray(scene_pixels(0)[1])
    for folder, names in {"out": ["a.png", "b.tif"], "true": ["a.bmp", "b.PNG"]}.items():
        (tmp_path / folder).mkdir()
        for name in names:
            image.save(tmp_path / folder / name)
    (tmp_path / "out" / "a.json").write_text("{}")
    (tmp_path / "out" / "notes.txt").write_text("not an image")
    result = evaluate(plan_comparison(tmp_path / "out", tmp_path / "true"))
    assert result.names == ("a", "b")
    assert (result.failures, result.extra) == ((), ())
    assert result.mean("prediction", "psnr") == math.inf
    assert result.mean("prediction", "ssim") == pytest.approx(1)


def test_two_single_images_are_compared_whatever_their_names(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_image(tmp_path / f"{name}.png", scene_pixels(1)[1])
    plan = plan_comparison(tmp_path / "one.png", tmp_path / "two.png")
    assert [(c.name, c.predictions[0].name) for c in plan.cases] == [("two", "one.png")]


def test_files_with_the_same_stem_are_listed(tmp_path: Path) -> None:
    for name in ("a.png", "a.bmp"):
        Image.fromarray(scene_pixels(0)[1]).save(tmp_path / name)
    found, taken = named_images(tmp_path)
    assert found == {"a": tmp_path / "a.bmp"}
    assert [name for name, _ in taken] == ["a"]


def test_no_common_image_is_an_error(tmp_path: Path) -> None:
    write_image(tmp_path / "out" / "a.png", scene_pixels(0)[1])
    write_image(tmp_path / "true" / "b.png", scene_pixels(0)[1])
    with pytest.raises(InputError, match="no image of"):
        plan_comparison(tmp_path / "out", tmp_path / "true")


def test_a_method_may_not_be_called_like_a_baseline(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"name of its own.*grey"):
        plan_comparison({"grey": tmp_path}, tmp_path)


# The data set


def test_selection_filters_split_and_alignment(data: Path, predictions: Path) -> None:
    for selection, names in {
        Selection("test", "strict"): {4, 5, 6, 7, 8},
        Selection("test"): {4, 5, 6, 7, 8, 9},
        Selection("all", "near"): {9},
    }.items():
        plan = plan_comparison(predictions, data / "ir", context_of_data(data, selection))
        assert {int(case.name[-2:]) for case in plan.cases} == names
        assert plan.failures == ()
        # What is not selected is no mistake of the predictions.
        assert plan.extra == ()


def test_the_data_set_itself_may_be_the_truth(data: Path, predictions: Path) -> None:
    context = context_of_data(data, Selection("test"))
    by_data = plan_comparison(predictions, data, context)
    assert by_data.cases == plan_comparison(predictions, data / "ir", context).cases


def test_wrong_selections_say_what_there_is(data: Path) -> None:
    with pytest.raises(UnknownNameError, match="test"):
        Selection("tests")
    with pytest.raises(DataError, match="5 test/strict"):
        context_of_data(data, Selection("val"))
    with pytest.raises(DataError, match="v2ir index"):
        context_of_data(data / "ir", Selection())


def test_statistics_are_counted_by_style_from_training_pairs_only(data: Path) -> None:
    context = context_of_data(data, Selection())
    reference, failures = measure_reference(context.training)
    assert failures == []
    for style, indices in {"dark": (0, 2), "bright": (1, 3)}.items():
        pixels = [read_infrared(data / "ir" / style / f"{i:02d}.png") for i in indices]
        assert reference.of(style).num_images == 2
        assert reference.of(style).mean == pytest.approx(np.mean(pixels), abs=1e-6)
    assert reference.of("never seen") == reference.of(None) == reference.overall
    assert reference.overall.num_images == 4
    assert reference.overall.histogram == tuple(
        np.sum([s.histogram for s in reference.by_style.values()], axis=0).tolist()
    )


def test_statistics_survive_their_file_and_notice_other_images(data: Path, tmp_path: Path) -> None:
    context = context_of_data(data, Selection())
    reference, _ = measure_reference(context.training)
    path = tmp_path / "statistics.json"
    path.write_text(json.dumps(reference.to_json()))
    assert cached_reference(path, context.training) == reference
    assert cached_reference(path, context.training[1:]) is None
    for change in ({"key": "other content"}, {"style": "other"}):
        changed = dataclasses.replace(context.training[0], **change)
        assert cached_reference(path, (changed, *context.training[1:])) is None
    assert cached_reference(tmp_path / "absent.json", context.training) is None
    path.write_text("{}")
    assert cached_reference(path, context.training) is None


def test_unreadable_training_images_are_listed_and_passed_over(data: Path) -> None:
    (data / "ir" / "dark" / "00.png").write_bytes(b"no image")
    reference, failures = measure_reference(context_of_data(data, Selection()).training)
    assert [Path(name).name for name, _ in failures] == ["00.png"]
    assert reference.of("dark").num_images == 1


# Numbers


def compared(data: Path, predictions: Path, workers: int | None = None) -> Evaluation:
    context = context_of_data(data, Selection())
    reference = measure_reference(context.training)[0]
    plan = plan_comparison(predictions, data, context)
    return evaluate(plan, Knowledge(reference), workers=workers)


def test_rows_hold_every_image_method_and_metric(data: Path, predictions: Path) -> None:
    result = compared(data, predictions)
    assert result.methods == ("prediction", *BASELINES)
    assert len(result.rows) == 6 * len(result.methods)
    assert all(row.scores.keys() == SCORES.keys() - {"lpips"} for row in result.rows)
    assert result.mean("prediction", "mae", "dark") == pytest.approx(26 / 255, abs=1e-6)
    assert result.mean("prediction", "correlation", "dark") == pytest.approx(1)
    assert math.isnan(result.mean("constant", "correlation"))
    assert result.mean("constant", "contrast") == pytest.approx(0, abs=1e-9)


def test_baselines_use_the_statistics_of_the_image_s_own_style(
    data: Path, predictions: Path
) -> None:
    reference: Reference = measure_reference(context_of_data(data, Selection()).training)[0]
    result = compared(data, predictions)
    for row in result.rows:
        if row.method == "constant":
            truth = read_infrared(data / "ir" / f"{row.name}.png")
            error = np.abs(truth - np.float32(reference.by_style[row.style].mean)).mean()
            assert row.scores["mae"] == pytest.approx(float(error), abs=1e-6)


def test_the_numbers_do_not_depend_on_the_number_of_workers(data: Path, predictions: Path) -> None:
    one, four = (repr(compared(data, predictions, workers).rows) for workers in (1, 4))
    assert one == four


def test_means_leave_undefined_values_out() -> None:
    rows = tuple(
        Row(str(i), "s", "m", {"correlation": value}) for i, value in enumerate([0.5, math.nan, 1])
    )
    result = Evaluation(("m",), 1, rows)
    assert result.mean("m", "correlation") == pytest.approx(0.75)
    assert math.isnan(result.mean("m", "correlation", "other"))


# Tables and pictures


def test_the_table_has_a_column_a_style_and_all_and_marks_the_best(
    data: Path, predictions: Path
) -> None:
    result = compared(data, predictions)
    table = make_table(result, ("psnr", "ssim"))
    assert table.columns == ("bright (3)", "dark (3)", "all (6)")
    assert [name for name, _ in table.rows] == ["prediction", *BASELINES]
    for number, style in enumerate(("bright", "dark", None)):
        for place, metric in enumerate(("psnr", "ssim")):
            means = {m: result.mean(m, metric, style) for m in result.methods}
            marked = [name for name, cells in table.rows if cells[number][place].is_best]
            assert marked == [max(means, key=means.__getitem__)]
    lines = markdown(table).splitlines()
    assert lines[0] == "| PSNR dB / SSIM | bright (3) | dark (3) | all (6) |"
    mean = result.mean("prediction", "psnr", "dark")
    assert f"{mean:.2f}" in lines[2]


def test_tables_show_every_metric() -> None:
    assert sorted(metric for table in TABLES for metric in table) == sorted(SCORES)


def test_one_style_gives_one_column(data: Path, predictions: Path) -> None:
    result = evaluate(plan_comparison(predictions, data / "ir"))
    assert make_table(result, ("psnr",)).columns == ("all (6)",)
    assert result.methods == ("prediction",)
    assert "no baselines" in result.notes[0]


def test_summary_is_strict_json_even_for_equal_images(data: Path) -> None:
    plan = plan_comparison(data / "ir", data, context_of_data(data, Selection()))
    text = json.dumps(summary(Results(plan, evaluate(plan))), allow_nan=False)
    assert json.loads(text)["means"]["prediction"]["all"]["psnr"] is None
    assert json.loads(text)["images"] == {"bright": 3, "dark": 3, "all": 6}


def test_pictures_show_worst_median_and_best_of_each_style(data: Path, predictions: Path) -> None:
    context = context_of_data(data, Selection())
    plan = plan_comparison(predictions, data, context)
    result = evaluate(plan)
    picks = pick_images(plan, result)
    assert [(p.rank, p.row.style) for p in picks] == [
        (rank, style) for style in ("bright", "dark") for rank in ("worst", "median", "best")
    ]
    for style in ("bright", "dark"):
        values = [pick.row.scores["ssim"] for pick in picks if pick.row.style == style]
        every = sorted(row.scores["ssim"] for row in result.rows if row.style == style)
        assert values == every
    assert picture(plan, result).png.startswith(b"\x89PNG")


def test_error_colours() -> None:
    colours = error_colours(np.array([[0.0, 0.25, -0.25, 1.0, -1.0]]))
    assert colours.tolist() == [
        [[255, 255, 255], [255, 128, 128], [128, 128, 255], [255, 0, 0], [0, 0, 255]]
    ]


# The verb


def test_the_verb_prints_tables_and_writes_a_report(
    data: Path, predictions: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    status, output = run(
        predictions, data / "ir", "--data", data, "--alignment", "strict", "--report", report
    )
    assert status == 0
    assert re.search(r"bright \(2\) +dark \(3\) +all \(5\)", output)
    assert all(re.search(rf"^ *{name} ", output, re.MULTILINE) for name in BASELINES)
    assert {path.name for path in report.iterdir()} == {
        "per_image.csv",
        "summary.json",
        "table.md",
        "pictures.png",
        "report.html",
        "training_statistics.json",
    }
    with (report / "per_image.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    # The last two are the nearest training image and what the truth itself has.
    assert len(rows) == 5 * (1 + len(BASELINES) + 2)
    means = json.loads((report / "summary.json").read_text())["means"]["prediction"]
    values = [float(r["psnr"]) for r in rows if (r["method"], r["style"]) == ("prediction", "dark")]
    assert means["dark"]["psnr"] == pytest.approx(sum(values) / 3, abs=1e-5)
    assert f"{means['dark']['psnr']:.2f}" in (report / "table.md").read_text()
    assert f"{means['dark']['psnr']:.2f}" in output


def test_a_second_run_changes_no_file(data: Path, predictions: Path, tmp_path: Path) -> None:
    arguments = (predictions, data, "--report", tmp_path / "report")
    assert run(*arguments)[0] == 0
    before = files_of(tmp_path)
    status, output = run(*arguments)
    assert (status, files_of(tmp_path)) == (0, before)
    assert "up to date" in output


def test_dry_run_writes_nothing_and_says_what_would_happen(
    data: Path, predictions: Path, tmp_path: Path
) -> None:
    before = files_of(tmp_path)
    status, output = run(predictions, data, "--report", tmp_path / "report", "--dry-run")
    assert status == 0
    assert "6 images of: prediction" in output
    assert "with baselines, 4 training images" in output
    assert files_of(tmp_path) == before
    assert not (tmp_path / "report").exists()


def test_failures_are_listed_the_others_go_on_and_the_status_is_1(
    data: Path, predictions: Path, tmp_path: Path
) -> None:
    write_image(predictions / "dark" / "04.png", np.zeros((SIZE[1], SIZE[0] + 1), np.uint8))
    (predictions / "bright" / "05.png").write_bytes(b"text")
    (predictions / "dark" / "06.png").unlink()
    write_image(predictions / "stray.png", np.zeros((20, 20), np.uint8))
    status, output = run(predictions, data, "--report", tmp_path / "report")
    assert status == 1
    assert "41x32 against 40x32" in output
    assert "is not an image" in output
    assert "dark/06: no image of: prediction" in output
    assert "1 predictions without a truth: stray" in output
    summary_ = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert summary_["images"] == {"bright": 2, "dark": 1, "all": 3}
    assert {name for name, _ in summary_["failures"]} == {"dark/04", "bright/05", "dark/06"}


def test_other_methods_join_the_same_table(data: Path, predictions: Path) -> None:
    status, output = run(
        predictions, data, "--methods", f"copy={data / 'rgb'}", "--methods", f"best={data / 'ir'}"
    )
    assert status == 0
    first, grey = (
        re.search(rf"^ *{name} +(\S.*)$", output, re.MULTILINE) for name in ("copy", "grey")
    )
    assert first and grey and first.group(1) == grey.group(1)
    best = re.search(r"^ *best +inf / 1.000 +inf / 1.000", output, re.MULTILINE)
    assert best, output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "noname"], "NAME=FOLDER"),
        (["--methods", "prediction=x"], "NAME=FOLDER"),
        (["--visible", "x"], "--reference"),
        (["--alignment", "strict"], "--data"),
        (["--split", "test"], "--data"),
    ],
)
def test_wrong_options_are_explained(
    options: list[str], message: str, data: Path, predictions: Path
) -> None:
    with pytest.raises(InputError, match=message):
        run(predictions, data / "ir", *options)


def test_baselines_from_two_folders(data: Path, predictions: Path) -> None:
    context = context_of_folders(data / "rgb", data / "ir" / "dark")
    reference = measure_reference(context.training)[0]
    plan = plan_comparison(predictions, data / "ir", context)
    # The truth folder also holds the training scenes, which nobody predicted.
    assert {name for name, _ in plan.failures} == {"dark/00", "bright/01", "dark/02", "bright/03"}
    result = evaluate(plan, Knowledge(reference))
    assert result.methods == ("prediction", *BASELINES)
    status, output = run(
        predictions, data / "ir", "--visible", data / "rgb", "--reference", data / "ir" / "dark"
    )
    assert status == 1
    assert f"{result.mean('constant', 'psnr'):.2f}" in output


def test_without_a_data_set_the_note_says_so(data: Path, predictions: Path) -> None:
    status, output = run(predictions / "dark", data / "ir" / "dark")
    assert status == 1  # two training scenes have no prediction
    assert "note: no baselines" in output
    assert "grey" not in output
