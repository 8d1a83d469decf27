"""The result as Markdown, CSV, JSON and one page. Equal results give equal bytes."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from v2ir import __version__
from v2ir.evaluation import SCORES, page, pictures
from v2ir.evaluation.cases import TRUTH
from v2ir.evaluation.comparison import Evaluation
from v2ir.evaluation.faithfulness import count_objects
from v2ir.evaluation.intervals import Interval
from v2ir.evaluation.objects import ObjectReport
from v2ir.evaluation.results import Results, library_versions
from v2ir.evaluation.sets import SetReport, SetScore
from v2ir.evaluation.tables import EVERYTHING, intervals_of, markdown
from v2ir.files import write_bytes

PAGE_FILE, TABLE_FILE, SUMMARY_FILE = "report.html", "table.md", "summary.json"
ROWS_FILE, OBJECTS_FILE = "per_image.csv", "objects.csv"


def summary(
    results: Results, intervals: Mapping[str, Mapping[str, Interval]] | None = None
) -> dict[str, Any]:
    """Return means by method, style and score with what is needed to compare them.

    Values that JSON cannot hold (the infinite PSNR of equal images, an undefined
    correlation) are null.
    """
    plan = results.plan
    values: dict[str, Any] = {
        "v2ir": __version__,
        "libraries": library_versions(results),
        "protocol": {**plan.protocol.to_json(), "hash": plan.protocol.hash},
    }
    if results.evaluation:
        values |= _evaluation_json(results.evaluation, intervals)
    if results.sets:
        values["sets"] = _sets_json(results.sets)
    if results.objects:
        values["objects"] = _objects_json(results.objects)
    values["failures"] = [list(failure) for failure in results.failures]
    values["notes"] = list(results.notes)
    return values


def _evaluation_json(
    evaluation: Evaluation, intervals: Mapping[str, Mapping[str, Interval]] | None
) -> dict[str, Any]:
    keys = [*evaluation.styles, EVERYTHING]
    metrics = [m for m in SCORES if any(m in row.scores for row in evaluation.rows)]
    spans = intervals_of(evaluation) if intervals is None else intervals

    def means(method: str) -> dict[str, dict[str, float | None]]:
        by_style = {
            key: {m: _number(evaluation.mean(method, m, _style(key))) for m in metrics}
            for key in keys
        }
        by_slice = {
            key: {m: _number(evaluation.mean(method, m, names=names)) for m in metrics}
            for key, names in evaluation.slices.items()
        }
        return by_style | by_slice

    return {
        "selection": evaluation.selection.to_json() if evaluation.selection else None,
        "names_hash": evaluation.names_hash,
        "images": {key: evaluation.num_images(_style(key)) for key in keys}
        | {key: len(names) for key, names in evaluation.slices.items()},
        "methods": list(evaluation.methods[: evaluation.num_judged]),
        "baselines": list(evaluation.methods[evaluation.num_judged :]),
        "better": {name: SCORES[name].better for name in metrics},
        "means": {method: means(method) for method in (*evaluation.methods, TRUTH)},
        "intervals": {
            method: {
                metric: [_number(interval.low), _number(interval.high)]
                for metric, interval in spans[method].items()
            }
            for method in evaluation.methods
        },
        "extra": list(evaluation.extra),
    }


def _sets_json(sets: SetReport) -> dict[str, Any]:
    def row(score: SetScore) -> dict[str, Any]:
        values = dataclasses.asdict(score)
        return {k: v if k == "method" else _number(v) for k, v in values.items()}

    return {
        "network": sets.network,
        "version": sets.version,
        "frechet": sets.frechet_name,
        "kernel": sets.kernel_name,
        "images": sets.num_images,
        "scores": [row(score) for score in sets.scores],
        "real half against real half": row(sets.floor) if sets.floor else None,
    }


def _objects_json(objects: ObjectReport) -> dict[str, Any]:
    return {
        "against": objects.against,
        "source": objects.source,
        "version": objects.version,
        "rule": dataclasses.asdict(objects.rule),
        "total": {m: dataclasses.asdict(objects.total(m)) for m in objects.methods},
        "contrast": {m: _number(objects.contrast(m)) for m in objects.methods},
        "classes": {
            method: {
                label: dataclasses.asdict(counts)
                for label, counts in count_objects(objects.objects(method)).items()
            }
            for method in objects.methods
        },
    }


def _style(key: str) -> str | None:
    return None if key == EVERYTHING else key


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def per_image_csv(evaluation: Evaluation) -> str:
    """Return one line an image and method: name, style, method, then every score."""
    metrics = [m for m in SCORES if any(m in row.scores for row in evaluation.rows)]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["name", "style", "method", *metrics])
    for row in (*evaluation.rows, *evaluation.truths):
        values = [row.scores.get(metric, math.nan) for metric in metrics]
        texts = ["" if math.isnan(value) else f"{value:.6f}" for value in values]
        writer.writerow([row.name, row.style, row.method, *texts])
    return buffer.getvalue()


def objects_csv(objects: ObjectReport) -> str:
    """Return one line an image and method: what was kept, lost and invented."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    heads = ("kept", "lost", "invented", "faithfulness", "contrast", "lost_boxes", "invented_boxes")
    writer.writerow(["name", "style", "method", *heads])
    for row in objects.rows:
        found = row.objects
        numbers = (found.faithfulness, row.contrast)
        texts = ["" if math.isnan(value) else f"{value:.6f}" for value in numbers]
        counts = (len(found.kept), len(found.lost), len(found.invented))
        boxes = [
            ";".join(
                f"{b.label} {b.left:.0f} {b.top:.0f} {b.right:.0f} {b.bottom:.0f}" for b in side
            )
            for side in (found.lost, found.invented)
        ]
        writer.writerow([row.name, row.style, row.method, *counts, *texts, *boxes])
    return buffer.getvalue()


def write_report(folder: Path, results: Results) -> list[Path]:
    """Write the page, the tables, the numbers and the pictures into `folder`.

    Returns:
        The files that changed; a second run over the same images changes none.

    Raises:
        OutputError: If the folder cannot be written.
    """
    evaluation = results.evaluation
    intervals = intervals_of(evaluation) if evaluation else {}
    tables = results.tables(intervals)
    contents: dict[str, bytes] = {
        SUMMARY_FILE: json_bytes(summary(results, intervals)),
        TABLE_FILE: "\n".join(map(markdown, tables)).encode(),
    }
    drawn: list[pictures.Drawing] = []
    if evaluation and evaluation.rows:
        contents[ROWS_FILE] = per_image_csv(evaluation).encode()
        drawn.append(pictures.picture(results.plan, evaluation))
    if results.objects and results.objects.rows:
        contents[OBJECTS_FILE] = objects_csv(results.objects).encode()
        drawn += pictures.object_picture(
            results.plan, results.objects, with_truth=evaluation is not None
        )
    contents |= {drawing.file: drawing.png for drawing in drawn}
    contents[PAGE_FILE] = page.page(results, tables, drawn).encode()
    return [
        folder / name for name, data in contents.items() if write_if_changed(folder / name, data)
    ]


def json_bytes(value: Any, indent: int | None = 2) -> bytes:
    """Return strict JSON with a final newline; NaN and infinity are refused."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def write_if_changed(path: Path, data: bytes) -> bool:
    """Write `data` unless `path` already holds it; return whether it was written."""
    if path.is_file() and path.read_bytes() == data:
        return False
    write_bytes(path, data)
    return True
