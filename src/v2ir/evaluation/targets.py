"""Small hot targets: whether their peaks survive, as an autoencoder's first victims."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from v2ir.evaluation.infrared import box_mean
from v2ir.evaluation.metrics import checked, peak_signal_to_noise, structural_similarity

SURROUNDINGS = 49
LEAST_CONTRAST = 0.15
LEAST_DEVIATIONS = 5.0
MARGIN = 4


@dataclasses.dataclass(frozen=True)
class Target:
    """A hot spot that is small on both sides.

    Attributes:
        rows: Its rows.
        columns: Its columns.
        peak: Largest value in it, in 0..1.
        background: Median of the pixels around it.
    """

    rows: slice
    columns: slice
    peak: float
    background: float


def small_targets(truth: np.ndarray, largest: int = 8) -> list[Target]:
    """Find the hot targets below `largest` px on both sides.

    A target is a connected region, corners included, of pixels that stand out from the
    49 px square around them, at least 0.15 and five of its standard deviations above its
    mean, so that the grain of a texture is none. It does not touch the border.

    Args:
        truth: True infrared image, HW float in [0, 1].
        largest: Sides must be below this many pixels.
    """
    from scipy.ndimage import find_objects, label

    values = truth.astype(np.float64, copy=False)
    mean = box_mean(values, SURROUNDINGS)
    variance = box_mean(values * values, SURROUNDINGS) - mean * mean
    deviation = np.sqrt(np.maximum(variance, 0.0))
    hot = values > mean + np.maximum(LEAST_CONTRAST, LEAST_DEVIATIONS * deviation)
    labels, _ = label(hot, structure=np.ones((3, 3)))
    found = []
    for place, (rows, columns) in enumerate(find_objects(labels), 1):
        sides = (rows.stop - rows.start, columns.stop - columns.start)
        inside = rows.start > 0 and columns.start > 0
        inside &= rows.stop < values.shape[0] and columns.stop < values.shape[1]
        if max(sides) >= largest or not inside:
            continue
        around = _grown(rows, MARGIN), _grown(columns, MARGIN)
        others = values[around][labels[around] == 0]
        if others.size == 0:
            continue
        peak = float(values[rows, columns][labels[rows, columns] == place].max())
        found.append(Target(rows, columns, peak, float(np.median(others))))
    return found


def _grown(span: slice, margin: int) -> slice:
    return slice(max(0, span.start - margin), span.stop + margin)


def peak_survival(prediction: np.ndarray, target: Target) -> float:
    """Return the target's height above its surroundings as a share of the true one.

    The prediction's largest value counts that lies in the target's box or 1 px beside it:
    1 keeps the peak, 0 loses it, more than 1 overshoots.
    """
    near = prediction[_grown(target.rows, 1), _grown(target.columns, 1)]
    return (float(near.max()) - target.background) / (target.peak - target.background)


@dataclasses.dataclass(frozen=True)
class ReconstructionReport:
    """How well infrared images come back from their latents.

    Attributes:
        images: Number of images.
        psnr: Mean PSNR in dB.
        ssim: Mean SSIM.
        targets: Number of small hot targets.
        survival: Mean share of the targets' height that is left; NaN without targets.
        kept: Share of the targets that keep half their height or more; NaN without any.
    """

    images: int
    psnr: float
    ssim: float
    targets: int
    survival: float
    kept: float


def report_reconstructions(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]],
) -> ReconstructionReport:
    """Measure (reconstruction, truth) pairs, HW float in [0, 1].

    Raises:
        InputError: If the shapes of a pair differ, or a side is below 11 px.
    """
    psnr: list[float] = []
    ssim: list[float] = []
    shares: list[float] = []
    for made, true in pairs:
        made, true = checked(made, true)
        psnr.append(peak_signal_to_noise(made, true))
        ssim.append(structural_similarity(made, true))
        shares += [peak_survival(made, target) for target in small_targets(true)]
    return ReconstructionReport(
        images=len(psnr),
        psnr=_mean(psnr),
        ssim=_mean(ssim),
        targets=len(shares),
        survival=_mean(shares),
        kept=_mean([float(share >= 0.5) for share in shares]),
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan
