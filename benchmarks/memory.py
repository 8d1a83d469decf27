"""What full-size training needs: plans for common cards, and one measured step a phase.

    python benchmarks/memory.py                       # the plans, seconds
    python benchmarks/memory.py --measure FOLDER      # about 5 GB of disk and 20 GB of memory
    python benchmarks/memory.py --measure FOLDER --stage infrared     # one phase alone

The measured steps use random weights of full size and drawn pictures: memory and time do not
depend on what is learned. Each phase runs in a process of its own, so that its peak is its own.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from v2ir.annotation import annotate
from v2ir.data import SplitRule, index
from v2ir.images import write_image
from v2ir.model import architecture, build_model
from v2ir.model.networks import build_unet
from v2ir.training import RECIPES, Recipe
from v2ir.training.memory import GIGABYTE, MemoryPlan, choose_plan, footprint

BUDGETS = (12, 24, 48, 80)


def shapes() -> SimpleNamespace:
    """Return the full-size model without memory for its weights."""
    with torch.device("meta"):
        unet = build_unet(architecture("sd15").unet)
    small = torch.nn.Linear(1, 1)
    return SimpleNamespace(
        unet=unet,
        card=SimpleNamespace(text_length=77, factor=8),
        text_encoder=small,
        autoencoder=small,
    )


def print_plans() -> None:
    """Print the plan that each phase of `diffv2ir` gets on each card."""
    model = shapes()
    for name in ("diffv2ir-256", "diffv2ir-512"):
        for stage in RECIPES[name].stages[:2]:
            found = footprint(model, stage, autocast=True)  # type: ignore[arg-type]
            for budget in BUDGETS:
                plan = choose_plan(found, stage, budget * GIGABYTE)
                print(f"{name} {stage.name} --fit {budget}GB: {plan.describe()}")
    whole = footprint(model, RECIPES["diffv2ir-256"].stages[1], autocast=True)  # type: ignore[arg-type]
    for processes in (1, 2, 4, 8):
        peak = whole.shared(model.unet, processes).peak(MemoryPlan(1, 1)) / GIGABYTE
        print(f"diffv2ir-256 pairs, batch 1, cut over {processes} processes: {peak:.1f} GB in each")


def draw_data(folder: Path, number: int = 4) -> Path:
    """Draw a data set of smooth pictures, indexed and annotated."""
    data, rng = folder / "data", np.random.default_rng(0)
    for place in range(number):
        small = rng.integers(0, 255, (8, 10, 3), dtype=np.uint8)
        visible = np.kron(small, np.ones((40, 40, 1), np.uint8))
        write_image(data / "rgb" / f"{place}.png", visible)
        write_image(data / "ir" / f"{place}.png", visible.mean(axis=2).astype(np.uint8))
    index(data, split=SplitRule(by="random"), style=lambda name: "drawn")
    annotate(data)
    rows = [json.loads(line) for line in (data / "scenes.jsonl").read_text().splitlines()]
    rows = [{**row, "split": "train"} for row in rows]
    (data / "scenes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return data


def short(steps: int) -> Recipe:
    """Return `diffv2ir` with single images and few steps."""
    recipe = RECIPES["diffv2ir"]
    changes = {"batch_size": 1, "accumulation": 1, "steps": steps, "sample_every": 0}
    stages = tuple(stage.model_copy(update=changes) for stage in recipe.stages)
    return recipe.model_copy(update={"stages": stages})


def build_start(folder: Path) -> None:
    """Write a full-size model with random weights."""
    build_model(architecture("sd15"), name="random").save(folder)


def measure(folder: Path, steps: int, fit: str, only: str | None) -> None:
    """Run each phase, or one, at full size for a few steps; print its log, plan and peak."""
    folder.mkdir(parents=True, exist_ok=True)
    data, start, run = draw_data(folder), folder / "start", folder / "run"
    recipe = folder / "recipe.json"
    recipe.write_text(short(steps).model_dump_json())
    if not (start / "v2ir.json").exists():
        # In a process of its own, which takes its memory with it.
        with ProcessPoolExecutor(max_workers=1) as builder:
            builder.submit(build_start, start).result()
    environment = {**os.environ, "ACCELERATE_MIXED_PRECISION": "bf16", "COLUMNS": "200"}
    for stage in short(steps).stages:
        if only not in (None, stage.name):
            continue
        began = time.monotonic()
        command = [sys.executable, "-m", "v2ir.cli", "train", recipe, data, run]
        command += ["--stages", stage.name, "--from", start, "--fit", fit]
        done = subprocess.run(
            [str(word) for word in command], env=environment, capture_output=True, text=True
        )
        print(f"== {stage.name}: exit {done.returncode}, {time.monotonic() - began:.0f} s in all")
        for line in done.stderr.splitlines():
            if re.search(r"peak|GB|rror", line):
                print("  ", line.strip())
        for line in (run / "log.jsonl").read_text().splitlines():
            row = json.loads(line)
            if row["stage"] == stage.name:
                print("   log", row)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", type=Path, help="folder for the measured steps")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--fit", default="24GB")
    parser.add_argument("--stage", help="one stage alone: infrared, pairs or style")
    given = parser.parse_args()
    if given.measure:
        measure(given.measure, given.steps, given.fit, given.stage)
    else:
        print_plans()
