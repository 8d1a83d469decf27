"""The numbers as tables that a page, a terminal and Markdown show alike."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from v2ir.evaluation import SCORES
from v2ir.evaluation.cases import TRUTH
from v2ir.evaluation.comparison import Evaluation
from v2ir.evaluation.faithfulness import count_objects
from v2ir.evaluation.intervals import Interval, bootstrap
from v2ir.evaluation.metrics import Rule
from v2ir.evaluation.objects import ObjectReport
from v2ir.evaluation.sets import SetReport

EVERYTHING = "all"
DASH = "-"
TABLES: tuple[tuple[str, ...], ...] = (
    ("psnr", "ssim"),
    ("ms-ssim", "lpips"),
    ("mae", "correlation"),
    ("sharpness", "contrast"),
    ("hot error", "cold error"),
    ("hot contrast", "rank correlation"),
    ("edge agreement", "grey correlation"),
    ("recolouring", "style distance"),
)
SLICED = ("psnr", "ssim")
RANKED = ("psnr", "ssim", "lpips", "rank correlation")
SEED = 0


@dataclasses.dataclass(frozen=True)
class Cell:
    """One number of a table.

    Attributes:
        text: The number with the digits worth showing, a dash where it is not defined.
        is_best: Whether no other row of the table is better.
        is_second: Whether only the best ones are better.
    """

    text: str
    is_best: bool = False
    is_second: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of methods.

    Attributes:
        title: What the cells hold, in the order in which a cell shows it.
        columns: Heads after the first column.
        rows: (head of the row, one tuple of cells a column).
        caption: What a reader should know; empty where the title says it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[Cell, ...], ...]], ...]
    caption: str = ""


Groups = Mapping[str, Collection[str] | None]
"""Names of images by head of column; None stands for all."""


def style_groups(evaluation: Evaluation) -> Groups:
    """Return a group a style, and all images together."""
    if len(evaluation.styles) < 2:
        return {EVERYTHING: None}
    names: dict[str, set[str]] = {style: set() for style in evaluation.styles}
    for row in evaluation.rows:
        names[row.style].add(row.name)
    return {**names, EVERYTHING: None}


def make_table(
    evaluation: Evaluation, metrics: tuple[str, ...], groups: Groups | None = None
) -> Table:
    """Lay out the means of `metrics`: rows are methods, columns are groups of images.

    Where the truth's own value is the good one, it stands in the first row.
    """
    groups = style_groups(evaluation) if groups is None else groups
    methods = evaluation.methods
    if any(SCORES[metric].better == "nearest truth" for metric in metrics):
        methods = (TRUTH, *methods)
    mean = functools.cache(
        lambda method, metric, group: evaluation.mean(method, metric, names=groups[group])
    )

    def cell(method: str, metric: str, group: str) -> Cell:
        values = {m: mean(m, metric, group) for m in evaluation.methods}
        return _cell(
            SCORES[metric], mean(method, metric, group), values, mean(TRUTH, metric, group)
        )

    return Table(
        title=" / ".join(SCORES[metric].label for metric in metrics),
        columns=tuple(
            f"{group} ({evaluation.num_images() if names is None else len(names)})"
            for group, names in groups.items()
        ),
        rows=tuple(
            (m, tuple(tuple(cell(m, metric, g) for metric in metrics) for g in groups))
            for m in methods
        ),
    )


def _cell(rule: Rule, value: float, values: Mapping[str, float], truth: float = math.nan) -> Cell:
    """Write a number; ties are decided on the digits shown, or one of two equals were bold."""
    if math.isnan(value):
        return Cell(DASH)
    badness = sorted(
        {rule.badness(round(v, rule.digits), round(truth, rule.digits)) for v in values.values()}
    )
    own = rule.badness(round(value, rule.digits), round(truth, rule.digits))
    is_second = len(badness) > 1 and own == badness[1]
    text = f"{value:.{rule.digits}f}"
    judged = value in values.values()
    return Cell(text, judged and own == badness[0], judged and is_second)


def score_tables(evaluation: Evaluation) -> list[Table]:
    """Return the tables of all scores that any method has."""
    found = []
    for metrics in TABLES:
        known = tuple(m for m in metrics if any(_has(evaluation, x, m) for x in evaluation.methods))
        if known:
            found.append(make_table(evaluation, known))
    return found


def _has(evaluation: Evaluation, method: str, metric: str) -> bool:
    return not math.isnan(evaluation.mean(method, metric))


def slice_table(evaluation: Evaluation) -> Table | None:
    """Return PSNR and SSIM by condition, such as dark and bright photographs."""
    if not evaluation.slices:
        return None
    return make_table(evaluation, SLICED, evaluation.slices)


def group_table(evaluation: Evaluation, method: str, number: int = 12) -> Table | None:
    """Return the scene groups with several images, those of the lowest SSIM first."""
    names: dict[str, list[str]] = {}
    for name, group in evaluation.groups.items():
        names.setdefault(group, []).append(name)
    several = {group: found for group, found in names.items() if len(found) > 1}
    means = {g: evaluation.mean(method, "ssim", names=found) for g, found in several.items()}
    worst = sorted(means, key=lambda group: (means[group], group))[:number]
    if not worst:
        return None

    def cells(group: str) -> tuple[tuple[Cell, ...], ...]:
        values = {m: evaluation.mean(method, m, names=several[group]) for m in SLICED}
        texts = [f"{values[m]:.{SCORES[m].digits}f}" for m in SLICED]
        return ((Cell(str(len(several[group]))),), *((Cell(text),) for text in texts))

    heads = ("images", *(SCORES[m].label for m in SLICED))
    caption = f"{len(worst)} of {len(several)} scene groups with several images."
    rows = tuple((group, cells(group)) for group in worst)
    return Table(f"worst scene groups of {method}", heads, rows, caption)


def intervals_of(evaluation: Evaluation) -> dict[str, dict[str, Interval]]:
    """Return the mean of each method and score with its bootstrap interval.

    The same resamples serve every method, so that their intervals may be compared.
    """
    metrics = sorted({metric for row in evaluation.rows for metric in row.scores})
    return {
        method: {
            metric: bootstrap(
                evaluation.values(method, metric), evaluation.groups, np.random.default_rng(SEED)
            )
            for metric in metrics
        }
        for method in evaluation.methods
    }


def ranking_table(
    evaluation: Evaluation,
    intervals: Mapping[str, Mapping[str, Interval]],
    sets: SetReport | None = None,
    objects: ObjectReport | None = None,
) -> Table:
    """Rank all methods in one table, as papers do: best bold, second best underlined.

    Rows are in the order of the first column: the Frechet distance where one was
    measured, else PSNR. Means over images carry their 95 % bootstrap interval.
    """
    columns: list[tuple[Rule, dict[str, float], dict[str, str]]] = []
    if sets:
        distances = {score.method: score.frechet for score in sets.scores}
        columns.append((Rule("lower", sets.frechet_name, 2), distances, {}))
    for metric in RANKED:
        found = {m: intervals[m][metric] for m in evaluation.methods if metric in intervals[m]}
        if any(not math.isnan(interval.mean) for interval in found.values()):
            digits = SCORES[metric].digits
            spans = {m: _span(interval, digits) for m, interval in found.items()}
            columns.append((SCORES[metric], {m: i.mean for m, i in found.items()}, spans))
    if objects:
        shares = {m: objects.total(m).kept_share for m in objects.methods}
        columns.append((Rule("higher", "objects kept", 3), shares, {}))
        invented = {m: objects.total(m).invented_share for m in objects.methods}
        columns.append((Rule("lower", "objects invented", 3), invented, {}))
    rule, first, _ = columns[0]
    order = sorted(evaluation.methods, key=lambda m: rule.badness(first.get(m, math.nan)))

    def cells(method: str) -> tuple[tuple[Cell, ...], ...]:
        row = []
        for rule, values, spans in columns:
            cell = _cell(rule, values.get(method, math.nan), values)
            text = f"{cell.text} {spans[method]}" if spans.get(method) else cell.text
            row.append((dataclasses.replace(cell, text=text),))
        return tuple(row)

    return Table(
        title="method",
        columns=tuple(rule.label for rule, _, _ in columns),
        rows=tuple((method, cells(method)) for method in order),
        caption=f"{evaluation.num_images()} images; brackets: 95 % bootstrap over scene groups.",
    )


def _span(interval: Interval, digits: int) -> str:
    if math.isnan(interval.low):
        return ""
    return f"[{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def set_table(sets: SetReport) -> Table:
    """Return the distances of each method's images as a set."""
    rules: tuple[tuple[Rule, Callable[..., float]], ...] = (
        (Rule("lower", sets.frechet_name, 2), lambda score: score.frechet),
        (Rule("lower", f"{sets.kernel_name} x 1000", 2), lambda score: 1000 * score.kernel),
        (Rule("higher", "precision", 3), lambda score: score.precision),
        (Rule("higher", "recall", 3), lambda score: score.recall),
    )
    rows = []
    for score in sets.scores:
        cells = []
        for rule, value in rules:
            cells.append((_cell(rule, value(score), {s.method: value(s) for s in sets.scores}),))
        rows.append((score.method, tuple(cells)))
    if sets.floor:
        floor = tuple((_cell(rule, value(sets.floor), {}),) for rule, value in rules)
        rows.append((f"real half against real half ({sets.num_images // 2})", floor))
    heads = tuple(rule.label for rule, _ in rules)
    caption = f"{sets.num_images} images a set, features of {sets.network} {sets.version}."
    return Table("images as a set", heads, tuple(rows), caption)


def object_table(objects: ObjectReport) -> Table:
    """Return what each method keeps, loses and invents."""
    shares = (Rule("higher", "kept share", 3), Rule("lower", "invented share", 3))
    contrast = Rule("nearest one", "object contrast ratio", 2)
    totals = {method: objects.total(method) for method in objects.methods}
    values = (
        {method: total.kept_share for method, total in totals.items()},
        {method: total.invented_share for method, total in totals.items()},
        {method: objects.contrast(method) for method in objects.methods},
    )

    def cells(method: str) -> tuple[tuple[Cell, ...], ...]:
        total = totals[method]
        counts = [(Cell(str(n)),) for n in (total.kept, total.lost, total.invented)]
        rules = (*shares, contrast)
        found = [(_cell(r, v[method], v),) for r, v in zip(rules, values, strict=True)]
        return (*counts, *found)

    rule = objects.rule
    return Table(
        title=f"objects against the {objects.against}",
        columns=("kept", "lost", "invented", *(r.label for r in shares), contrast.label),
        rows=tuple((method, cells(method)) for method in objects.methods),
        caption=f"Boxes of {objects.source} {objects.version}; score {rule.score:g}, "
        f"overlap {rule.overlap:g}.",
    )


def class_table(objects: ObjectReport, method: str) -> Table:
    """Return what one method keeps, loses and invents of each class."""
    counts = count_objects(objects.objects(method))
    rows = tuple(
        (label, tuple((Cell(str(n)),) for n in (count.kept, count.lost, count.invented)))
        for label, count in counts.items()
    )
    return Table(f"classes: {method}", ("kept", "lost", "invented"), rows)


def markdown(table: Table) -> str:
    """Return the table in Markdown; the best of each column is bold, the second underlined."""
    lines = [
        f"| {_escaped(table.title)} | " + " | ".join(map(_escaped, table.columns)) + " |",
        "|---|" + "---:|" * len(table.columns),
    ]
    for method, columns in table.rows:
        cells = [" / ".join(map(_marked, column)) for column in columns]
        lines.append(f"| {_escaped(method)} | " + " | ".join(cells) + " |")
    if table.caption:
        lines += ["", table.caption]
    return "\n".join(lines) + "\n"


def _marked(cell: Cell) -> str:
    if cell.is_best:
        return f"**{cell.text}**"
    return f"<u>{cell.text}</u>" if cell.is_second else cell.text


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def all_tables(
    evaluation: Evaluation | None,
    sets: SetReport | None = None,
    objects: ObjectReport | None = None,
    intervals: Mapping[str, Mapping[str, Interval]] | None = None,
) -> list[Table]:
    """Return every table that the results fill, the ranking first."""
    found: Sequence[Table | None] = ()
    if evaluation is not None and evaluation.rows:
        spans = intervals_of(evaluation) if intervals is None else intervals
        found = (
            ranking_table(evaluation, spans, sets, objects),
            *score_tables(evaluation),
            slice_table(evaluation),
            group_table(evaluation, evaluation.methods[0]),
        )
    tables = [table for table in found if table is not None]
    tables += [set_table(sets)] if sets else []
    if objects and objects.rows:
        tables += [object_table(objects), class_table(objects, objects.methods[0])]
    return tables
