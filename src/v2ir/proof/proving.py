"""The proof itself: rows and seeds, one after the other, each kept as soon as it is done."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from v2ir.files import append_jsonl, read_jsonl
from v2ir.proof.learning import Budget, ask, train
from v2ir.proof.scenes import ProofScene
from v2ir.proof.task import Task
from v2ir.proof.tasks import TASKS
from v2ir.records import JsonRecord, Progress, no_progress

RUNS_FILE = "runs.jsonl"
logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Claim:
    """What is to be proved.

    Attributes:
        kind: Row of `TASKS`: what is learned.
        rows: Ingredients of each row by its name.
        training: Scenes to learn from, with the labels of `classes` only.
        testing: Scenes to test on, likewise.
        classes: Names of the classes.
        labels: (name, version) of what told the labels.
        least_score: Least confidence of a detector's box that counted; None without boxes.
        budget: What every row is given, as JSON.
        num_seeds: Repeats of each row.
    """

    kind: str
    rows: Mapping[str, tuple[str, ...]]
    training: tuple[ProofScene, ...]
    testing: tuple[ProofScene, ...]
    classes: tuple[str, ...]
    labels: tuple[str, str]
    least_score: float | None
    budget: Mapping[str, Any]
    num_seeds: int

    @property
    def task(self) -> Task[Any, Any]:
        """What is learned."""
        return TASKS[self.kind]

    def key(self, row: str) -> str:
        """Return a hash of everything that a run of this row depends on but its seed.

        Files count by their names, sizes and times.
        """
        files = []
        for scene in self.training:
            paths = {scene.images.get(name, scene.images["grey"]) for name in self.rows[row]}
            files += [f"{path} {_stamp(path)}" for path in sorted(paths)]
        files += [f"{s.images['real']} {_stamp(s.images['real'])}" for s in self.testing]
        facts = [
            self.task.version, list(self.rows[row]), files, list(self.classes), list(self.labels),
            self.least_score, dict(self.budget),
            [scene.truth for scene in (*self.training, *self.testing)],
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


@dataclasses.dataclass(frozen=True)
class Run(JsonRecord):
    """One network: trained on one row with one seed, and tested.

    Attributes:
        row: Name of the row.
        seed: Seed of weights, draws and variations.
        key: Hash of what the run depends on.
        num_images: Images that the row could draw from.
        scores: What was reached, by the names of `Task.heads`.
        seconds: Time it took.
    """

    row: str
    seed: int
    key: str
    num_images: int
    scores: dict[str, float]
    seconds: float


@dataclasses.dataclass(frozen=True)
class Proof:
    """All runs of a claim, in the order of rows and seeds.

    Attributes:
        claim: What was to be proved.
        runs: The finished runs.
    """

    claim: Claim
    runs: tuple[Run, ...]

    def of(self, row: str) -> list[Run]:
        """Return the runs of a row."""
        return [run for run in self.runs if run.row == row]


def missing_runs(claim: Claim, out: Path) -> tuple[list[Run], list[tuple[str, int]]]:
    """Return the runs that OUT already holds, and (row, seed) of those still to be made."""
    known = {(run.row, run.seed, run.key): run for run in map(Run.from_json, _rows(out))}
    done, missing = [], []
    for row in claim.rows:
        key = claim.key(row)
        for seed in range(claim.num_seeds):
            run = known.get((row, seed, key))
            if run:
                done.append(run)
            else:
                missing.append((row, seed))
    return done, missing


def _rows(out: Path) -> list[dict[str, Any]]:
    # Lines without scores are of a version that knew only detectors.
    return [row for row in read_jsonl(out / RUNS_FILE) if "scores" in row]


def prove(claim: Claim, out: Path, progress: Progress = no_progress, device: str = "cpu") -> Proof:
    """Make the runs that are missing, and keep each in OUT/runs.jsonl when it is done.

    Args:
        claim: What to prove.
        out: Folder of the proof.
        progress: Told (steps done, steps in all) over all missing runs.
        device: Where to train.

    Raises:
        MissingExtraError: If a package is missing that the scores need.
        ImageReadError: If an image vanishes meanwhile.
    """
    done, missing = missing_runs(claim, out)
    budget = Budget.from_json(claim.budget)
    if missing:
        claim.task.require()
    for place, (row, seed) in enumerate(missing):

        def told(step: int, steps: int, before: int = place * budget.steps) -> None:
            progress(before + step, len(missing) * budget.steps)

        run = _run(claim, row, seed, told, device)
        append_jsonl(out / RUNS_FILE, run.to_json())
        logger.info("%s, seed %d: %s", row, seed, run.scores)
        done.append(run)
    order = {row: place for place, row in enumerate(claim.rows)}
    return Proof(claim, tuple(sorted(done, key=lambda run: (order[run.row], run.seed))))


def _run(claim: Claim, row: str, seed: int, progress: Progress, device: str) -> Run:
    budget, task = Budget.from_json(claim.budget), claim.task
    samples = [(scene, part) for part in claim.rows[row] for scene in claim.training]
    start = time.monotonic()
    network = train(task, samples, claim.classes, budget, seed, progress, device)
    answers = {
        scene.name: ask(task, network, scene.read("real"), claim.classes, budget)
        for scene in claim.testing
    }
    scores = task.score(claim.testing, answers, claim.classes)
    seconds = round(time.monotonic() - start, 1)
    return Run(row, seed, claim.key(row), len(samples), scores, seconds)
