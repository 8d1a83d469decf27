"""The small part of a model that a stage distils."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from v2ir.errors import ModelError
from v2ir.model import Model
from v2ir.model.own_network import SmallNetwork
from v2ir.seeding import own_seed
from v2ir.training.stage import Stage

Part = TypeVar("Part", bound=SmallNetwork)


def small_part(
    kind: type[Part],
    kept: Part | None,
    model: Model,
    stage: Stage,
    widths: Sequence[int],
    blocks: Sequence[int],
) -> Part:
    """Return the model's small part if it has the stage's sizes, or a new one.

    Raises:
        ModelError: If the sizes stand for another factor than the model's.
    """
    with own_seed():
        fresh = kind(model.card.channels, widths, blocks)
    if fresh.factor != model.card.factor:
        raise ModelError(
            f"the {kind.title} of the stage {stage.name} does not fit {model.card.name}",
            got=f"{len(widths)} widths, which make a factor of {fresh.factor}",
            do=f"give widths and blocks for a factor of {model.card.factor}",
        )
    if kept is not None and kept.config == fresh.config:
        return kept
    return fresh.to(model.device)
