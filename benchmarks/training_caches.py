"""A training step with everything cached against one that computes it all, on your own data.

    python benchmarks/training_caches.py DATA [--model mini] [--batch 4] [--rounds 3]

DATA is an indexed data set with visible images; `v2ir bench --training` does the same on drawn
ones. Both kinds of step take turns; the table shows the median milliseconds of each part.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from v2ir.bench import Clock, Journal, Meter
from v2ir.bench.timing import Task, interleave, paired_ratio
from v2ir.bench.training import PARTS, TrainingSteps, median_part
from v2ir.model import load_model
from v2ir.training import Stage
from v2ir.training.scenes import scenes_of, training_scenes


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_flush_denormal(True)
    scenes = scenes_of(Stage(name="pairs", steps=1), training_scenes(given.data))[: given.batch]
    journal, meter = Journal(None, {}, {}), Meter(Clock())
    with tempfile.TemporaryDirectory() as folder:
        steps = TrainingSteps(load_model(given.model), scenes, Path(folder), meter)
        steps.prepare()
        tasks = [
            Task("cached", lambda: steps.step(cached=True)),
            Task("computed", lambda: steps.step(cached=False)),
        ]
        interleave(tasks, given.rounds, journal, meter)
    cached, computed = (journal.samples(task.name) for task in tasks)
    print(f"{'part':14} {'cached ms':>10} {'computed ms':>12}")
    for part in PARTS:
        print(f"{part:14} {median_part(cached, part):10.1f} {median_part(computed, part):12.1f}")
    print(f"a step without caches takes {paired_ratio(computed, cached):.2f} times as long")


if __name__ == "__main__":
    main()
