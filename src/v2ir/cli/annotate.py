"""The verb `v2ir annotate`."""

from __future__ import annotations

from pathlib import Path

import typer

from v2ir.cli.console import console, list_failures, progress_bar


def command(
    data: Path = typer.Argument(..., metavar="DATA", help="Folder of an indexed data set."),
    captioner: str = typer.Option(
        "statistics", metavar="NAME|none", help="Captioner, or none for no captions."
    ),
    segmenter: str = typer.Option(
        "regions", metavar="NAME|none", help="Segmenter, or none for no maps."
    ),
    batch_size: int = typer.Option(8, min=1, help="Images that an annotator gets at once."),
    force: bool = typer.Option(
        False, "--force", help="Make everything again, your own captions and maps included."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would be made; write nothing."),
) -> None:
    """Make captions and segmentation maps once, and again only where they became stale.

    Captions go to DATA/captions.jsonl, maps to DATA/seg/NAME.png. Your own captions
    (DATA/captions/NAME.txt) and maps are taken as they are. Images without a visible side
    need neither.

    Example: v2ir annotate data
    """
    from v2ir.annotation import annotate

    with progress_bar("annotate") as progress:
        report = annotate(
            data,
            captioner=None if captioner == "none" else captioner,
            segmenter=None if segmenter == "none" else segmenter,
            force=force,
            dry_run=dry_run,
            batch_size=batch_size,
            progress=progress,
        )
    verb = "to make" if dry_run else "made"
    rows = (("captions", captioner, report.captions), ("maps", segmenter, report.segmentations))
    for what, annotator, counts in rows:
        if annotator != "none":
            console.print(
                f"{what} by {annotator}: {counts.made} {verb}, "
                f"{counts.kept} already there, {counts.own} your own",
                highlight=False,
            )
    if report.infrared_only:
        console.print(f"{report.infrared_only} infrared-only scenes need none", highlight=False)
    list_failures(report.failures)
