"""The verb `v2ir demo`."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from v2ir.cli._sources import make_sources
from v2ir.cli.console import console, list_failures, progress_bar
from v2ir.cli.translate import load
from v2ir.errors import InputError
from v2ir.files import read_json, write_bytes

if TYPE_CHECKING:
    from v2ir.sampling import Annotators, Job, Translator
    from v2ir.sampling.sheet import SheetRow

# Photographs inside the wheels of packages that v2ir depends on; no download.
PHOTOGRAPHS = (
    ("scikit-learn", "sklearn/datasets/images/china.jpg"),
    ("scikit-image", "skimage/data/camera.png"),
    ("scikit-image", "skimage/data/motorcycle_left.png"),
    ("scikit-image", "skimage/data/rocket.jpg"),
    ("scikit-image", "skimage/data/astronaut.png"),
)
MOST_ROWS = 12


def command(
    photos: Path | None = typer.Argument(
        None, help="Your photographs instead: an image or a folder of images."
    ),
    out: Path = typer.Option(Path("demo"), help="Folder of the results."),
    model: str = typer.Option("mini", help="Bundled model, model folder, or hub name."),
    style: str | None = typer.Option(None, help="Camera to imitate; `v2ir models` lists them."),
    seed: int = typer.Option(0, help="Seed of the noise."),
    device: str = typer.Option("auto", help="auto, cpu, cuda, cuda:1, mps, ..."),
    dry_run: bool = typer.Option(False, help="Say what would be made, and write nothing."),
) -> None:
    """Translate photographs that installed packages carry, and show them in one picture.

    It works offline. The picture shows visible | segmentation | infrared, with the
    caption below.

    Example: `v2ir demo --out demo --style roadscene`
    """
    if photos is not None and not photos.exists():
        raise InputError(f"{photos} does not exist", do="give an image or a folder of images")
    if dry_run:
        for path in [photos] if photos else carried_photographs():
            console.print(f"would translate {path} into {out}", highlight=False, soft_wrap=True)
        return
    from v2ir.sampling import TranslateSettings, Translator, translate

    source = photos or _gather(out / "visible")
    translator = Translator(load(model, device), TranslateSettings(style=style, seed=seed))
    annotators = make_sources(translator).annotators
    with progress_bar("translating") as progress:
        report = translate(source, out / "infrared", translator, annotators, progress)
    picture = out / "overview.png"
    if report.made or not picture.exists():
        _draw(source, out / "infrared", picture, translator, annotators)
    console.print(f"infrared images: {out / 'infrared'}", highlight=False, soft_wrap=True)
    console.print(f"one picture of them all: {picture}", highlight=False, soft_wrap=True)
    list_failures(report.failures)


def carried_photographs() -> list[Path]:
    """Return the photographs of the installed packages.

    Raises:
        InputError: If no package carries one.
    """
    found = []
    for package, name in PHOTOGRAPHS:
        try:
            path = Path(str(importlib.metadata.distribution(package).locate_file(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
        if path.is_file():
            found.append(path)
    if not found:
        raise InputError("no installed package carries photographs", do="give a folder of yours")
    return found


def _gather(folder: Path) -> Path:
    """Copy the carried photographs side by side; those that lie there stay untouched."""
    for path in carried_photographs():
        copy = folder / path.name
        if not copy.exists() or copy.read_bytes() != path.read_bytes():
            write_bytes(copy, path.read_bytes())
    return folder


def _draw(
    source: Path, out: Path, picture: Path, translator: Translator, annotators: Annotators
) -> None:
    from v2ir.images import write_image
    from v2ir.sampling import find_jobs
    from v2ir.sampling.sheet import draw_sheet

    jobs = [job for job in find_jobs(source, out) if job.sidecar.exists()]
    rows = list(_rows(jobs[:MOST_ROWS], translator, annotators))
    if rows:
        write_image(picture, draw_sheet(rows))


def _rows(jobs: list[Job], translator: Translator, annotators: Annotators) -> Iterator[SheetRow]:
    from v2ir.images import read_map, read_visible
    from v2ir.sampling.geometry import scaled
    from v2ir.sampling.sheet import SheetRow

    for job in jobs:
        facts = read_json(job.sidecar)
        visible = read_visible(job.source)
        shown = scaled(visible, translator.fit(visible.shape[1], visible.shape[0]))
        takes = translator.takes_maps
        yield SheetRow(
            visible=shown,
            segmentation=annotators.segment(job.name, shown) if takes else None,
            infrared=read_map(job.output),
            text=f"{job.name}: {facts.get('caption') or 'no caption'} "
            f"(style {facts.get('style') or 'none'})",
        )
