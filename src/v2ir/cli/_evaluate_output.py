"""How `v2ir evaluate` shows what it found."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from v2ir.cli.console import console

if TYPE_CHECKING:
    from v2ir.evaluation.cases import Plan
    from v2ir.evaluation.results import Results
    from v2ir.evaluation.tables import Table

MAX_LISTED = 20
PIPE_WIDTH = 200


def show_plan(plan: Plan, report: Path | None, extras: Sequence[str]) -> None:
    """Say what would be compared and written."""
    typer.echo(f"would compare {len(plan.cases)} images of: {', '.join(plan.methods)}")
    baselines = "with" if plan.context.has_baselines else "without"
    typer.echo(f"{baselines} baselines, {len(plan.context.training)} training images")
    typer.echo(f"protocol {plan.protocol.name} {plan.protocol.hash[:12]}")
    for line in extras:
        typer.echo(line)
    list_extra(plan.extra)
    if report:
        typer.echo(f"would write a report into {report}")


def list_extra(extra: Sequence[str]) -> None:
    """Name the predictions that have no truth."""
    if extra:
        more = f" and {len(extra) - MAX_LISTED} more" if len(extra) > MAX_LISTED else ""
        typer.echo(
            f"{len(extra)} predictions without a truth: {', '.join(extra[:MAX_LISTED])}{more}"
        )


def show(results: Results) -> None:
    """Print the tables, the notes and what was left out."""
    from rich.console import Console

    # Into a file or a pipe goes the whole width; a narrow terminal wraps inside the cells.
    output = Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)
    for table in results.tables():
        show_table(output, table)
    for note in results.notes:
        typer.echo(f"note: {note}")
    list_extra(results.plan.extra)


def show_table(output: object, table: Table) -> None:
    """Print one table; the best of each column is bold, the second underlined."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(
        title=table.title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        caption=table.caption or None,
        caption_justify="left",
    )
    shown.add_column("", no_wrap=True)
    for column in table.columns:
        shown.add_column(column, justify="right")
    for method, columns in table.rows:
        cells = [
            Text(" / ").join(
                Text(c.text, style="bold" if c.is_best else "underline" if c.is_second else "")
                for c in cell
            )
            for cell in columns
        ]
        shown.add_row(Text(method), *cells)
    assert isinstance(output, Console)
    output.print(shown)


def write(folder: Path, results: Results) -> None:
    """Write the report and name the files that changed."""
    from v2ir.evaluation.report import write_report

    changed = write_report(folder, results)
    for path in changed:
        console.print(f"wrote {path}", highlight=False, markup=False)
    if not changed:
        console.print(f"the report in {folder} is up to date", highlight=False, markup=False)
