"""The verb `v2ir models`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from v2ir.model import ModelCard


def command(
    model: str | None = typer.Argument(
        None, help="Bundled model, model folder or hub name; without it the bundled ones."
    ),
) -> None:
    """List the bundled models, or show what one model says about itself.

    Example: `v2ir models mini`
    """
    from v2ir.model import bundled_models

    output = Console()
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
