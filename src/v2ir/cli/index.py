"""The verb `v2ir index`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from v2ir.cli.console import console, list_failures, progress_bar
from v2ir.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from v2ir.data import IndexReport


def command(
    data: Path = typer.Argument(..., metavar="DATA", help="Folder with rgb/ and ir/, or a source."),
    into: Path | None = typer.Option(
        None, help="Leave DATA as it is and make a data set of links to its files here."
    ),
    layout: str = typer.Option(
        "folders", help="Shape of DATA: folders (rgb/, ir/), infrared or visible (flat folders)."
    ),
    groups: Path | None = typer.Option(
        None, help="CSV table: name, group, split, style, alignment; DATA/scenes.csv by default."
    ),
    style: str | None = typer.Option(None, help="Name of the infrared camera's look, for all."),
    style_from: str | None = typer.Option(
        None, metavar="prefix|folder", help="Take the style from the start of the name."
    ),
    split_by: str = typer.Option(
        "auto",
        help="auto (table, else sequences, else look-alikes), sequence, cluster, list, random.",
    ),
    val: float = typer.Option(0.05, help="Share of the scenes for validation."),
    test: float = typer.Option(0.05, help="Share of the scenes for testing."),
    seed: int = typer.Option(0, help="Another seed, another drawing of the splits."),
    redraw: bool = typer.Option(False, "--redraw", help="Draw the splits of known scenes anew."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what was found; write nothing."),
) -> None:
    """Find the scenes of a data set and write DATA/scenes.jsonl.

    Every image is read once. Scenes that belong together never come into two splits, and
    scenes that are known keep their split.

    Example: v2ir index photos --into data --style-from prefix
    """
    from v2ir.data import STYLE_RULES, SplitRule, index

    if style and style_from:
        raise InputError("both --style and --style-from were given", do="give one of them")
    if style_from is not None and style_from not in STYLE_RULES:
        raise UnknownNameError.of("rule for styles", style_from, STYLE_RULES)
    with progress_bar("index") as progress:
        report = index(
            into or data,
            source=data if into else None,
            layout=layout,
            groups=groups,
            style=STYLE_RULES[style_from] if style_from else style,
            split=SplitRule(by=split_by, val=val, test=test, seed=seed, redraw=redraw),
            dry_run=dry_run,
            progress=progress,
        )
    _show(report, dry_run=dry_run)
    list_failures(report.failures)


def _show(report: IndexReport, *, dry_run: bool) -> None:
    """Print scenes by split, style and kind, and what was done."""
    console.print(_table(report), highlight=False)
    if report.kept:
        console.print(
            f"{report.kept} scenes were known and keep their split (--redraw draws anew)",
            highlight=False,
        )
    if report.dropped:
        names = ", ".join(report.dropped[:3]) + (", ..." if len(report.dropped) > 3 else "")
        console.print(
            f"{len(report.dropped)} scenes have no image any more and were taken out: {names}",
            markup=False,
            highlight=False,
        )
    done = "would change" if dry_run else "written"
    state = done if report.changed else "is up to date"
    console.print(f"{report.path} {state}", markup=False, highlight=False, soft_wrap=True)


def _table(report: IndexReport) -> Table:
    from v2ir.data import kind_of
    from v2ir.records import SPLITS

    counts = Counter((s.style or "-", kind_of(s), s.split) for s in report.scenes)
    groups = {split: {s.group for s in report.scenes if s.split == split} for split in SPLITS}
    table = Table(box=None)
    for column in ("style", "images"):
        table.add_column(column)
    for split in SPLITS:
        table.add_column(split, justify="right")
    for style, kind in sorted({key[:2] for key in counts}):
        table.add_row(style, kind, *(str(counts[style, kind, split] or "") for split in SPLITS))
    totals = [str(sum(s.split == split for s in report.scenes)) for split in SPLITS]
    table.add_row("all", "scenes", *totals, style="bold")
    table.add_row("", "scene groups", *(str(len(groups[split])) for split in SPLITS))
    return table
