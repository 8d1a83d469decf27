"""The results of a study as one table: mean and spread over the seeds."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from v2ir.ablation.settings import AblationSettings
from v2ir.ablation.studies import Study
from v2ir.ablation.trials import Result, Trial
from v2ir.evaluation import SCORES
from v2ir.evaluation.metrics import Rule
from v2ir.evaluation.report import json_bytes, write_if_changed
from v2ir.evaluation.tables import DASH, EVERYTHING, Cell, Table, markdown
from v2ir.training.recipes.budget import num_images

Results = Mapping[str, Sequence[Result]]
"""Results of each row, by its name."""


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation over seeds (n - 1 in the denominator); NaN for one."""
    return statistics.stdev(values) if len(values) > 1 else math.nan


def table_of_results(study: Study, results: Results, floor: Result | None = None) -> Table:
    """Lay out mean and spread over the seeds; rows that are not done yet have dashes.

    The best of each column is marked among the study's rows; the floor is no row of it.
    """
    columns: list[tuple[Rule, dict[str, list[float]]]] = []
    name = next((r.frechet_name for rows in results.values() for r in rows if r.frechet_name), None)
    if name:
        found = {
            row: [r.frechet for r in rows if r.frechet is not None] for row, rows in results.items()
        }
        columns.append((Rule("lower", name, 2), found))
    columns += [
        (SCORES[metric], {row: _values(found, metric) for row, found in results.items()})
        for metric in study.scores
    ]
    rows = [
        (
            row.name,
            (
                *((Cell(mark),) for mark in row.marks),
                *((_cell(rule, values.get(row.name, ()), values),) for rule, values in columns),
            ),
        )
        for row in study.rows
    ]
    if floor is not None:
        own = [floor.frechet] if name else []
        own += [floor.means[EVERYTHING].get(metric) for metric in study.scores]
        texts = [
            DASH if value is None else f"{value:.{rule.digits}f}"
            for value, (rule, _) in zip(own, columns, strict=True)
        ]
        blank = [(Cell(DASH),)] * len(study.heads)
        rows.append((floor.row, (*blank, *((Cell(text),) for text in texts))))
    return Table(
        title=study.name,
        columns=(*study.heads, *(rule.label for rule, _ in columns)),
        rows=tuple(rows),
        caption=_caption(study, results),
    )


def _values(results: Sequence[Result], metric: str) -> list[float]:
    found = [result.means[EVERYTHING].get(metric) for result in results]
    return [value for value in found if value is not None]


def _cell(rule: Rule, values: Sequence[float], others: Mapping[str, Sequence[float]]) -> Cell:
    if not values:
        return Cell(DASH)
    means = {round(statistics.fmean(found), rule.digits) for found in others.values() if found}
    order = sorted({rule.badness(mean) for mean in means})
    own = rule.badness(round(statistics.fmean(values), rule.digits))
    text = f"{statistics.fmean(values):.{rule.digits}f}"
    if len(values) > 1:
        text += f" ± {spread(values):.{rule.digits}f}"
    return Cell(text, own == order[0], len(order) > 1 and own == order[1])


def _caption(study: Study, results: Results) -> str:
    seeds = {len(rows) for rows in results.values()} or {0}
    images = {result.images for rows in results.values() for result in rows} or {0}
    number = " or ".join(map(str, sorted(seeds)))
    what = "trained and sampled" if study.trains_each else "sampled"
    return (
        f"{' or '.join(map(str, sorted(images)))} images; mean and standard deviation over "
        f"{number} seeds, each {what} anew."
    )


def summary(
    study: Study, trials: Sequence[Trial], results: Results, floor: Result | None
) -> dict[str, Any]:
    """Return everything that was measured with what each row was trained for."""
    settings: AblationSettings = trials[0].settings
    rows = []
    for row in study.rows:
        recipe = next(trial.recipe for trial in trials if trial.row.name == row.name)
        found = results.get(row.name, ())
        scores = {metric: _values(found, metric) for metric in SCORES}
        rows.append(
            {
                "name": row.name,
                "marks": dict(zip(study.heads, row.marks, strict=False)),
                "sampling": row.sampling.to_json(),
                "training images": num_images(recipe) if recipe else None,
                "steps": {s.name: s.steps for s in recipe.stages} if recipe else None,
                "seeds": [result.seed for result in found],
                "mean": {m: statistics.fmean(v) for m, v in scores.items() if v},
                "spread": {m: spread(v) for m, v in scores.items() if len(v) > 1},
                "frechet": [result.frechet for result in found],
            }
        )
    return {
        "study": study.name,
        "budget in training images": settings.images,
        "selection": settings.selection.to_json(),
        "rows": rows,
        "floor": floor.to_json() if floor else None,
    }


def rows_csv(results: Results, floor: Result | None) -> str:
    """Return one line a row, seed and style: every score."""
    found = [result for rows in results.values() for result in rows]
    found += [floor] if floor else []
    metrics = [m for m in SCORES if any(m in r.means[EVERYTHING] for r in found)]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["row", "seed", "style", "images", *metrics, "frechet"])
    for result in found:
        for style, means in result.means.items():
            values = [means.get(metric) for metric in metrics]
            values.append(result.frechet if style == EVERYTHING else None)
            texts = ["" if value is None else f"{value:.6f}" for value in values]
            number = result.images if style == EVERYTHING else ""
            writer.writerow([result.row, result.seed, style, number, *texts])
    return buffer.getvalue()


def write_tables(
    study: Study, trials: Sequence[Trial], results: Results, floor: Result | None
) -> list[Path]:
    """Write table.md, table.json and table.csv; return the files that changed."""
    contents = {
        "table.md": markdown(table_of_results(study, results, floor)).encode(),
        "table.json": json_bytes(summary(study, trials, results, floor)),
        "table.csv": rows_csv(results, floor).encode(),
    }
    folder = trials[0].settings.out_dir
    return [
        folder / name for name, data in contents.items() if write_if_changed(folder / name, data)
    ]
