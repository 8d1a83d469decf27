"""All scores of a scene's images, sharing what they have in common.

`METRICS` and `MEASURES` say what each score is, for any two images. Here the metrics of
images of 8 bits come from one table of level pairs, the structural similarities of all
images from one filtering of the truth, in float32. The results are those of `METRICS` to
1e-6; tests hold them to it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from v2ir.evaluation import MEASURES, METRICS
from v2ir.evaluation.grey import Grey, is_negative
from v2ir.evaluation.infrared import Facts
from v2ir.evaluation.metrics import check_window, ratio
from v2ir.evaluation.multiscale import Scores, layered_scores


def score(judged: Sequence[Grey], truth: Grey, facts: Facts) -> list[dict[str, float]]:
    """Return the value of every metric and measure for several images of one scene.

    Args:
        judged: Images of the truth's shape.
        truth: The true infrared image.
        facts: What is known about the scene.

    Raises:
        InputError: If the truth is smaller than the window of the structural similarity.
    """
    if judged and judged[0].is_exact and truth.is_exact:
        judged[0].table_with(truth)  # gives both histograms, which all that follows asks for
    images = _related(judged)
    needed = {id(x) for x in (truth, facts.truth, facts.visible)}
    needed |= {id(image.negative_of) for image in images}
    scores = []
    for image, similar in zip(images, _similarities(images, truth), strict=True):
        scores.append(_scores(image, truth, facts, similar))
        if id(image) not in needed:
            image.release()
    return scores


def _related(judged: Sequence[Grey]) -> list[Grey]:
    """Tell of each image whether it is the negative of one before it."""
    found: list[Grey] = []
    for image in judged:
        positive = next((x for x in found if not x.negative_of and is_negative(image, x)), None)
        found.append(dataclasses.replace(image, negative_of=positive) if positive else image)
    return found


def _similarities(images: Sequence[Grey], truth: Grey) -> list[Scores]:
    check_window(truth.pixels.shape)
    negated = {id(image.negative_of) for image in images if image.negative_of}
    own = [image for image in images if not image.negative_of]
    layers = [image.layer(with_negative=id(image) in negated) for image in own]
    found = layered_scores(truth.layer(), layers, 255.0)
    places = {id(image): place for place, image in enumerate(own)}
    result = []
    for image in images:
        plain, negative = found[places[id(image.negative_of or image)]]
        result.append(negative if image.negative_of and negative else plain)
    return result


def _scores(image: Grey, truth: Grey, facts: Facts, similar: Scores) -> dict[str, float]:
    scores = {"ssim": similar[0], "ms-ssim": similar[1]}
    if image.values is not None and truth.values is not None:
        scores |= _of_levels(image, truth)
    rest = [name for name in METRICS if name not in scores]
    if rest:
        pixels, true_pixels = (x.image.astype(np.float64) for x in (image, truth))
        scores |= {name: METRICS[name].function(pixels, true_pixels) for name in rest}
    ordered = {name: scores[name] for name in METRICS}
    return ordered | {name: measure.function(image, facts) for name, measure in MEASURES.items()}


def _of_levels(image: Grey, truth: Grey) -> dict[str, float]:
    """Return the metrics that the table of level pairs and the edges tell exactly."""
    assert image.values is not None and truth.values is not None
    table, number = image.table_with(truth), truth.pixels.size
    if image.is_exact and truth.is_exact:
        error, squares = table.absolute_error / 255.0, table.squared_error / 255.0**2
    else:
        gaps = np.abs(image.values[:, None] - truth.values)
        error, squares = table.total(gaps), table.total(gaps * gaps)
    return {
        "psnr": -10.0 * math.log10(squares / number) if squares > 0 else math.inf,
        "mae": error / number,
        "correlation": table.correlation(image.values, truth.values),
        "sharpness": ratio(image.mean_edge, truth.mean_edge),
        "contrast": ratio(image.deviation, truth.deviation),
    }
