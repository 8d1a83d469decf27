"""Pieces of training that tests put together by hand: pairs, latents one can see, draws."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from v2ir.annotation import annotate
from v2ir.data import index
from v2ir.files import read_jsonl
from v2ir.model import Model, architecture, build_model
from v2ir.training import Stage
from v2ir.training.cache import Caches, LatentCache, TextCache
from v2ir.training.objectives import OBJECTIVES, Draw
from v2ir.training.scenes import TrainingScene, scenes_of, training_scenes


def ready_to_train(root: Path) -> Path:
    """Index and annotate a folder of pairs of one style, all of them for training."""
    index(root, style=lambda name: "street")
    annotate(root)
    path = root / "scenes.jsonl"
    rows = [{**row, "split": "train"} for row in read_jsonl(path)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def draws(seed: int, number: int = 6) -> list[Draw]:
    return [Draw(place, np.random.default_rng([seed, place])) for place in range(number)]


def tiny_text_model(words: tuple[str, ...] = ("street", "night"), **facts: object) -> Model:
    """Return a tiny model that knows text alone; facts of its card go before the usual ones."""
    usual = {"conditions": ("text",), "prompt_template": "{caption}", "multiple": 8}
    return build_model(architecture("txt2ir-tiny"), name="t", words=words, **{**usual, **facts})


def unscaled_model() -> Model:
    """Return a tiny model whose latents are not scaled."""
    torch.manual_seed(0)
    model = build_model(architecture("tiny"), name="x", styles=("street",))
    model.card = model.card.model_copy(update={"latent_mean": (0.0,) * 4, "latent_std": (1.0,) * 4})
    return model


def pooled(pictures: Tensor) -> Tensor:
    """Encode a picture as its means over 8 px, four times."""
    return F.avg_pool2d(pictures[:, :1], 8).repeat(1, 4, 1, 1)


def make_caches(
    folder: Path, model: Model, encode: Callable[[Tensor], Tensor] = pooled, key: str = "pooled"
) -> Caches:
    return Caches(
        LatentCache(folder / "cache", encode, key),
        TextCache(folder / "cache", lambda prompt: model.embed_prompts([prompt])[0], "text"),
    )


def make_objective(
    data: Path, model: Model, stage: Stage, encode: Callable[[Tensor], Tensor] = pooled
) -> tuple[object, list[TrainingScene]]:
    """Return a stage's objective, ready to be trained, and its scenes."""
    made = OBJECTIVES[stage.objective](model, stage, make_caches(data, model, encode))
    for module in made.modules.values():
        module.requires_grad_(True)
    return made, scenes_of(stage, training_scenes(data))
