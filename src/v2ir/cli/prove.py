"""The verb `v2ir prove`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from v2ir.cli.console import console, list_failures, progress_bar
from v2ir.cli.translate import find_device

if TYPE_CHECKING:
    from v2ir.proof.proving import Claim, Proof
    from v2ir.proof.scenes import ProofScene

TABLE_FILE, SUMMARY_FILE = "table.md", "summary.json"


def command(
    data: Path = typer.Argument(..., help="Indexed data set with a train and a test split."),
    out: Path = typer.Argument(..., help="Folder of the proof; the same command continues it."),
    labels: str = typer.Option(
        ...,
        help="Boxes: COCO file, folder of YOLO or VOC files, or detector:FILE.onnx for its "
        "verdict on the true infrared images. Classes of images: CSV of name,label, folder of "
        "CLASS/NAME files, or scenes:style.",
    ),
    generated: Path | None = typer.Option(
        None, help="Infrared images made from the photographs of the training scenes."
    ),
    rows: str | None = typer.Option(
        None,
        help="Rows with commas between, each of real, grey, inverted, generated, joined by +; "
        "real,grey,generated,real+generated unless said otherwise.",
    ),
    classes: str | None = typer.Option(
        None,
        help="Classes with commas between; otherwise all with ten objects or images on both sides.",
    ),
    budget: int = typer.Option(1500, help="Steps that every row is trained."),
    batch_size: int = typer.Option(8, help="Images a step."),
    size: int = typer.Option(320, help="Width in pixels that the network sees."),
    seeds: int = typer.Option(3, min=1, help="Repeats of each row."),
    score: float = typer.Option(0.4, help="Least confidence of a detector's box that counts."),
    alignment: str | None = typer.Option(None, help="Test only on pairs of this alignment."),
    device: str = typer.Option("auto", help="auto, cpu, cuda, cuda:1, mps, ..."),
    dry_run: bool = typer.Option(False, help="Say what would be trained, and write nothing."),
) -> None:
    """Train a small detector on real, grey, generated and mixed images; test it on real ones.

    Every row sees the same scenes, labels, first weights and number of steps. Mean average
    precision is COCO's; its tools come with `pip install 'v2ir[prove]'`. Where the labels
    are classes of images, a small classifier is trained.

    Example: v2ir prove data proof --generated out --labels detector:yolox_nano.onnx
    """
    from v2ir.proof.scenes import Chosen, find_scenes, ingredients_of

    parts = ingredients_of(_names(rows) or _usual_rows(generated))
    used = {"real", *(part for row in parts.values() for part in row)}
    chosen = Chosen(data, generated, alignment)
    training, testing, missing = find_scenes(chosen, used)
    if dry_run:
        _describe(parts, training, testing, budget, seeds)
        return list_failures(missing)

    from v2ir.proof.proving import missing_runs, prove

    asked = _Asked(labels, score, _names(classes), (budget, batch_size, size), seeds, device)
    claim, failures = _claim(asked, parts, (training, testing), used, out)
    _, open_runs = missing_runs(claim, out)
    with progress_bar(f"train {len(open_runs)} {claim.task.learner}s") as progress:
        proof = prove(claim, out, progress, find_device(device))
    _show(proof, out)
    return list_failures([*missing, *failures])


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What the options say besides the images: labels, budget, repeats."""

    labels: str
    score: float
    classes: tuple[str, ...]
    budget: tuple[int, int, int]
    seeds: int
    device: str


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def _usual_rows(generated: Path | None) -> tuple[str, ...]:
    from v2ir.proof import DEFAULT_ROWS

    return tuple(row for row in DEFAULT_ROWS if generated or "generated" not in row)


def _describe(
    rows: Mapping[str, tuple[str, ...]],
    training: Sequence[ProofScene],
    testing: Sequence[ProofScene],
    budget: int,
    seeds: int,
) -> None:
    typer.echo(f"would train on {len(training)} scenes and test on {len(testing)}")
    for row, parts in rows.items():
        images = len(parts) * len(training)
        typer.echo(f"would train {row} on {images} images: {seeds} times {budget} steps")


def _claim(
    asked: _Asked,
    rows: Mapping[str, tuple[str, ...]],
    sides: tuple[Sequence[ProofScene], Sequence[ProofScene]],
    used: AbstractSet[str],
    out: Path,
) -> tuple[Claim, list[tuple[str, str]]]:
    """Check the images and give them their labels."""
    from v2ir.proof.classes import classes_of, with_classes
    from v2ir.proof.labels import label_scenes, open_labels
    from v2ir.proof.learning import Budget
    from v2ir.proof.proving import Claim
    from v2ir.proof.scenes import readable
    from v2ir.proof.tasks import TASKS

    steps, batch_size, size = asked.budget
    budget = Budget(steps=steps, batch_size=batch_size, size=size)
    labels = open_labels(asked.labels, [*sides[0], *sides[1]], asked.score, out)
    failures: list[tuple[str, str]] = []
    labelled = []
    for what, scenes, parts in (("train", sides[0], used), ("test", sides[1], {"real"})):
        with progress_bar(f"check images to {what}") as progress:
            good, faults = readable(scenes, parts, progress)
        with progress_bar(f"labels to {what}") as progress:
            found, unlabelled = label_scenes(good, labels, progress)
        failures += [*faults, *unlabelled]
        labelled.append(found)
    classes = classes_of(TASKS[labels.kind], labelled[0], labelled[1], asked.classes)
    training, testing = (tuple(with_classes(scenes, classes)) for scenes in labelled)
    claim = Claim(
        kind=labels.kind,
        rows=rows,
        training=training,
        testing=testing,
        classes=classes,
        labels=(labels.name, labels.version),
        least_score=labels.least_score,
        budget=budget.to_json(),
        num_seeds=asked.seeds,
    )
    return claim, failures


def _show(proof: Proof, out: Path) -> None:
    from v2ir.evaluation.report import json_bytes, write_if_changed
    from v2ir.proof.results import summary, table

    text = table(proof)
    write_if_changed(out / TABLE_FILE, text.encode())
    write_if_changed(out / SUMMARY_FILE, json_bytes(summary(proof)))
    typer.echo(text)
    console.print(f"written to {out}", highlight=False, soft_wrap=True)
