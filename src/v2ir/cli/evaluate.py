"""The verb `v2ir evaluate`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from v2ir.cli.console import console, list_failures, progress_bar
from v2ir.errors import InputError

if TYPE_CHECKING:
    from v2ir.evaluation.comparison import Evaluation, Plan
    from v2ir.evaluation.context import Context
    from v2ir.evaluation.statistics import Reference

STATISTICS_FILE = "training_statistics.json"
PICTURE_FILE = "pictures.png"
MAX_LISTED = 20
PIPE_WIDTH = 200


def command(
    predictions: Path = typer.Argument(
        ..., metavar="PRED", help="Folder of predicted infrared images (or one image)."
    ),
    truth: Path = typer.Argument(
        ..., metavar="TRUE", help="Folder of true infrared images (or one), or the data set."
    ),
    data: Path | None = typer.Option(
        None, help="Indexed data set: gives splits, styles, photographs and training statistics."
    ),
    split: str | None = typer.Option(
        None, help="With --data: train, val, test or all; test if not given."
    ),
    alignment: str | None = typer.Option(
        None, help="With --data: only pairs of this alignment, such as strict."
    ),
    methods: list[str] = typer.Option(
        [], metavar="NAME=FOLDER", help="Another method's images for the same table; repeatable."
    ),
    visible: Path | None = typer.Option(
        None, help="Without --data: folder of photographs, for the baselines."
    ),
    reference: Path | None = typer.Option(
        None, help="Without --data: folder of the training set's infrared images."
    ),
    report: Path | None = typer.Option(
        None, help="Write per_image.csv, summary.json, table.md and pictures.png here."
    ),
    workers: int | None = typer.Option(None, min=1, help="Threads; one a core if not given."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would be compared."),
) -> None:
    """Measure predicted infrared images against the true ones, with baselines beside them.

    Images belong together when their names are equal up to the extension. Baselines
    (grey, inverted, histogram-matched, constant) need --data, or --visible and
    --reference. Every row of a table is a mean over the same images.

    Example: v2ir evaluate out/ data/ir --data data --alignment strict --report report/
    """
    from v2ir.evaluation import comparison

    context = _context(data, visible, reference, split, alignment, truth)
    folders = {comparison.PREDICTION: predictions, **_named_folders(methods)}
    plan = comparison.plan_comparison(folders, truth, context)
    if dry_run:
        _show_plan(plan, report)
        return list_failures(plan.failures)
    statistics, unread = _statistics(context, report)
    with progress_bar("compare") as progress:
        result = comparison.evaluate(plan, statistics, workers=workers, progress=progress)
    if report is not None and result.rows:
        _write(report, plan, result)
    if result.rows:
        _show(result)
    return list_failures([*unread, *result.failures])


def _context(
    data: Path | None,
    visible: Path | None,
    reference: Path | None,
    split: str | None,
    alignment: str | None,
    truth: Path,
) -> Context:
    from v2ir.evaluation import context

    if data is None and (truth / context.SCENES_FILE).is_file():
        data = truth
    if data is not None:
        if visible or reference:
            raise InputError("--data already gives what --visible and --reference give")
        return context.context_of_data(data, context.Selection(split or "test", alignment))
    if split or alignment:
        raise InputError("--split and --alignment select from a data set", do="add --data FOLDER")
    if visible and reference:
        return context.context_of_folders(visible, reference)
    if visible or reference:
        raise InputError("the baselines need --visible and --reference", do="give both or --data")
    return context.Context()


def _named_folders(methods: Sequence[str]) -> dict[str, Path]:
    """Split each NAME=FOLDER; names must differ."""
    from v2ir.evaluation.comparison import PREDICTION

    found: dict[str, Path] = {}
    for text in methods:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder) or name in found or name == PREDICTION:
            raise InputError(
                "a method is NAME=FOLDER with a name of its own",
                got=text,
                do=f"for instance --methods pix2pix=outputs/pix2pix; {PREDICTION!r} is taken",
            )
        found[name] = Path(folder)
    return found


def _statistics(
    context: Context, report: Path | None
) -> tuple[Reference | None, list[tuple[str, str]]]:
    """Take the training statistics from the report of an earlier run, or count them."""
    from v2ir.evaluation import report as reports
    from v2ir.evaluation import statistics

    if not context.has_baselines:
        return None, []
    path = report / STATISTICS_FILE if report else None
    if path and (known := statistics.cached_reference(path, context.training)):
        return known, []
    with progress_bar("training statistics") as progress:
        found, unread = statistics.measure_reference(context.training, progress)
    # With unread images the result is not what its key promises, so it is not kept.
    if path and not unread:
        reports.write_if_changed(path, reports.json_bytes(found.to_json(), indent=None))
    return found, unread


def _show_plan(plan: Plan, report: Path | None) -> None:
    typer.echo(f"would compare {len(plan.cases)} images of: {', '.join(plan.methods)}")
    baselines = "with" if plan.context.has_baselines else "without"
    typer.echo(f"{baselines} baselines, {len(plan.context.training)} training images")
    _list_extra(plan.extra)
    if report:
        typer.echo(f"would write a report into {report}")


def _list_extra(extra: Sequence[str]) -> None:
    if extra:
        more = f" and {len(extra) - MAX_LISTED} more" if len(extra) > MAX_LISTED else ""
        typer.echo(
            f"{len(extra)} predictions without a truth: {', '.join(extra[:MAX_LISTED])}{more}"
        )


def _show(result: Evaluation) -> None:
    """Print the tables; the best of each column is bold."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from v2ir.evaluation import report as reports

    # Into a file or a pipe goes the whole width; a narrow terminal wraps inside the cells.
    output = Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)
    for metrics in reports.TABLES:
        table = reports.make_table(result, metrics)
        shown = Table(title=table.title, title_justify="left", box=box.SIMPLE_HEAD)
        shown.add_column("", no_wrap=True)
        for column in table.columns:
            shown.add_column(column, justify="right")
        for method, columns in table.rows:
            cells = [
                Text(" / ").join(Text(c.text, style="bold" if c.is_best else "") for c in cell)
                for cell in columns
            ]
            shown.add_row(method, *cells)
        output.print(shown)
    for note in result.notes:
        typer.echo(f"note: {note}")
    _list_extra(result.extra)


def _write(folder: Path, plan: Plan, result: Evaluation) -> None:
    from v2ir.evaluation import pictures
    from v2ir.evaluation import report as reports

    changed = reports.write_report(folder, result)
    picture = folder / PICTURE_FILE
    if reports.write_if_changed(picture, pictures.picture(plan, result)):
        changed.append(picture)
    for path in changed:
        console.print(f"wrote {path}", highlight=False, markup=False)
    if not changed:
        console.print(f"the report in {folder} is up to date", highlight=False, markup=False)
