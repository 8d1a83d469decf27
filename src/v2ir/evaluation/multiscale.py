"""Structural similarity over five scales, for what one window size cannot see."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from v2ir.evaluation.metrics import checked, structural_similarity
from v2ir.evaluation.windows import SSIM_WINDOW, Layer, Similarity, similarity

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
LEAST_SIDE = SSIM_WINDOW * 2 ** (len(SCALE_WEIGHTS) - 1)
Scores = tuple[float, float]


def multiscale_similarity(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Return the multi-scale structural similarity in [0, 1] for the data range 1.0.

    The product of the mean contrast terms of the four finer scales and of the mean
    similarity of the coarsest, each to the power of its weight; a negative mean counts as
    0. Each scale halves the one before by means of 2x2 pixels (an odd last row or column
    is left out). Window and borders as in `structural_similarity`.

    Source: Wang, Simoncelli and Bovik, 2003, equation 7.

    Returns:
        The similarity, or NaN for images with a side below 176 px, whose coarsest scale
        would be smaller than the window.

    Raises:
        InputError: If the shapes differ or are not HW.
    """
    prediction, truth = checked(prediction, truth)
    if min(truth.shape) < LEAST_SIDE:
        return math.nan
    return similarity_scores(prediction, truth)[1]


def similarity_scores(prediction: np.ndarray, truth: np.ndarray) -> Scores:
    """Return `structural_similarity` and `multiscale_similarity` for little more than the first.

    Raises:
        InputError: As they do.
    """
    prediction, truth = checked(prediction, truth)
    if min(truth.shape) < LEAST_SIDE:
        return structural_similarity(prediction, truth), math.nan
    return layered_scores(Layer(truth), [Layer(prediction)], 1.0)[0][0]


def layered_scores(
    truth: Layer, judged: Sequence[Layer], data_range: float
) -> list[tuple[Scores, Scores | None]]:
    """Return the scores of several images, and of their negatives, against one truth.

    Args:
        truth: Both sides at least the window's 11 px.
        judged: Images of the same shape.
        data_range: Range of the values.

    Returns:
        (structural, multi-scale) similarity of each image, and of its negative where it has
        a `negative`.
    """
    # Each halving in turn, so that what the truth needs is made once for all images.
    has_scales = min(truth.values.shape) >= LEAST_SIDE
    truths = _pyramid(truth) if has_scales else [truth]
    found = []
    for layer in judged:
        layers = _pyramid(layer) if has_scales else [layer]
        scales = [
            similarity(truth, layer, data_range)
            for truth, layer in zip(truths, layers, strict=True)
        ]
        plain, negative = ([scale[sign] for scale in scales] for sign in (0, 1))
        found.append((_combined(plain), _combined(negative) if negative[0] else None))
    return found


def _pyramid(layer: Layer) -> list[Layer]:
    layers = [layer]
    for _ in SCALE_WEIGHTS[1:]:
        layers.append(layers[-1].halved())
    return layers


def _combined(scales: Sequence[Similarity | None]) -> Scores:
    means = [scale for scale in scales if scale is not None]
    if len(means) < len(SCALE_WEIGHTS):
        return means[0].whole, math.nan
    terms = [*(scale.contrast for scale in means[:-1]), means[-1].whole]
    powers = (max(t, 0.0) ** w for t, w in zip(terms, SCALE_WEIGHTS, strict=True))
    return means[0].whole, math.prod(powers)
