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
from v2ir.proof.precision import Precision, average_precision, require_tools
from v2ir.proof.scenes import ProofScene
from v2ir.records import JsonRecord, Progress, no_progress

RUNS_FILE = "runs.jsonl"
# Raise it when the detector, its training or its test change: older runs do not compare.
METHOD_VERSION = 1
logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Claim:
    """What is to be proved.

    Attributes:
        rows: Ingredients of each row by its name.
        training: Scenes to learn from, with the boxes of `classes` only.
        testing: Scenes to test on, likewise.
        classes: Names of the classes.
        labels: (name, version) of what told the boxes.
        least_score: Least confidence of a detector's box that counted.
        budget: What every row is given, as JSON.
        num_seeds: Repeats of each row.
    """

    rows: Mapping[str, tuple[str, ...]]
    training: tuple[ProofScene, ...]
    testing: tuple[ProofScene, ...]
    classes: tuple[str, ...]
    labels: tuple[str, str]
    least_score: float
    budget: Mapping[str, Any]
    num_seeds: int

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
            METHOD_VERSION, list(self.rows[row]), files, list(self.classes), list(self.labels),
            self.least_score, dict(self.budget),
            [[dataclasses.asdict(box) for box in s.boxes] for s in (*self.training, *self.testing)],
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


@dataclasses.dataclass(frozen=True)
class Run(JsonRecord):
    """One detector: trained on one row with one seed, and tested.

    Attributes:
        row: Name of the row.
        seed: Seed of weights, draws and variations.
        key: Hash of what the run depends on.
        num_images: Images that the row could draw from.
        precision: What was reached, as JSON of `Precision`.
        seconds: Time it took.
    """

    row: str
    seed: int
    key: str
    num_images: int
    precision: dict[str, Any]
    seconds: float

    @property
    def reached(self) -> Precision:
        """What was reached."""
        return Precision.from_json(self.precision)


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
    return list(read_jsonl(out / RUNS_FILE))


def prove(claim: Claim, out: Path, progress: Progress = no_progress, device: str = "cpu") -> Proof:
    """Make the runs that are missing, and keep each in OUT/runs.jsonl when it is done.

    Args:
        claim: What to prove.
        out: Folder of the proof.
        progress: Told (steps done, steps in all) over all missing runs.
        device: Where to train.

    Raises:
        MissingExtraError: If COCO's tools are missing.
        ImageReadError: If an image vanishes meanwhile.
    """
    from v2ir.proof.learning import Budget

    done, missing = missing_runs(claim, out)
    budget = Budget.from_json(claim.budget)
    if missing:
        require_tools()
    for place, (row, seed) in enumerate(missing):

        def told(step: int, steps: int, before: int = place * budget.steps) -> None:
            progress(before + step, len(missing) * budget.steps)

        run = _run(claim, row, seed, told, device)
        append_jsonl(out / RUNS_FILE, run.to_json())
        logger.info("%s, seed %d: %.3f", row, seed, run.reached.mean)
        done.append(run)
    order = {row: place for place, row in enumerate(claim.rows)}
    return Proof(claim, tuple(sorted(done, key=lambda run: (order[run.row], run.seed))))


def _run(claim: Claim, row: str, seed: int, progress: Progress, device: str) -> Run:
    from v2ir.proof.learning import Budget, detect, train_detector

    budget = Budget.from_json(claim.budget)
    samples = [(scene, part) for part in claim.rows[row] for scene in claim.training]
    start = time.monotonic()
    detector = train_detector(samples, claim.classes, budget, seed, progress, device)
    found = {
        scene.name: detect(detector, scene.read("real"), claim.classes, budget)
        for scene in claim.testing
    }
    precision = average_precision(claim.testing, found, claim.classes)
    seconds = round(time.monotonic() - start, 1)
    return Run(row, seed, claim.key(row), len(samples), precision.to_json(), seconds)
