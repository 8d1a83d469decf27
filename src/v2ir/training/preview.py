"""Sample grids: what the averaged weights make of a few training scenes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from v2ir.images import from_tensor, to_tensor, to_uint8, write_image
from v2ir.model import Model
from v2ir.sampling.guidance import GuidedDenoiser
from v2ir.sampling.solvers import solve
from v2ir.training.objectives.objective import part_hash, read_part
from v2ir.training.scenes import TrainingScene
from v2ir.training.stage import Stage
from v2ir.training.variants import Variant

# The published sampler's 100 steps would take longer than what is trained between two grids.
ENOUGH_STEPS = 20


@torch.no_grad()
def preview(model: Model, scenes: Sequence[TrainingScene], stage: Stage, path: Path) -> None:
    """Write rows of visible | map | generated | true for a few scenes as one picture."""
    model.unet.eval()
    rows = [_row(model, item, stage) for item in scenes]
    write_image(path, np.concatenate(rows))
    if "unet" in stage.trains:
        model.unet.train()


def _row(model: Model, item: TrainingScene, stage: Stage) -> np.ndarray:
    factor, crop = model.card.factor, stage.crop
    views: dict[str, np.ndarray] = {}
    for part in ("visible", "segmentation", "infrared"):
        shown = part == "infrared" or part in stage.conditions
        if shown and part_hash(item, part) is not None:
            view = Variant(crop, False, factor).apply(read_part(item, part))
            views[part] = view[:crop, :crop]
    captions = [stage.prompt or (item.captions[0] if item.captions else None)]
    conditions = model.conditions(
        visible=_batch(views.get("visible")),
        segmentation=_batch(views.get("segmentation")),
        captions=captions if "text" in stage.conditions and not stage.prompt else None,
        style=torch.tensor([model.row_of_style(item.scene.style)]),
    )
    side, quick = crop // factor, model.card.steps <= ENOUGH_STEPS
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((1, model.card.channels, side, side), generator=generator)
    latents = solve(
        GuidedDenoiser(model.denoiser, model.card.guidance),
        noise,
        conditions,
        config=model.scheduler.config,
        solver=model.card.solver if quick else "dpmpp",
        steps=model.card.steps if quick else ENOUGH_STEPS,
        generators=[generator],
    )
    pixels = _batch(views.get("visible"))
    if pixels is not None:
        latents = model.beside_visible(latents, conditions, pixels)
    made = to_uint8(from_tensor(model.decode(latents))[0])
    blank = np.zeros((crop, crop), np.uint8)
    order = [views.get("visible"), views.get("segmentation"), made, views["infrared"]]
    return np.concatenate([_colour(blank if view is None else view) for view in order], axis=1)


def _batch(view: np.ndarray | None) -> torch.Tensor | None:
    return None if view is None else to_tensor(view)[None]


def _colour(view: np.ndarray) -> np.ndarray:
    return view if view.ndim == 3 else np.repeat(view[..., None], 3, axis=2)
