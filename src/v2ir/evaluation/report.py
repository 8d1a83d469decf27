"""The result as tables, CSV and JSON. Equal results give equal bytes."""

from __future__ import annotations

import csv
import dataclasses
import importlib.metadata
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from v2ir import __version__
from v2ir.evaluation import METRICS
from v2ir.evaluation.comparison import Evaluation
from v2ir.files import write_bytes

EVERYTHING = "all"
TABLES: tuple[tuple[str, ...], ...] = (
    ("psnr", "ssim"),
    ("mae", "correlation"),
    ("sharpness", "contrast"),
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One metric of one method over one group of images.

    Attributes:
        text: The mean with the digits worth showing, a dash where it is not defined.
        is_best: Whether no other row of the table is better.
    """

    text: str
    is_best: bool


@dataclasses.dataclass(frozen=True)
class Table:
    """Some metrics of all methods by style.

    Attributes:
        title: The metrics, in the order in which a cell shows them.
        columns: Heads after the first column, each with its number of images.
        rows: (method, one tuple of cells a column).
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[Cell, ...], ...]], ...]


def groups(evaluation: Evaluation) -> tuple[str | None, ...]:
    """Return the styles that get a column; None stands for all images together."""
    styles = evaluation.styles
    return (*styles, None) if len(styles) > 1 else (None,)


def make_table(evaluation: Evaluation, metrics: tuple[str, ...]) -> Table:
    """Lay out the means of `metrics`: rows are methods, columns are styles."""
    columns = groups(evaluation)
    # Ties are decided on the digits shown, or of two equal numbers only one would be bold.
    means = {
        (method, metric, style): round(
            evaluation.mean(method, metric, style), METRICS[metric].digits
        )
        for method in evaluation.methods
        for metric in metrics
        for style in columns
    }

    def cell(method: str, metric: str, style: str | None) -> Cell:
        value, rule = means[method, metric, style], METRICS[metric]
        if math.isnan(value):
            return Cell("-", is_best=False)
        best = min(rule.badness(means[m, metric, style]) for m in evaluation.methods)
        return Cell(f"{value:.{rule.digits}f}", is_best=rule.badness(value) == best)

    return Table(
        title=" / ".join(METRICS[metric].label for metric in metrics),
        columns=tuple(f"{s or EVERYTHING} ({evaluation.num_images(s)})" for s in columns),
        rows=tuple(
            (m, tuple(tuple(cell(m, metric, s) for metric in metrics) for s in columns))
            for m in evaluation.methods
        ),
    )


def markdown(table: Table) -> str:
    """Return the table in Markdown; the best of each metric and column is bold."""
    lines = [
        f"| {table.title} | " + " | ".join(table.columns) + " |",
        "|---|" + "---:|" * len(table.columns),
    ]
    for method, columns in table.rows:
        cells = [" / ".join(f"**{c.text}**" if c.is_best else c.text for c in x) for x in columns]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """Return means by method, style and metric with what is needed to compare them.

    Values that JSON cannot hold (the infinite PSNR of equal images, an undefined
    correlation) are null.
    """
    selection = evaluation.selection.to_json() if evaluation.selection else None
    keys = [*evaluation.styles, EVERYTHING]
    return {
        "v2ir": __version__,
        "libraries": {name: importlib.metadata.version(name) for name in ("numpy", "scipy")},
        "selection": selection,
        "names_hash": evaluation.names_hash,
        "images": {key: evaluation.num_images(_style(key)) for key in keys},
        "methods": list(evaluation.methods[: evaluation.num_judged]),
        "baselines": list(evaluation.methods[evaluation.num_judged :]),
        "better": {name: metric.better for name, metric in METRICS.items()},
        "means": {
            method: {
                key: {m: _json_number(evaluation.mean(method, m, _style(key))) for m in METRICS}
                for key in keys
            }
            for method in evaluation.methods
        },
        "failures": [list(failure) for failure in evaluation.failures],
        "extra": list(evaluation.extra),
        "notes": list(evaluation.notes),
    }


def _style(key: str) -> str | None:
    return None if key == EVERYTHING else key


def _json_number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def per_image_csv(evaluation: Evaluation) -> str:
    """Return one line an image and method: name, style, method, then every metric."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["name", "style", "method", *METRICS])
    for row in evaluation.rows:
        writer.writerow([row.name, row.style, row.method, *_csv_numbers(row.scores)])
    return buffer.getvalue()


def _csv_numbers(scores: Mapping[str, float]) -> list[str]:
    return ["" if math.isnan(scores[m]) else f"{scores[m]:.6f}" for m in METRICS]


def write_report(folder: Path, evaluation: Evaluation) -> list[Path]:
    """Write `per_image.csv`, `summary.json` and `table.md` into `folder`.

    Returns:
        The files that changed; a second run over the same images changes none.

    Raises:
        OutputError: If the folder cannot be written.
    """
    tables = [markdown(make_table(evaluation, metrics)) for metrics in TABLES]
    texts = {
        "per_image.csv": per_image_csv(evaluation),
        "summary.json": json_bytes(summary(evaluation)).decode(),
        "table.md": "\n".join(tables),
    }
    return [
        folder / name
        for name, text in texts.items()
        if write_if_changed(folder / name, text.encode())
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
