"""`v2ir ablate`: equal budgets, several seeds, resumable, and the two tables of the paper."""

from __future__ import annotations

import csv
import json
import math
import statistics

import pytest
import torch
from typer.testing import CliRunner

from v2ir.ablation import STUDIES, AblationSettings, Row, Study, ablate, study_of, table3, table4
from v2ir.ablation.tables import spread, table_of_results
from v2ir.ablation.training import fresh_beside, shared_recipe
from v2ir.ablation.trials import Result, trials_of
from v2ir.annotation import annotate
from v2ir.cli import app
from v2ir.data import index
from v2ir.errors import DataError, InputError, ModelError, RunError
from v2ir.files import read_jsonl, write_json, write_jsonl
from v2ir.model import architecture, build_model
from v2ir.training import RECIPES, load_recipe
from v2ir.training.recipes.budget import images_a_step, num_images

TINY = RECIPES["tiny"]


@pytest.fixture
def data(make_pairs):
    """Return annotated pairs of two cameras, six for training and two for the test."""
    root = make_pairs(8, width=48, height=40)
    index(root, style=lambda name: "left" if int(name[-2:]) % 2 else "right")
    rows = list(read_jsonl(root / "scenes.jsonl"))
    for place, row in enumerate(rows):
        row["split"] = "train" if place < 6 else "test"
    write_jsonl(root / "scenes.jsonl", rows)
    annotate(root)
    return root


def short(name="tiny", steps=1):
    recipe = RECIPES[name]
    stages = tuple(stage.model_copy(update={"steps": steps}) for stage in recipe.stages)
    return recipe.model_copy(update={"stages": stages})


def settings(data, out, **changes):
    values = {"seeds": (0, 1), "images": 8, "scale": 0.2}
    return AblationSettings(data, out, **{**values, **changes})


def test_table3_has_the_rows_of_the_paper():
    study = table3(TINY)
    assert [row.marks for row in study.rows] == [
        ("no", "yes", "no", "-", "-"),
        ("yes", "yes", "no", "-", "-"),
        ("no", "no", "yes", "-", "-"),
        ("yes", "no", "yes", "-", "-"),
        ("no", "yes", "yes", "-", "-"),
        ("yes", "yes", "yes", "-", "-"),
        ("yes", "yes", "yes", "no", "yes"),
        ("yes", "yes", "yes", "yes", "no"),
        ("yes", "yes", "yes", "yes", "yes"),
    ]
    assert len({row.name for row in study.rows}) == 9
    for row in study.rows:
        given = {name for stage in row.recipe.stages for name in stage.conditions}
        assert ("segmentation" in given) == (row.marks[3] == "yes")
        assert ("text" in given) == (row.marks[4] == "yes")
        phases = {stage.phase for stage in row.recipe.stages if stage.phase}
        assert phases == {n for n in (1, 2, 3) if row.marks[n - 1] == "yes"}
        known = row.recipe.card.get("conditions", ["text", "visible", "segmentation"])
        assert given == set(known)


def test_table4_around_the_published_setting_is_the_published_one():
    rows = {row.name: row.sampling for row in table4(RECIPES["diffv2ir"]).rows}
    assert [s.steps for name, s in rows.items() if name.startswith("steps")] == [50, 100, 150, 200]
    assert {s.text for s in rows.values()} == {5.0, 7.5, 10.0}
    assert {s.visible for s in rows.values()} == {s.segmentation for s in rows.values()}
    assert {s.visible for s in rows.values()} == {1.0, 1.5, 2.0}
    assert len(rows) == 10
    centre = rows["steps-100"]
    for sampling in rows.values():
        changed = [k for k, v in sampling.to_json().items() if centre.to_json()[k] != v]
        assert len(changed) <= 1 and sampling.solver == "euler_ancestral"


def test_table4_of_a_model_without_chance_samples_it():
    rows = table4(RECIPES["mini"]).rows
    assert {row.sampling.solver for row in rows} == {"dpmpp"}
    assert {row.sampling.visible for row in rows} == {1.0, 1.5, 2.0}
    with pytest.raises(InputError, match="no steps"):
        table4(RECIPES["regression-tiny"])


@pytest.mark.parametrize("images", [64, 1000, 38_000])
def test_every_row_has_the_same_budget(tmp_path, data, images):
    for name, make in STUDIES.items():
        for trial in trials_of(make(RECIPES["mini"]), settings(data, tmp_path, images=images)):
            batch = max(images_a_step(stage) for stage in trial.recipe.stages)
            least = sum(images_a_step(stage) for stage in trial.recipe.stages)
            assert abs(num_images(trial.recipe) - images) <= max(batch, least), name
            assert {stage.phase for stage in trial.recipe.stages} <= {1, 2, 3}


def test_seeds_train_their_own_models_and_samples_share_one(tmp_path, data):
    asked = settings(data, tmp_path)
    trained = trials_of(table3(TINY), asked)
    assert len({trial.run_dir for trial in trained}) == 18
    assert {trial.recipe.seed for trial in trained} == {0, 1}
    sampled = trials_of(table4(TINY), asked)
    assert len({trial.run_dir for trial in sampled}) == 1
    assert len({trial.key for trial in (*trained, *sampled)}) == len(trained) + len(sampled)
    assert len({shared_recipe(trial).name for trial in (*trained, *sampled)}) == 1


def test_rows_share_the_autoencoder_and_nothing_else(tmp_path, data):
    asked = settings(data, tmp_path)
    found = build_model(architecture("tiny"), name="found", seed=7)
    moments = {"latent_mean": (0.5,) * 4, "latent_std": (2.0,) * 4}
    found.card = found.card.model_copy(update=moments)
    bare, whole = table3(TINY).rows[5], table3(TINY).rows[8]
    trials = trials_of(Study("s", (), (bare, whole)), asked)
    models = [fresh_beside(trial, found) for trial in trials]
    for model in models:
        assert model.card.latent_std == (2.0,) * 4
        for name, value in model.autoencoder.named_parameters():
            assert torch.equal(value, found.autoencoder.get_parameter(name))
    assert [model.unet.config.in_channels for model in models] == [8, 12, 8, 12]
    for first, second in ((0, 2), (1, 3)):
        weights = [models[place].unet.conv_in.weight for place in (first, second)]
        assert (weights[0] != weights[1]).any()
    other = build_model(architecture("pixels-tiny"), name="other", conditions=("visible",))
    with pytest.raises(ModelError, match="does not fit"):
        fresh_beside(trials[0], other)


def test_table3_needs_three_phases():
    with pytest.raises(InputError, match="three phases"):
        table3(RECIPES["camera"])


def test_a_study_runs_resumes_and_takes_more_seeds(tmp_path, data):
    """Two rows, one seed; an interrupt within the second; then the rest, then another seed."""
    rows = tuple(
        Row(row.name, row.recipe, row.marks)
        for row in table3(short()).rows
        if row.marks in {("no", "no", "yes", "-", "-"), ("yes",) * 5}
    )
    study = Study("two", table3(TINY).heads, rows)
    out = tmp_path / "out"

    class StopError(Exception):
        pass

    def stop(what):
        def told(done, total):
            if what.startswith(f"{rows[1].name} seed 0: style") and done:
                raise StopError

        return told

    with pytest.raises(StopError):
        ablate(study, settings(data, out, seeds=(0,)), stop)
    first = json.loads((out / "table.json").read_text())
    assert [row["seeds"] for row in first["rows"]] == [[0], []]
    assert "| - |" in (out / "table.md").read_text()

    seen = []
    report = ablate(study, settings(data, out, seeds=(0,)), lambda what: seen.append(what) or no)
    assert (report.made, report.kept, report.failures) == (1, 1, ())
    assert not any(what.startswith(f"{rows[0].name} seed") for what in seen)
    assert not any(what.startswith("shared") for what in seen)
    assert len(list((out / "shared").iterdir())) == 1

    before = stamps(out)
    again = ablate(study, settings(data, out, seeds=(0,)))
    assert (again.made, again.kept, again.changed) == (0, 2, ()) and stamps(out) == before

    more = ablate(study, settings(data, out, seeds=(0, 1)))
    assert (more.made, more.kept) == (2, 2)
    table = json.loads((out / "table.json").read_text())
    for row in table["rows"]:
        assert row["seeds"] == [0, 1] and row["training images"] == 8
    lines = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    for row in table["rows"]:
        values = [
            float(line["psnr"])
            for line in lines
            if line["row"] == row["name"] and line["style"] == "all"
        ]
        assert row["mean"]["psnr"] == pytest.approx(statistics.fmean(values), abs=1e-5)
        assert row["spread"]["psnr"] == pytest.approx(statistics.stdev(values), abs=1e-5)
    assert table["floor"]["means"]["all"]["sharpness"] == 0
    assert not list(out.rglob("checkpoints/*"))
    with pytest.raises(RunError, match="other settings"):
        ablate(study, settings(data, out, images=12))


def no(done, total):
    pass


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_one_model_is_sampled_in_many_ways(tmp_path, data):
    out = tmp_path / "out"
    study = table4(short())
    few = Study(study.name, study.heads, study.rows[:1] + study.rows[-1:], trains_each=False)
    report = ablate(few, settings(data, out, images=6))
    assert report.made == 4 and not report.failures
    assert len(list((out / "runs").glob("*/*"))) == 1
    sidecars = [json.loads(path.read_text()) for path in (out / "images").rglob("*.json")]
    assert {(s["steps"], s["guidance"]["segmentation"], s["seed"]) for s in sidecars} == {
        (1, 1.5, 0), (1, 1.5, 1), (2, 2.0, 0), (2, 2.0, 1),
    }  # fmt: skip
    hashes = {s["model_hash"] for s in sidecars}
    assert len(hashes) == 1


def test_a_failing_row_does_not_end_the_study(tmp_path, data):
    broken = short("tiny-phases-2")
    stages = tuple(
        stage.model_copy(update={"styles": ("nowhere",)}) if stage.phase else stage
        for stage in broken.stages
    )
    broken = broken.model_copy(update={"stages": stages})
    study = Study("s", (), (Row("broken", broken), Row("good", short("tiny-phases-3"))))
    report = ablate(study, settings(data, tmp_path / "out", seeds=(0,)))
    assert report.made == 1
    assert [name for name, _ in report.failures] == ["broken seed 0"]
    assert "nowhere" in report.failures[0][1]


def result(row, seed, psnr):
    means = {"psnr": psnr, "ssim": 0.5, "correlation": None, "sharpness": 1.0}
    return Result(row, seed, "key", 7, {"all": means})


def test_mean_spread_and_the_best_row():
    study = Study("s", ("what",), tuple(Row(n, TINY, (n,)) for n in ("a", "b", "c")))
    results = {
        "a": [result("a", 0, 10.0), result("a", 1, 12.0)],
        "b": [result("b", 0, 13.0), result("b", 1, 13.5)],
    }
    rows = dict(table_of_results(study, results, result("constant image", 0, 99.0)).rows)
    psnr = {name: cells[1][0] for name, cells in rows.items()}
    assert psnr["a"].text == "11.00 ± 1.41" and psnr["a"].is_second
    assert psnr["b"].text == "13.25 ± 0.35" and psnr["b"].is_best
    assert psnr["c"].text == "-" and psnr["constant image"].text == "99.00"
    assert not psnr["constant image"].is_best
    assert rows["a"][0][0].text == "a" and rows["a"][3][0].text == "-"
    assert spread([1.0, 3.0]) == pytest.approx(math.sqrt(2)) and math.isnan(spread([1.0]))


def test_results_belong_to_the_weights_that_were_given(tmp_path, data):
    keys = []
    for seed in (1, 2):
        build_model(architecture("tiny"), name="x", seed=seed).save(tmp_path / f"model{seed}")
        asked = settings(data, tmp_path, model=str(tmp_path / f"model{seed}"))
        keys.append([trial.key for trial in trials_of(table4(TINY), asked)])
    assert not set(keys[0]) & set(keys[1])
    (tmp_path / "model2").rename(tmp_path / "moved")
    asked = settings(data, tmp_path, model=str(tmp_path / "moved"))
    assert [trial.key for trial in trials_of(table4(TINY), asked)] == keys[1]


def test_what_a_study_is_made_of(tmp_path):
    assert study_of(["table3"], TINY, load_recipe).name == "table3"
    file = tmp_path / "other.json"
    write_json(file, {"from": "tiny", "name": "other"})
    study = study_of(["tiny", "regression-tiny", str(file)], TINY, load_recipe)
    assert [row.name for row in study.rows] == ["tiny", "regression-tiny", "other"]
    for words, reason in (
        (["table3", "tiny"], "alone"),
        (["tiny", "tiny"], "different names"),
        (["tinny"], "tiny"),
    ):
        with pytest.raises(InputError, match=reason):
            study_of(words, TINY, load_recipe)


def test_settings_without_effect_are_refused(tmp_path, data):
    for changes, reason in (
        ({"model": "mini"}, "are trained"),
        ({"start_from": "mini", "autoencoder": "mini"}, "exclude"),
        ({"images": 0}, "positive"),
    ):
        with pytest.raises(InputError, match=reason):
            ablate(table3(TINY), settings(data, tmp_path, **changes))
    (data / "captions.jsonl").unlink()
    with pytest.raises(DataError, match="text"):
        ablate(table3(TINY), settings(data, tmp_path))
    assert not list(tmp_path.glob("results"))


def test_the_command_and_its_dry_run(tmp_path, data):
    out = tmp_path / "out"
    words = ["ablate", "regression-tiny,instruct-pix2pix-tiny", str(data), str(out)]
    words += ["--base", "tiny", "--budget", "4", "--seeds", "1", "--device", "cpu"]
    before = stamps(data)
    planned = CliRunner().invoke(app, [*words, "--dry-run"], catch_exceptions=False)
    assert planned.exit_code == 0 and planned.output.count("to do:") == 2
    assert "4 training images" in planned.output and "2 images to measure on" in planned.output
    assert not out.exists() and stamps(data) == before
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "2 trials run" in done.output and "regression-tiny" in done.output
    planned = CliRunner().invoke(app, [*words, "--dry-run"], catch_exceptions=False)
    assert planned.output.count("done:") == 2
    wrong = CliRunner().invoke(app, [*words, "--steps-scale", "1"])
    assert isinstance(wrong.exception, InputError)
