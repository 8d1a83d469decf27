"""The verb `v2ir check`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from v2ir.cli.console import console, progress_bar

if TYPE_CHECKING:
    from v2ir.data.alignment_trial import TrialRow
    from v2ir.records import Finding

MAX_LISTED = 5
ANNOTATIONS = "annotations"
_COLOURS = {"error": "bold red", "warning": "yellow", "note": "dim"}


def command(
    data: Path = typer.Argument(..., metavar="DATA", help="Folder of an indexed data set."),
    skip: list[str] = typer.Option(
        [],
        help="A check to leave out; repeatable: unreadable, stale, sizes, leakage, duplicates, "
        "alignment (the slowest), one-sided, blank, maps, masks, annotations.",
    ),
    show_all: bool = typer.Option(False, "--all", help="List every finding of a kind."),
    as_json: bool = typer.Option(False, "--json", help="Print the findings as lines of JSON."),
    alignment_trial: bool = typer.Option(
        False,
        "--alignment-trial",
        help="Check nothing; measure how well misaligned pairs of DATA are told from others.",
    ),
) -> None:
    """Say what is wrong with a data set, and what to do about each thing.

    Finds near-duplicates across splits, misaligned or mismatched pairs, pairs of unequal
    size, unreadable, duplicate, one-sided and blank images, files that changed since they
    were indexed, and captions, maps and thermal masks that say nothing. Exit status 1 if
    any of it is an error.

    Example: v2ir check data --skip alignment
    """
    if alignment_trial:
        _print_trial(data)
        return
    findings = _findings(data, skip)
    if as_json:
        for finding in findings:
            typer.echo(json.dumps(finding.to_json(), ensure_ascii=False))
    else:
        _show(findings, len(findings) if show_all else MAX_LISTED)
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)


def _findings(data: Path, skip: Sequence[str]) -> list[Finding]:
    """Look at the data set and at its annotations; each map is reported once."""
    from v2ir.annotation import check_annotations
    from v2ir.data import check

    with progress_bar("check") as progress:
        left_out = [name for name in skip if name != ANNOTATIONS]
        findings = check(data, skip=left_out, progress=progress)
    if ANNOTATIONS in skip:
        return findings
    reported = {finding.where for finding in findings if finding.kind == "empty map"}
    with progress_bar("annotations") as progress:
        found = check_annotations(data, progress=progress)
    grave = {"error": 0, "warning": 1, "note": 2}
    findings += [f for f in found if f.kind != "empty map" or f.where not in reported]
    return sorted(findings, key=lambda finding: grave[finding.severity])


def _show(findings: Sequence[Finding], most: int) -> None:
    kinds = dict.fromkeys((f.severity, f.kind, f.do) for f in findings)
    for severity, kind, do in kinds:
        same = [f for f in findings if (f.severity, f.kind, f.do) == (severity, kind, do)]
        console.print(
            f"{severity}: {kind} ({len(same)})", style=_COLOURS[severity], highlight=False
        )
        for finding in same[:most]:
            _line(f"  {finding.what}")
        if len(same) > most:
            _line(f"  ... and {len(same) - most} more (--all lists them)")
        _line(f"  to do: {do}")
    errors = sum(finding.severity == "error" for finding in findings)
    _line(
        f"{errors} errors, {len(findings) - errors} other findings" if findings else "all is well"
    )


def _line(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _print_trial(data: Path) -> None:
    from v2ir.data.alignment_trial import trial

    with progress_bar("alignment trial") as progress:
        rows = trial(data, progress=progress)
    typer.echo("| pairs | number | aligned | shifted | doubtful | AUC | shift found |")
    typer.echo("|---|---|---|---|---|---|---|")
    for row in rows:
        typer.echo(_trial_line(row))


def _trial_line(row: TrialRow) -> str:
    def cell(value: float | None, digits: int) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    shares = (cell(share, 3) for share in (row.aligned, row.shifted, row.doubtful))
    cells = [row.pairs, str(row.number), *shares, cell(row.auc, 4), cell(row.exact, 3)]
    return f"| {' | '.join(cells)} |"
