"""The verb `v2ir models`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from v2ir.cli.console import list_failures, progress_bar

if TYPE_CHECKING:
    import numpy as np

    from v2ir.evaluation.targets import ReconstructionReport
    from v2ir.model import ModelCard

SMALLEST_SIDE = 11  # the window of SSIM


def command(
    model: str | None = typer.Argument(
        None, help="Bundled model, model folder or hub name; without it the bundled ones."
    ),
    reconstruct: Path | None = typer.Option(
        None,
        metavar="FOLDER",
        help="Send its infrared images through the model's autoencoder and measure them.",
    ),
    device: str = typer.Option("auto", help="auto, cpu, cuda, cuda:1, mps, ..."),
) -> None:
    """List the bundled models, show what one says about itself, or measure its autoencoder.

    Example: `v2ir models mini --reconstruct data/ir`
    """
    from v2ir.model import bundled_models

    output = Console()
    if reconstruct is not None:
        report, failures = measure_autoencoder(model or "mini", reconstruct, device)
        output.print(_measured(report))
        list_failures(failures)
        return
    if model is not None:
        output.print(_details(read_card(model)))
        return
    table = Table("model", "conditions", "styles", "licence", box=None)
    for name in bundled_models():
        card = read_card(name)
        table.add_row(name, ", ".join(card.conditions), ", ".join(card.styles), card.licence)
    output.print(table)


def read_card(name: str) -> ModelCard:
    """Read a model's card without loading its weights.

    Raises:
        UnknownNameError: If there is no such model.
        ModelError: If its card is not valid.
    """
    from pydantic import ValidationError

    from v2ir.errors import ModelError
    from v2ir.files import read_json
    from v2ir.model import ModelCard, find_model
    from v2ir.model.folder import CARD_NAME

    path = find_model(name) / CARD_NAME
    try:
        return ModelCard.model_validate(read_json(path))
    except ValidationError as error:
        raise ModelError(f"{path} is not valid", got=str(error)) from error


def measure_autoencoder(
    name: str, folder: Path, device: str
) -> tuple[ReconstructionReport, list[tuple[str, str]]]:
    """Send the infrared images of a folder through a model's autoencoder.

    Returns:
        The report, and (image, reason) for each image that cannot be measured.

    Raises:
        InputError: If there are no images.
    """
    from v2ir.cli.translate import load
    from v2ir.errors import InputError, V2IRError
    from v2ir.evaluation.targets import report_reconstructions
    from v2ir.files import image_paths
    from v2ir.images import read_infrared
    from v2ir.sampling.reconstruct import reconstruct

    paths = image_paths(folder) if folder.is_dir() else []
    if not paths:
        raise InputError(f"{folder} holds no images", do="give a folder of infrared images")
    loaded = load(name, device)
    failures = []
    with progress_bar("reconstructing") as progress:

        def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for done, path in enumerate(paths, 1):
                try:
                    true = read_infrared(path)
                    if min(true.shape) < SMALLEST_SIDE:
                        raise InputError("the image is too small", got=f"{true.shape} px")
                    yield reconstruct(loaded, true), true
                except V2IRError as error:
                    failures.append((str(path.relative_to(folder)), str(error)))
                progress(done, len(paths))

        report = report_reconstructions(pairs())
    return report, failures


def _measured(report: ReconstructionReport) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row("images", str(report.images))
    table.add_row("PSNR", f"{report.psnr:.2f} dB")
    table.add_row("SSIM", f"{report.ssim:.3f}")
    table.add_row("hot targets under 8 px", str(report.targets))
    if report.targets:
        table.add_row("their height that is left", f"{report.survival:.2f}")
        table.add_row("targets that keep half of it", f"{report.kept:.0%}")
    return table


def _details(card: ModelCard) -> Table:
    guidance = card.guidance
    facts = {
        "model": card.name,
        "styles": ", ".join(card.styles) or "none",
        "default style": card.default_style or "none",
        "conditions": ", ".join(card.conditions),
        "captioner": card.captioner or "none",
        "segmenter": card.segmenter or "none",
        "solver": f"{card.solver}, {card.steps} steps",
        "guidance": f"text {guidance.text:g}, visible {guidance.visible:g}, "
        f"segmentation {guidance.segmentation:g}; nesting: {guidance.nesting}",
        "works at": f"short side {card.resolution} px, multiples of {card.multiple} px",
        "trained on": card.data or "not stated",
        "licence": card.licence,
        **{f"score {name}": f"{value:g}" for name, value in card.scores.items()},
    }
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(name, value)
    return table
