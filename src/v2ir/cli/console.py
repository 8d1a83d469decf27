"""What every verb shows: a progress bar with an ETA, and the list of failed inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from v2ir import records

console = Console(stderr=True)


@contextlib.contextmanager
def progress_bar(description: str) -> Iterator[records.Progress]:
    """Show a bar while the block runs; yields the function to tell (done, total)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def list_failures(failures: Sequence[tuple[str, str]]) -> None:
    """Print (input, reason) pairs and leave with status 1 if there are any."""
    if not failures:
        return
    console.print(f"{len(failures)} inputs failed:", style="bold red")
    for name, reason in failures:
        console.print(f"  {name}: {reason}", markup=False, highlight=False)
    raise typer.Exit(1)
