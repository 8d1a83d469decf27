"""LPIPS, through the package of its authors where that can be imported."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Callable

import numpy as np

from v2ir.errors import ModelError
from v2ir.evaluation.cases import Knowledge, Plan, images_of, read_photograph, read_truth
from v2ir.evaluation.comparison import Evaluation
from v2ir.extras import optional_module
from v2ir.records import Progress, no_progress

LPIPS = "lpips"

Perceptual = Callable[[np.ndarray, np.ndarray], float]
"""Takes (prediction, truth), HW float in [0, 1]; gives the distance, 0 for equal images."""


def load_lpips(backbone: str = "alex") -> tuple[Perceptual, str]:
    """Return LPIPS with a backbone and the version for the report.

    Grey images go in as three equal channels in [-1, 1], at their own size.

    Source: Zhang, Isola, Efros, Shechtman and Wang, 2018.

    Args:
        backbone: `alex`, `vgg` or `squeeze`.

    Raises:
        MissingExtraError: If the package `lpips` (and with it torchvision) cannot be
            imported.
        ModelError: If the backbone's weights cannot be had.
    """
    package = optional_module("lpips", "lpips")
    import torch

    try:
        network = package.LPIPS(net=backbone, verbose=False).eval()
    except (OSError, NotImplementedError, RuntimeError) as error:
        raise ModelError(
            f"LPIPS has no backbone {backbone}",
            got=str(error) or type(error).__name__,
            do="choose alex, vgg or squeeze, and let torchvision download its weights once",
        ) from error

    def distance(prediction: np.ndarray, truth: np.ndarray) -> float:
        pair = [torch.from_numpy(np.ascontiguousarray(x, np.float32)) for x in (prediction, truth)]
        first, second = (x.expand(1, 3, *x.shape) * 2.0 - 1.0 for x in pair)
        with torch.inference_mode():
            return float(network(first, second))

    try:
        version = importlib.metadata.version("lpips")
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    return distance, f"lpips {version} ({backbone})"


def with_perceptual(
    plan: Plan,
    evaluation: Evaluation,
    distance: Perceptual,
    knowledge: Knowledge | None = None,
    *,
    progress: Progress = no_progress,
) -> Evaluation:
    """Return the evaluation with the score `lpips` in every row."""
    names = set(evaluation.names)
    cases = [case for case in plan.cases if case.name in names]
    found: dict[tuple[str, str], float] = {}
    for done, case in enumerate(cases):
        truth, photograph = read_truth(plan, case), read_photograph(plan, case)
        images = images_of(plan, case, knowledge or Knowledge(), truth.shape, photograph)
        found |= {(case.name, method): distance(image, truth) for method, image in images}
        progress(done + 1, len(cases))
    rows = tuple(
        dataclasses.replace(row, scores={**row.scores, LPIPS: found[row.name, row.method]})
        for row in evaluation.rows
    )
    return dataclasses.replace(evaluation, rows=rows)
