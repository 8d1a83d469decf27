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

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_K1, SSIM_K2 = 0.01, 0.03

Better = Literal["higher", "lower", "nearest one"]


@dataclasses.dataclass(frozen=True)
class Metric:
    """One row of the registry.

    Attributes:
        function: Takes (prediction, truth), HW float in [0, 1]; gives one number, NaN
            where the metric is not defined for these two images.
        better: Which values are good.
        label: Name in the head of a table, with the unit.
        digits: Decimals worth showing.
    """

    function: Callable[[np.ndarray, np.ndarray], float]
    better: Better
    label: str
    digits: int

    def badness(self, value: float) -> float:
        """Return a number that is smaller for better values; NaN counts as the worst."""
        if math.isnan(value):
            return math.inf
        if self.better == "nearest one":
            return abs(math.log(value)) if value > 0 else math.inf
        return value if self.better == "lower" else -value


def _checked(prediction: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
    prediction, truth = _checked(prediction, truth)
    return float(np.abs(prediction - truth).mean())


def peak_signal_to_noise(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in dB for the data range 1.0.

    10 log10(1 / mean squared error) over all pixels, borders included; infinite for
    equal images.

    Raises:
        InputError: If the shapes differ or are not HW.
    """
    prediction, truth = _checked(prediction, truth)
    error = float(np.square(prediction - truth).mean())
    return -10.0 * math.log10(error) if error > 0 else math.inf


def structural_similarity(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean structural similarity in [-1, 1] for the data range 1.0.

    Gaussian window of 11 px with sigma 1.5, K1 = 0.01, K2 = 0.03, population covariance.
    **Borders do not count**: only windows that lie wholly inside the image are averaged,
    which leaves out 5 px on each side. Equal to scikit-image's `structural_similarity(
    gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1)` on
    float64 images, at about half its time: the two variances are only needed as their
    sum, so four filters do instead of five, and strips of rows stay in the cache.

    Source: Wang, Bovik, Sheikh and Simoncelli, 2004, equation 13.

    Raises:
        InputError: If the shapes differ or are not HW, or a side is below 11 px.
    """
    prediction, truth = _checked(prediction, truth)
    if min(truth.shape) < SSIM_WINDOW:
        raise InputError(
            "the image is smaller than the window of the structural similarity",
            got=f"{truth.shape[1]}x{truth.shape[0]} px",
            do=f"compare images of at least {SSIM_WINDOW} px on both sides",
        )
    rows, columns = truth.shape[0] - 2 * _RADIUS, truth.shape[1] - 2 * _RADIUS
    total = 0.0
    for top in range(0, rows, _STRIP_ROWS):
        strip = slice(top, top + _STRIP_ROWS + 2 * _RADIUS)
        total += float(_similarities(prediction[strip], truth[strip]).sum())
    return total / (rows * columns)


_RADIUS = SSIM_WINDOW // 2
_STRIP_ROWS = 32


def _similarities(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the similarity of each window that lies inside; (H-10)x(W-10)."""
    mean_p, mean_t = _windowed(prediction), _windowed(truth)
    mean_product = mean_p * mean_t
    mean_squares = mean_p * mean_p + mean_t * mean_t
    covariance = _windowed(prediction * truth) - mean_product
    variances = _windowed(prediction * prediction + truth * truth) - mean_squares
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    above = (2.0 * mean_product + c1) * (2.0 * covariance + c2)
    similarities: np.ndarray = above / ((mean_squares + c1) * (variances + c2))
    return similarities


def _windowed(values: np.ndarray) -> np.ndarray:
    """Return the Gaussian-weighted mean of each window that lies inside; (H-10)x(W-10)."""
    return _windowed_rows(_windowed_rows(values).T).T


def _windowed_rows(values: np.ndarray) -> np.ndarray:
    weights = np.exp(-0.5 * np.square(np.arange(_RADIUS + 1) / SSIM_SIGMA))
    weights /= weights[0] + 2.0 * weights[1:].sum()
    end = values.shape[0] - _RADIUS
    total: np.ndarray = values[_RADIUS:end] * weights[0]
    for offset in range(1, _RADIUS + 1):
        pair = values[_RADIUS - offset : end - offset] + values[_RADIUS + offset : end + offset]
        pair *= weights[offset]
        total += pair
    return total


def correlation(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Return Pearson's correlation of the pixel values in [-1, 1].

    Blind to brightness and contrast: 1 for every rising straight line, -1 for an
    inverted image, NaN where one of the two is constant.

    Raises:
        InputError: If the shapes differ or are not HW.
    """
    prediction, truth = _checked(prediction, truth)
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
    prediction, truth = _checked(prediction, truth)
    if min(truth.shape) < 2:
        return math.nan
    return _ratio(_mean_gradient(prediction), _mean_gradient(truth))


def contrast_ratio(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Return the standard deviation of the prediction over that of the truth.

    1 is right, below 1 flat; NaN where the truth is constant.

    Raises:
        InputError: If the shapes differ or are not HW.
    """
    prediction, truth = _checked(prediction, truth)
    return _ratio(float(prediction.std()), float(truth.std()))


def _mean_gradient(values: np.ndarray) -> float:
    # Differences of 8-bit levels are exact enough in float32, at a third of the time.
    down, right = np.gradient(values.astype(np.float32))
    return float(np.sqrt(down * down + right * right).mean(dtype=np.float64))


def _ratio(above: float, below: float) -> float:
    return above / below if below > 1e-12 else math.nan
