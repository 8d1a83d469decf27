"""Image against image: each metric takes a prediction and the truth, and gives one number.

Both are HW float arrays in [0, 1] of equal shape; 8-bit images divided by 255. All sums
are made in float64, so that a mean over half a million pixels keeps its sixth digit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from v2ir.errors import InputError
from v2ir.evaluation.grey import gradient_magnitude
from v2ir.evaluation.windows import SSIM_WINDOW, Layer, similarity

Better = Literal["higher", "lower", "nearest one", "nearest truth"]


@dataclasses.dataclass(frozen=True)
class Rule:
    """How a number is shown and which values of it are good.

    Attributes:
        better: Which values are good; `nearest truth` means what the true infrared image
            itself has.
        label: Name in the head of a table, with the unit.
        digits: Decimals worth showing.
    """

    better: Better
    label: str
    digits: int

    def badness(self, value: float, truth: float = math.nan) -> float:
        """Return a number that is smaller for better values; NaN counts as the worst.

        Args:
            value: The value to judge.
            truth: What the true image has, for the values that are good near to it.
        """
        if math.isnan(value):
            return math.inf
        if self.better == "nearest one":
            return abs(math.log(value)) if value > 0 else math.inf
        if self.better == "nearest truth":
            return abs(value - truth) if not math.isnan(truth) else math.inf
        return value if self.better == "lower" else -value


@dataclasses.dataclass(frozen=True)
class Metric(Rule):
    """One row of the registry.

    Attributes:
        function: Takes (prediction, truth), HW float in [0, 1]; gives one number, NaN
            where the metric is not defined for these two images.
    """

    function: Callable[[np.ndarray, np.ndarray], float]


def checked(prediction: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two images as float64.

    Raises:
        InputError: If the shapes differ or are not HW.
    """
    if prediction.shape != truth.shape or truth.ndim != 2 or truth.size == 0:
        raise InputError(
            "two images cannot be compared",
            got=f"shapes {prediction.shape} and {truth.shape}",
            do="give two one-channel images of the same size",
        )
    return prediction.astype(np.float64, copy=False), truth.astype(np.float64, copy=False)


def mean_absolute_error(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean absolute difference in [0, 1].

    Raises:
        InputError: If the shapes differ or are not HW.
    """
    prediction, truth = checked(prediction, truth)
    return float(np.abs(prediction - truth).mean())


def peak_signal_to_noise(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in dB for the data range 1.0.

    10 log10(1 / mean squared error) over all pixels, borders included; infinite for
    equal images.

    Raises:
        InputError: If the shapes differ or are not HW.
    """
    prediction, truth = checked(prediction, truth)
    error = float(np.square(prediction - truth).mean())
    return -10.0 * math.log10(error) if error > 0 else math.inf


def structural_similarity(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean structural similarity in [-1, 1] for the data range 1.0.

    Gaussian window of 11 px with sigma 1.5, K1 = 0.01, K2 = 0.03, population covariance.
    **Borders do not count**: only windows that lie wholly inside the image are averaged,
    which leaves out 5 px on each side. Equal to scikit-image's `structural_similarity(
    gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1)` on
    float64 images, in a fraction of its time.

    Source: Wang, Bovik, Sheikh and Simoncelli, 2004, equation 13.

    Raises:
        InputError: If the shapes differ or are not HW, or a side is below 11 px.
    """
    prediction, truth = checked(prediction, truth)
    check_window(truth.shape)
    structure, _ = mean_similarities(prediction, truth)
    return structure


def check_window(shape: tuple[int, ...]) -> None:
    """Refuse images that are smaller than the window of the structural similarity.

    Raises:
        InputError: If a side of `shape` (height, width) is below 11 px.
    """
    if min(shape) < SSIM_WINDOW:
        raise InputError(
            "the image is smaller than the window of the structural similarity",
            got=f"{shape[1]}x{shape[0]} px",
            do=f"compare images of at least {SSIM_WINDOW} px on both sides",
        )


def mean_similarities(prediction: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Return the means over all windows of the similarity and of its contrast term alone.

    Args:
        prediction: HW float64 in [0, 1], both sides at least the window's 11 px.
        truth: The same shape.
    """
    found, _ = similarity(Layer(truth), Layer(prediction))
    return found.whole, found.contrast


def correlation(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Return Pearson's correlation of the pixel values in [-1, 1].

    Blind to brightness and contrast: 1 for every rising straight line, -1 for an
    inverted image, NaN where one of the two is constant.

    Raises:
        InputError: If the shapes differ or are not HW.
    """
    prediction, truth = checked(prediction, truth)
    prediction, truth = prediction - prediction.mean(), truth - truth.mean()
    scale = math.sqrt(float(np.square(prediction).sum()) * float(np.square(truth).sum()))
    # Rounding leaves a constant image with a spread of about 1e-16 a pixel.
    if scale < 1e-12 * truth.size:
        return math.nan
    return float((prediction * truth).sum()) / scale


def sharpness_ratio(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean gradient magnitude of the prediction over that of the truth.

    1 is as sharp as the truth, below 1 blurred, above 1 over-sharp or noisy; central
    differences; NaN where the truth is constant or a side is 1 px.

    Raises:
        InputError: If the shapes differ or are not HW.
    """
    prediction, truth = checked(prediction, truth)
    if min(truth.shape) < 2:
        return math.nan
    return ratio(_mean_gradient(prediction), _mean_gradient(truth))


def contrast_ratio(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Return the standard deviation of the prediction over that of the truth.

    1 is right, below 1 flat; NaN where the truth is constant.

    Raises:
        InputError: If the shapes differ or are not HW.
    """
    prediction, truth = checked(prediction, truth)
    return ratio(float(prediction.std()), float(truth.std()))


def _mean_gradient(values: np.ndarray) -> float:
    # Differences of 8-bit levels are exact enough in float32, at a third of the time.
    return float(gradient_magnitude(values).mean(dtype=np.float64))


def ratio(above: float, below: float) -> float:
    """Return a quotient, NaN where the divisor is nearly 0."""
    return above / below if below > 1e-12 else math.nan
