"""The verb `v2ir evaluate`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from v2ir.cli import _evaluate_options as options
from v2ir.cli._evaluate_inputs import (
    Detecting,
    Known,
    context_of,
    detection_of,
    knowledge_of,
    named,
    named_folders,
)
from v2ir.cli._evaluate_output import show, show_plan, write
from v2ir.cli.console import list_failures, progress_bar
from v2ir.errors import InputError

if TYPE_CHECKING:
    from v2ir.evaluation.cases import Knowledge, Plan
    from v2ir.evaluation.comparison import Evaluation
    from v2ir.evaluation.results import Results


def command(
    predictions: options.Predictions,
    truth: options.Truth,
    data: options.Data = None,
    protocol: options.Protocol = None,
    split: options.Split = None,
    alignment: options.Alignment = None,
    methods: options.Methods = [],  # noqa: B006  # typer copies it
    earlier: options.Earlier = [],  # noqa: B006
    visible: options.Visible = None,
    reference: options.Reference = None,
    slices: options.Slices = [],  # noqa: B006
    features: options.Features = None,
    lpips: options.Lpips = None,
    detector: options.Detector = None,
    boxes: options.Boxes = [],  # noqa: B006
    classes: options.Classes = None,
    against: options.Against = "truth",
    score: options.Score = 0.4,
    no_truth: options.NoTruth = False,
    gate: options.Gate = None,
    quarantine: options.Quarantine = None,
    report: options.Report = None,
    workers: options.Workers = None,
    dry_run: options.DryRun = False,
) -> None:
    """Measure predicted infrared images against the true ones, with baselines beside them.

    Images belong together when their names are equal up to the extension. Baselines
    (grey, inverted, histogram-matched, constant, nearest training image) need --data, or
    --visible and --reference. Every row of a table is a mean over the same images.

    Example: v2ir evaluate out/ data/ir --data data --alignment strict --report report/
    """
    from v2ir.evaluation.cases import PREDICTION, plan_comparison
    from v2ir.evaluation.protocols.choosing import protocol_of

    detecting = Detecting(detector, boxes, classes, against, score, not no_truth)
    gating = _gate(gate, quarantine, detecting)
    rules = protocol_of(protocol) if protocol else None
    known = Known(data, split, alignment, visible, reference)
    folders = {PREDICTION: predictions, **named_folders(methods)}
    plan = plan_comparison(folders, truth, context_of(known, truth, rules), rules)
    if dry_run:
        show_plan(plan, report, _announced(features, lpips, detector, gating))
        return list_failures(plan.failures)
    asked = _Asked(
        workers=workers,
        features=features,
        lpips=lpips,
        slices=named(slices, "--slice"),
        earlier={n: Path(v) for n, v in named(earlier, "--earlier", folders).items()},
        detecting=detecting,
    )
    knowledge, unread = knowledge_of(plan.context, report)
    results = _measure(plan, knowledge, asked)
    if report is not None and _has_rows(results):
        write(report, results)
    if _has_rows(results):
        show(results)
    return list_failures([*unread, *results.failures, *_refused(results, gating)])


@dataclasses.dataclass(frozen=True)
class _Gate:
    """Images below `threshold` do not pass; they move to `folder` if there is one."""

    threshold: float
    folder: Path | None


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What to measure."""

    workers: int | None
    features: str | None
    lpips: str | None
    slices: Mapping[str, str]
    earlier: Mapping[str, Path]
    detecting: Detecting


def _gate(threshold: float | None, folder: Path | None, detecting: Detecting) -> _Gate | None:
    """Return the gate that was asked for.

    Raises:
        InputError: If what it needs was not given.
    """
    has_objects = detecting.detector is not None or bool(detecting.boxes)
    if threshold is None and folder is not None:
        raise InputError("--quarantine moves the images below a gate", do="add --gate 0.5")
    if threshold is not None and not has_objects:
        raise InputError("--gate needs objects", do="add --detector FILE or --boxes SIDE=FILE")
    if not detecting.has_truth and not has_objects:
        raise InputError("--no-truth compares objects only", do="add --detector FILE")
    return None if threshold is None else _Gate(threshold, folder)


def _announced(
    features: str | None, lpips: str | None, detector: str | None, gating: _Gate | None
) -> list[str]:
    lines = [f"would compare sets on {features}"] if features else []
    lines += [f"would measure LPIPS with {lpips}"] if lpips else []
    lines += [f"would look for objects with {detector}"] if detector else []
    if gating:
        where = f"move to {gating.folder}" if gating.folder else "list"
        lines.append(f"would {where} images below {gating.threshold:g}")
    return lines


def _has_rows(results: Results) -> bool:
    return bool(results.evaluation and results.evaluation.rows) or bool(
        results.objects and results.objects.rows
    )


def _measure(plan: Plan, knowledge: Knowledge, asked: _Asked) -> Results:
    """Open the networks first, so that a missing one is told before the work."""
    from v2ir.evaluation.comparison import evaluate
    from v2ir.evaluation.features import load_features
    from v2ir.evaluation.objects import evaluate_objects
    from v2ir.evaluation.perceptual import load_lpips, with_perceptual
    from v2ir.evaluation.results import Results
    from v2ir.evaluation.sets import evaluate_sets

    network = load_features(asked.features) if asked.features else None
    perceptual = load_lpips(asked.lpips) if asked.lpips else None
    detection = detection_of(asked.detecting, plan)
    has_truth = asked.detecting.has_truth
    evaluation: Evaluation | None = None
    sets = objects = None
    versions: dict[str, str] = {}
    if has_truth:
        with progress_bar("compare") as progress:
            evaluation = evaluate(plan, knowledge, workers=asked.workers, progress=progress)
    if evaluation and perceptual:
        with progress_bar("LPIPS") as progress:
            evaluation = with_perceptual(
                plan, evaluation, perceptual[0], knowledge, progress=progress
            )
        versions["lpips"] = perceptual[1]
    if evaluation and evaluation.rows:
        evaluation = _extended(evaluation, asked)
    if evaluation and network:
        versions[network.name] = network.version
        with progress_bar("features") as progress:
            sets = evaluate_sets(plan, evaluation, network, knowledge, progress=progress)
    if detection:
        with progress_bar("objects") as progress:
            objects = evaluate_objects(
                plan,
                detection,
                knowledge,
                names=evaluation.names if evaluation else None,
                with_truth=has_truth,
                workers=asked.workers,
                progress=progress,
            )
        versions[objects.source] = objects.version
    return Results(plan, evaluation, sets, objects, versions)


def _extended(evaluation: Evaluation, asked: _Asked) -> Evaluation:
    from v2ir.evaluation.earlier import with_earlier
    from v2ir.evaluation.slices import with_slices

    return with_earlier(with_slices(evaluation, asked.slices), asked.earlier)


def _refused(results: Results, gating: _Gate | None) -> list[tuple[str, str]]:
    """List the images below the gate; move them if asked, and then they are no failures."""
    from v2ir.evaluation.objects import quarantine

    if gating is None or results.objects is None:
        return []
    method = results.plan.methods[0]
    below = results.objects.below(method, gating.threshold)
    typer.echo(f"{len(below)} images below the gate of {gating.threshold:g}")
    if gating.folder is None:
        return [(name, f"faithfulness {value:.2f} is below the gate") for name, value in below]
    paths = {case.name: case.predictions[0] for case in results.plan.cases}
    for target in quarantine(gating.folder, paths, [name for name, _ in below]):
        typer.echo(f"moved to {target}")
    return []
