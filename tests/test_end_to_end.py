"""The whole path as a user walks it: index, annotate, train, kill, resume, translate, evaluate."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from v2ir.cli import app
from v2ir.training.checkpoint import list_checkpoints


def run(*words: object) -> str:
    """Run a verb in this process; fail with what it printed unless it exits with 0."""
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def train_until_killed(command: list[str], checkpoints, stage: str, step: int) -> bool:
    """Start training in a process of its own and kill it once a step is reached."""
    process = subprocess.Popen(
        [sys.executable, "-m", "v2ir.cli", *command],
        env=os.environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None:
        found = list_checkpoints(checkpoints, stage)
        if found and found[-1][0] >= step:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.005)
    return False


def test_from_images_to_numbers(make_pairs, tmp_path):
    data = make_pairs(8, width=72, height=56)
    run("index", data, "--style", "street", "--val", 0.2, "--test", 0.3)
    rows = [json.loads(line) for line in (data / "scenes.jsonl").read_text().splitlines()]
    tested = sorted(row["name"] for row in rows if row["split"] == "test")
    assert tested
    run("annotate", data)

    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"from": "tiny", "stages": {"pairs": {"steps": 40}}}))
    folder = tmp_path / "run"
    command = ["train", str(recipe), str(data), str(folder)]
    assert train_until_killed(command, folder / "checkpoints", "pairs", 4)
    run(*command)
    finished = sorted(path.name for path in (folder / "models").iterdir())
    assert finished == ["autoencoder", "infrared", "pairs", "style"]

    photos, made = tmp_path / "photos", tmp_path / "made"
    photos.mkdir()
    for name in tested:
        Image.open(data / "rgb" / f"{name}.png").save(photos / f"{name}.png")
    model = folder / "models" / "style"
    run("translate", photos, made, "--model", model, "--style", "street", "--steps", 2)
    for name in tested:
        image = Image.open(made / f"{name}.png")
        assert image.mode == "L"
        assert image.size == (72, 56)
        assert np.asarray(image).std() > 0
        assert json.loads((made / f"{name}.json").read_text())["synthetic"] is True
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    run("translate", photos, made, "--model", model, "--style", "street", "--steps", 2)
    assert before == {path: path.stat().st_mtime_ns for path in made.rglob("*")}

    report = tmp_path / "report"
    output = run("evaluate", made, data, "--report", report)
    assert "constant" in output
    with (report / "per_image.csv").open() as stream:
        measured = list(csv.DictReader(stream))
    assert {row["name"] for row in measured} == set(tested)
    predicted = [row for row in measured if row["method"] == "prediction"]
    assert len(predicted) == len(tested)
    assert all(np.isfinite(float(row["psnr"])) for row in predicted)
