"""The verb `v2ir annotate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from v2ir.cli._cluster import annotating_cluster, cluster_option
from v2ir.cli.console import console, list_failures, progress_bar
from v2ir.errors import InputError

if TYPE_CHECKING:
    from v2ir.annotation import AnnotationReport, ImportReport

MOST_STRANGERS = 3
FORCE_HELP = (
    "Make everything again, your own included; with --captions, --segmentations or "
    "--thermal-masks, take these in place of your own that are there."
)


def command(
    data: Path = typer.Argument(..., metavar="DATA", help="Folder of an indexed data set."),
    captioner: str = typer.Option(
        "statistics",
        metavar="NAME|none",
        help="Captioner: statistics, blip-base, blip:HUB_NAME_OR_FOLDER, vlm:..., or none.",
    ),
    segmenter: str = typer.Option(
        "regions",
        metavar="NAME|none",
        help="Segmenter: regions, sam-huge, sam:HUB_NAME_OR_FOLDER, or none.",
    ),
    thermal_mask: str = typer.Option(
        "none",
        metavar="METHOD|none",
        help="Thermal masks of the infrared images: otsu, percentile or local-contrast.",
    ),
    sampling: str | None = typer.Option(None, help="Words of captions: greedy or nucleus."),
    number: int | None = typer.Option(None, min=1, help="Captions an image, with nucleus."),
    style: str | None = typer.Option(
        None, help="Fields instead of a sentence, worded plain, long, or by your template."
    ),
    rendering: str | None = typer.Option(
        None, help="Maps of SAM and of mask folders: union, boundaries or regions."
    ),
    captions: Path | None = typer.Option(
        None, help="Take your captions: folder of NAME.txt, .jsonl, .csv, or COCO .json."
    ),
    segmentations: Path | None = typer.Option(
        None, help="Take your maps: folder of NAME.png, or of SAM's folders NAME/0.png, ..."
    ),
    thermal_masks: Path | None = typer.Option(
        None, help="Take your thermal masks: folder of NAME.png or NAME_mask.jpg."
    ),
    export: str | None = typer.Option(
        None, metavar="LAYOUT", help="Then write maps (diffv2ir) or captions (txt2ir) as they do."
    ),
    into: Path | None = typer.Option(None, help="Folder of the export."),
    batch_size: int = typer.Option(8, min=1, help="Images that an annotator gets at once."),
    device: str = typer.Option("auto", help="auto, cpu, cuda, cuda:1, mps, ..."),
    cluster: str | None = cluster_option(),
    force: bool = typer.Option(False, "--force", help=FORCE_HELP),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would be made; write nothing."),
) -> None:
    """Make captions, segmentation maps and thermal masks once, and again where they are stale.

    Captions go to DATA/captions.jsonl, maps to DATA/seg/NAME.png. Your own captions
    (DATA/captions/NAME.txt) and maps are taken as they are. Images without a visible side
    need neither. Thermal masks are made of the infrared images if you ask for them, and go
    to DATA/mask/NAME.png.

    Example: v2ir annotate data --captioner blip-base --segmenter sam-base --device cuda

    Example: v2ir annotate data --thermal-mask percentile,percent=90,softness=0.1

    Example: v2ir annotate data --thermal-masks TxT2IR/train/mask
    """
    _check_options(export, into, bool(rendering) and segmentations is None, segmenter)
    words = with_options(captioner, sampling=sampling, number=number, style=style)
    maps = with_options(segmenter, rendering=rendering if segmenter_draws(segmenter) else None)
    failures = _take_own(data, captions, segmentations, rendering, force, dry_run)
    failures += _take_masks(data, thermal_masks, force, dry_run)
    # What was just taken must not be made again in the same breath.
    anew = force and captions is None and segmentations is None and thermal_masks is None
    # Cheap, and so first: a method that does not exist is told before hours of captioning.
    failures += _make_masks(data, thermal_mask, anew, dry_run)
    failures += _make(data, words, maps, batch_size, device, cluster, anew, dry_run)
    if export is not None and into is not None:
        _export(data, into, export, dry_run)
    list_failures(failures)


def with_options(name: str, **options: object) -> str:
    """Add the options that were given to an annotator's name."""
    given = {key: value for key, value in options.items() if value is not None}
    if given and name == "none":
        raise InputError(f"--{next(iter(given))} has no effect", got="none", do="drop it")
    if "style" in given:
        given = {"structured": "true", **given}
    return ",".join([name, *(f"{key}={value}" for key, value in given.items())])


def segmenter_draws(name: str) -> bool:
    """Whether a segmenter offers renderings; `--rendering` may also be for mask folders."""
    from v2ir.annotation import SEGMENTERS

    return name != "none" and name not in SEGMENTERS


def _check_options(export: str | None, into: Path | None, must_draw: bool, segmenter: str) -> None:
    """Refuse options without effect; `must_draw`: only a segmenter can draw a rendering."""
    if (export is None) != (into is None):
        raise InputError("--export and --into belong together", do="give both or neither")
    if must_draw and not segmenter_draws(segmenter):
        raise InputError(
            "--rendering has no effect here",
            got=f"--segmenter {segmenter}",
            do="it is for SAM and for folders of masks; drop it",
        )


def _take_own(
    data: Path,
    captions: Path | None,
    segmentations: Path | None,
    rendering: str | None,
    force: bool,
    dry_run: bool,
) -> list[tuple[str, str]]:
    from v2ir.annotation import import_captions, import_segmentations

    failures: list[tuple[str, str]] = []
    if captions is not None:
        taken = import_captions(data, captions, force=force, dry_run=dry_run)
        _show_taken("captions", captions, taken, dry_run)
    if segmentations is not None:
        with progress_bar("maps") as progress:
            taken = import_segmentations(
                data,
                segmentations,
                rendering=rendering or "union",
                force=force,
                dry_run=dry_run,
                progress=progress,
            )
        _show_taken("maps", segmentations, taken, dry_run)
        failures += taken.failures
    return failures


def _take_masks(
    data: Path, source: Path | None, force: bool, dry_run: bool
) -> list[tuple[str, str]]:
    from v2ir.annotation import import_masks

    if source is None:
        return []
    with progress_bar("thermal masks") as progress:
        taken = import_masks(data, source, force=force, dry_run=dry_run, progress=progress)
    _show_taken("thermal masks", source, taken, dry_run)
    return list(taken.failures)


def _show_taken(what: str, source: Path, report: ImportReport, dry_run: bool) -> None:
    verb = "to take" if dry_run else "taken"
    _line(f"{what} from {source}: {report.taken} {verb}, {report.kept} already there")
    if report.strangers:
        some = ", ".join(report.strangers[:MOST_STRANGERS])
        _line(f"  {len(report.strangers)} belong to no scene, such as {some}")


def _make(
    data: Path,
    captioner: str,
    segmenter: str,
    batch_size: int,
    device: str,
    cluster: str | None,
    force: bool,
    dry_run: bool,
) -> list[tuple[str, str]]:
    from v2ir.annotation import annotate

    spread = None
    if cluster is None:
        where = annotator_device(device, captioner, segmenter)
    else:
        from v2ir.cluster.annotating import annotate_spread

        machines = annotating_cluster(cluster, device, captioner, segmenter, dry_run=dry_run)
        where, spread = machines.device, annotate_spread(machines)
    with progress_bar("annotate") as progress:
        report = annotate(
            data,
            captioner=None if captioner == "none" else captioner,
            segmenter=None if segmenter == "none" else segmenter,
            force=force,
            dry_run=dry_run,
            batch_size=batch_size,
            device=where,
            progress=progress,
            spread=spread,
        )
    _show_made(report, captioner, segmenter, "to make" if dry_run else "made")
    return list(report.failures)


def _make_masks(data: Path, method: str, force: bool, dry_run: bool) -> list[tuple[str, str]]:
    from v2ir.annotation import make_masks

    if method == "none":
        return []
    with progress_bar("thermal masks") as progress:
        report = make_masks(data, method, force=force, dry_run=dry_run, progress=progress)
    counts, verb = report.masks, "to make" if dry_run else "made"
    _line(
        f"thermal masks by {method}: {counts.made} {verb}, "
        f"{counts.kept} already there, {counts.own} your own"
    )
    if report.hot is not None:
        _line(f"  {100 * report.hot:.1f} % of their pixels are hot")
    if report.visible_only:
        _line(f"{report.visible_only} scenes without an infrared image need none")
    return list(report.failures)


def annotator_device(device: str, *names: str) -> str:
    """Return where the networks of annotators run; torch is asked only if there are any.

    Raises:
        InputError: If there is no such device here.
    """
    from v2ir.annotation import CAPTIONERS, SEGMENTERS

    if all(name in {"none", *CAPTIONERS, *SEGMENTERS} for name in names):
        return "cpu"
    from v2ir.cli.translate import find_device

    return find_device(device)


def _show_made(report: AnnotationReport, captioner: str, segmenter: str, verb: str) -> None:
    rows = (("captions", captioner, report.captions), ("maps", segmenter, report.segmentations))
    for what, annotator, counts in rows:
        if annotator == "none":
            continue
        _line(
            f"{what} by {annotator}: {counts.made} {verb}, "
            f"{counts.kept} already there, {counts.own} your own"
        )
        if counts.faulty:
            _line(f"  {counts.faulty} of them say nothing and are left out of training")
        if counts.notes:
            _line(f"  {counts.notes} of them without the fields asked for, kept as plain text")
    if report.infrared_only:
        _line(f"{report.infrared_only} infrared-only scenes need none")


def _export(data: Path, into: Path, layout: str, dry_run: bool) -> None:
    from v2ir.annotation import export

    with progress_bar("export") as progress:
        report = export(data, into, layout, dry_run=dry_run, progress=progress)
    verb = "to write" if dry_run else "written"
    _line(
        f"{layout} in {into}: {report.written} {verb}, {report.kept} already there, "
        f"{report.missing} scenes have none"
    )


def _line(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
