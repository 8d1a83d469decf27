"""The verb `v2ir ablate`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from v2ir.cli._evaluate_output import PIPE_WIDTH, show_table
from v2ir.cli.console import console, list_failures, progress_bar
from v2ir.errors import InputError
from v2ir.records import Progress

if TYPE_CHECKING:
    from v2ir.ablation import AblationReport, AblationSettings, Study


def command(
    recipes: str = typer.Argument(
        ..., help="table3, table4, or names and JSON files of recipes with commas between."
    ),
    data: Path = typer.Argument(..., help="Data set folder, indexed and annotated."),
    out: Path = typer.Argument(..., help="Folder of the study; the same command continues it."),
    base: str = typer.Option("mini", help="Recipe that table3 and table4 vary."),
    seeds: int = typer.Option(3, min=1, help="Number of seeds of each row."),
    budget: int | None = typer.Option(
        None, min=1, help="Training images of each row; by default the base recipe's own."
    ),
    steps_scale: float | None = typer.Option(
        None, min=1e-6, help="Budget as a multiple of the base recipe's own."
    ),
    autoencoder: str | None = typer.Option(
        None, help="Take the autoencoder of this model instead of training one first."
    ),
    start_from: str | None = typer.Option(None, "--from", help="Model that every row starts from."),
    model: str | None = typer.Option(
        None, help="With table4: sample this model instead of training one."
    ),
    split: str = typer.Option("test", help="Split to measure on: train, val or test."),
    alignment: str | None = typer.Option(None, help="Only pairs of this alignment."),
    limit: int | None = typer.Option(None, min=1, help="Measure on this many images only."),
    features: str | None = typer.Option(
        None, help="Frechet distance on this network, such as efficientnet-lite0."
    ),
    cache: Path | None = typer.Option(None, help="Folder of the latent cache; OUT/cache."),
    device: str = typer.Option("auto", help="Where to translate: auto, cpu, cuda, ..."),
    dry_run: bool = typer.Option(False, help="Say what would be trained, and write nothing."),
) -> None:
    """Train and measure rows that differ in one thing, with equal budgets and several seeds.

    Ready-made lists are the paper's Table 3 (phases, map, caption) and Table 4 (steps and
    guidance scales of one model). OUT/table.md, table.json and table.csv hold mean and
    spread; more seeds may be asked for later.

    Example: `v2ir ablate table3 data ablation --steps-scale 0.1 --autoencoder mini`
    """
    from v2ir.ablation import AblationSettings
    from v2ir.cli.translate import find_device
    from v2ir.evaluation.context import Selection

    study, images, scale = _study(recipes, base, budget, steps_scale)
    settings = AblationSettings(
        data_dir=data,
        out_dir=out,
        seeds=tuple(range(seeds)),
        images=images,
        scale=scale,
        selection=Selection(split, alignment),
        limit=limit,
        autoencoder=autoencoder,
        start_from=start_from,
        model=model,
        cache_dir=cache,
        features=features,
        device=find_device(device),
    )
    _run(study, settings, dry_run=dry_run)


def _study(
    recipes: str, base: str, budget: int | None, steps_scale: float | None
) -> tuple[Study, int, float]:
    """Return the study, and its budget in images and as a multiple of the base's own.

    Raises:
        InputError: If the budget is given twice.
    """
    from v2ir.ablation import study_of
    from v2ir.training import load_recipe
    from v2ir.training.recipes.budget import num_images

    if budget is not None and steps_scale is not None:
        raise InputError("--budget and --steps-scale say the same", do="give one of them")
    known = load_recipe(base)
    own = max(1, num_images(known))
    images = budget or max(1, round(own * (steps_scale or 1.0)))
    words = [word.strip() for word in recipes.split(",")]
    return study_of(words, known, load_recipe), images, images / own


def _run(study: Study, settings: AblationSettings, *, dry_run: bool) -> None:
    from v2ir.ablation import ablate, describe

    if dry_run:
        for line in describe(study, settings):
            typer.echo(line)
        return
    with contextlib.ExitStack() as bars:
        report = ablate(study, settings, _bars(bars))
    _show(report)


def _bars(bars: contextlib.ExitStack) -> Callable[[str], Progress]:
    def open_bar(what: str) -> Progress:
        bars.close()
        return bars.enter_context(progress_bar(what))

    return open_bar


def _show(report: AblationReport) -> None:
    from rich.console import Console

    output = Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)
    show_table(output, report.table)
    console.print(f"{report.made} trials run, {report.kept} kept from before", highlight=False)
    for path in report.changed:
        console.print(f"wrote {path}", highlight=False, markup=False)
    list_failures(report.failures)
