"""The verb `v2ir train`."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from v2ir.cli._cluster import cluster_option
from v2ir.cli.console import console, progress_bar
from v2ir.errors import InputError
from v2ir.records import Progress

if TYPE_CHECKING:
    from v2ir.training import Recipe
    from v2ir.training.scenes import TrainingScene
    from v2ir.training.train import FillCaches


def command(
    recipe: str = typer.Argument(
        ..., help="Name of a recipe, or a JSON file with one; several with commas between."
    ),
    data: Path = typer.Argument(..., help="Data set folder, indexed and annotated."),
    run: Path = typer.Argument(
        ..., help="Run folder; the same command continues it. Several recipes get one each in it."
    ),
    stages: list[str] = typer.Option([], "--stages", help="Only these stages (repeat)."),
    start_from: str | None = typer.Option(
        None, "--from", help="Model to start from: bundled name, folder or hub name."
    ),
    cache: Path | None = typer.Option(None, help="Folder of the latent cache."),
    fit: str | None = typer.Option(
        None, help="Memory of the device, such as 24GB: choose the savings that make it fit."
    ),
    cluster: str | None = cluster_option(),
    dry_run: bool = typer.Option(False, help="Print the resolved recipe and the scenes."),
) -> None:
    """Train all stages of a recipe, or some of them.

    With --cluster the caches that a stage needs are filled there before it trains here.

    Example: `v2ir train mini data runs/mini`
    """
    from v2ir.training import TrainSettings, load_recipe, train
    from v2ir.training.scenes import training_scenes

    names = [name.strip() for name in recipe.split(",")]
    recipes = [(name, load_recipe(name)) for name in names]
    memory = None if fit is None else read_size(fit)
    lead = os.environ.get("RANK", "0") == "0"
    if lead:
        _show_log()
    for name, resolved in recipes:
        if dry_run:
            _describe(resolved, training_scenes(data))
            continue
        folder = run if len(recipes) == 1 else run / Path(name).stem
        settings = TrainSettings(data, folder, tuple(stages), start_from, cache, memory)
        with contextlib.ExitStack() as bars:
            made = train(resolved, settings, _bars(bars), _filler(cluster))
        if lead:
            console.print(f"model: {made}", highlight=False)


def _show_log() -> None:
    """Print what training tells of itself: plans, and what was measured."""
    from rich.logging import RichHandler

    logger = logging.getLogger("v2ir.training")
    if logger.isEnabledFor(logging.INFO):
        return  # --verbose prints it already
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        logger.addHandler(RichHandler(console=console, show_path=False, show_level=False))


def _filler(cluster: str | None) -> FillCaches | None:
    if cluster is None:
        return None
    from v2ir.cluster import Cluster
    from v2ir.cluster.caching import fill_spread

    return fill_spread(Cluster(cluster))


def _bars(bars: contextlib.ExitStack) -> Callable[[str], Progress]:
    def open_bar(stage: str) -> Progress:
        bars.close()
        return bars.enter_context(progress_bar(stage))

    return open_bar


def _describe(recipe: Recipe, scenes: Sequence[TrainingScene]) -> None:
    from v2ir.training.scenes import scenes_of

    console.print_json(recipe.model_dump_json())
    for stage in recipe.stages:
        number = len(scenes_of(stage, scenes))
        console.print(f"stage {stage.name}: {number} scenes, {stage.steps} steps")


def read_size(text: str) -> int:
    """Return the bytes that a size such as `24GB` states.

    Raises:
        InputError: If it is not a number of gigabytes.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:GB|GiB|G)?", text.strip(), re.IGNORECASE)
    if not found or float(found[1]) <= 0:
        raise InputError(
            "--fit is a size in gigabytes", got=repr(text), do="give for instance 24GB"
        )
    return round(float(found[1]) * 1024**3)
