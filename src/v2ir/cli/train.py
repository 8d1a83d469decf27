"""The verb `v2ir train`."""

from __future__ import annotations

import contextlib
from pathlib import Path

import typer

from v2ir.cli.console import console, progress_bar
from v2ir.records import Progress


def command(
    recipe: str = typer.Argument(..., help="Name of a recipe, or a JSON file with one."),
    data: Path = typer.Argument(..., help="Data set folder, indexed and annotated."),
    run: Path = typer.Argument(..., help="Run folder; the same command continues it."),
    stages: list[str] = typer.Option([], "--stages", help="Only these stages (repeat)."),
    start_from: str | None = typer.Option(
        None, "--from", help="Model to start from: bundled name, folder or hub name."
    ),
    cache: Path | None = typer.Option(None, help="Folder of the latent cache."),
    dry_run: bool = typer.Option(False, help="Print the resolved recipe and the scenes."),
) -> None:
    """Train all stages of a recipe, or some of them.

    Example: `v2ir train mini data runs/mini`
    """
    from v2ir.training import TrainSettings, load_recipe, train
    from v2ir.training.scenes import scenes_of, training_scenes

    resolved = load_recipe(recipe)
    if dry_run:
        scenes = training_scenes(data)
        console.print_json(resolved.model_dump_json())
        for stage in resolved.stages:
            number = len(scenes_of(stage, scenes))
            console.print(f"stage {stage.name}: {number} scenes, {stage.steps} steps")
        return
    settings = TrainSettings(data, run, tuple(stages), start_from, cache)
    with contextlib.ExitStack() as bars:

        def open_bar(stage: str) -> Progress:
            bars.close()
            return bars.enter_context(progress_bar(stage))

        folder = train(resolved, settings, open_bar)
    console.print(f"model: {folder}", highlight=False)
