"""Structural similarity over five scales, for what one window size cannot see."""

from __future__ import annotations

import math

import numpy as np

from v2ir.evaluation.metrics import (
    SSIM_WINDOW,
    checked,
    mean_similarities,
    structural_similarity,
)

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
LEAST_SIDE = SSIM_WINDOW * 2 ** (len(SCALE_WEIGHTS) - 1)


def multiscale_similarity(
    prediction: np.ndarray, truth: np.ndarray, finest: tuple[float, float] | None = None
) -> float:
    """Return the multi-scale structural similarity in [0, 1] for the data range 1.0.

    The product of the mean contrast terms of the four finer scales and of the mean
    similarity of the coarsest, each to the power of its weight; a negative mean counts as
    0. Each scale halves the one before by means of 2x2 pixels (an odd last row or column
    is left out). Window and borders as in `structural_similarity`.

    Source: Wang, Simoncelli and Bovik, 2003, equation 7.

    Args:
        prediction: HW float in [0, 1].
        truth: The same shape.
        finest: What `mean_similarities` gives for the two, if it is known already: most of
            the work is at the finest scale.

    Returns:
        The similarity, or NaN for images with a side below 176 px, whose coarsest scale
        would be smaller than the window.

    Raises:
        InputError: If the shapes differ or are not HW.
    """
    prediction, truth = checked(prediction, truth)
    if min(truth.shape) < LEAST_SIDE:
        return math.nan
    product = 1.0
    for scale, weight in enumerate(SCALE_WEIGHTS):
        known = finest if scale == 0 else None
        similarity, contrast = known or mean_similarities(prediction, truth)
        is_last = scale == len(SCALE_WEIGHTS) - 1
        product *= max(similarity if is_last else contrast, 0.0) ** weight
        if not is_last:
            prediction, truth = _halved(prediction), _halved(truth)
    return product


def similarity_scores(prediction: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Return `structural_similarity` and `multiscale_similarity` for little more than the first.

    Raises:
        InputError: As they do.
    """
    prediction, truth = checked(prediction, truth)
    if min(truth.shape) < LEAST_SIDE:
        return structural_similarity(prediction, truth), math.nan
    finest = mean_similarities(prediction, truth)
    return finest[0], multiscale_similarity(prediction, truth, finest)


def _halved(values: np.ndarray) -> np.ndarray:
    even = values[: values.shape[0] // 2 * 2, : values.shape[1] // 2 * 2]
    rows = even[0::2] + even[1::2]
    halved: np.ndarray = (rows[:, 0::2] + rows[:, 1::2]) / 4.0
    return halved
