"""Thermal masks: where an infrared image is hot, told by its grey values alone.

A mask is soft: 0 is cold, 1 is hot, and what lies between is in doubt. Values come as
`images.read_infrared` gives them, so an image of more than 8 bits is judged at its full depth.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Protocol

import numpy as np

from v2ir.annotation.spec import convert_options, parse_spec
from v2ir.errors import InputError, UnknownNameError


class ThermalMasker(Protocol):
    """Finds what is hot in an infrared image.

    Attributes:
        name: Name in `THERMAL_MASKS`, kept with every mask.
        version: Changed whenever the same image may get another mask; it holds the options.
    """

    @property
    def name(self) -> str:
        """Name in `THERMAL_MASKS`."""
        ...

    @property
    def version(self) -> str:
        """What masks depend on beside the image."""
        ...

    def mask(self, infrared: np.ndarray) -> np.ndarray:
        """Return the mask of HW float [0, 1]: HW float32, 0 where cold, 1 where hot."""
        ...


class _Thresholding(abc.ABC):
    """A mask by a threshold, one for all pixels or one for each."""

    name: str
    algorithm = "1"
    softness: float

    @property
    def version(self) -> str:
        """Version of the code and the options."""
        return " ".join([self.algorithm, *(f"{k}={v:g}" for k, v in sorted(vars(self).items()))])

    @abc.abstractmethod
    def threshold(self, infrared: np.ndarray) -> np.ndarray | float:
        """Return what a pixel must exceed to be hot; the image is not constant."""

    def mask(self, infrared: np.ndarray) -> np.ndarray:
        """Return the mask of HW float [0, 1]; nothing is hot in an image of one value."""
        if infrared.size == 0 or infrared.min() == infrared.max():
            return np.zeros(infrared.shape, np.float32)
        excess = infrared - self.threshold(infrared)
        if self.softness == 0:
            return (excess > 0).astype(np.float32)
        return np.clip(excess / self.softness + 0.5, 0.0, 1.0).astype(np.float32)

    def _check(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if not low <= value <= high:
            raise InputError(
                f"{self.name}: {name} is out of range",
                got=f"{value:g}",
                do=f"give {low:g} to {high:g}",
            )


@dataclasses.dataclass(frozen=True)
class OtsuMasker(_Thresholding):
    """The threshold that parts the values into the two classes farthest apart.

    Every value of the image is a bin of its own, so 16 bits are not squeezed into 256 bins
    by a single glowing lamp.
    Source: Otsu 1979, "A threshold selection method from gray-level histograms".

    Attributes:
        softness: Width of the passage from cold to hot around the threshold, as a share of
            the range of values; 0 makes a mask of zeros and ones.
    """

    softness: float = 0.0
    name = "otsu"

    def __post_init__(self) -> None:
        self._check("softness", 0.0, 1.0)

    def threshold(self, infrared: np.ndarray) -> float:
        """Return the threshold: the highest value of the cold class."""
        from skimage.filters import threshold_otsu

        values, counts = np.unique(infrared, return_counts=True)
        # In double precision: single sums of a million pixels are too coarse to compare.
        return float(threshold_otsu(hist=(counts.astype(np.float64), values.astype(np.float64))))


@dataclasses.dataclass(frozen=True)
class PercentileMasker(_Thresholding):
    """The warmest pixels, always about the same share of the image.

    Attributes:
        percent: Share of the pixels that is cold.
        softness: As for `OtsuMasker`.
    """

    percent: float = 95.0
    softness: float = 0.0
    name = "percentile"

    def __post_init__(self) -> None:
        self._check("softness", 0.0, 1.0)
        self._check("percent", 0.0, 100.0)

    def threshold(self, infrared: np.ndarray) -> float:
        """Return the percentile."""
        return float(np.percentile(infrared, self.percent))


@dataclasses.dataclass(frozen=True)
class LocalContrastMasker(_Thresholding):
    """What is warmer than its surroundings, a warm background included.

    A pixel is hot where it exceeds the mean of its window by `deviations` standard deviations
    of the window (Niblack's threshold) and by `contrast`, so that the grain of a flat
    background stays cold. A body larger than the window is hot at its rim alone.
    Source: Niblack 1986, "An introduction to digital image processing", p. 115.

    Attributes:
        window: Side of the window as a share of the image's short side.
        deviations: Standard deviations of the window by which a hot pixel exceeds its mean.
        contrast: Least excess as a share of the distance between the 1st and the 99th
            percentile of the image, since the ranges of cameras differ.
        softness: As for `OtsuMasker`.
    """

    window: float = 0.25
    deviations: float = 1.0
    contrast: float = 0.15
    softness: float = 0.0
    name = "local-contrast"

    def __post_init__(self) -> None:
        self._check("softness", 0.0, 1.0)
        self._check("window", 0.01, 2.0)
        self._check("deviations", 0.0, 10.0)
        self._check("contrast", 0.0, 1.0)

    def threshold(self, infrared: np.ndarray) -> np.ndarray:
        """Return the threshold of each pixel, HW."""
        from skimage.filters import threshold_niblack

        # Windows are odd; one of a single pixel would find no surroundings.
        half = max(1, round(self.window * min(infrared.shape) / 2))
        values = infrared.astype(np.float64)
        low, high = np.percentile(infrared, [1, 99])
        mean = threshold_niblack(values, 2 * half + 1, k=0.0)
        above = threshold_niblack(values, 2 * half + 1, k=-self.deviations)
        return np.maximum(above, mean + self.contrast * (high - low))


THERMAL_MASKS: dict[str, Callable[..., ThermalMasker]] = {
    "otsu": OtsuMasker,
    "percentile": PercentileMasker,
    "local-contrast": LocalContrastMasker,
}
"""The methods by name; each takes its options as keyword arguments, all of them numbers."""


def make_masker(name: str) -> ThermalMasker:
    """Return the method written as `name` or `name,option=number,...`.

    Raises:
        UnknownNameError: If no method or option has this name.
        InputError: If an option's value cannot be used.
    """
    spec = parse_spec(name)
    if spec.family not in THERMAL_MASKS or spec.weights:
        raise UnknownNameError.of("thermal mask method", name.partition(",")[0], THERMAL_MASKS)
    method = THERMAL_MASKS[spec.family]
    known = dict.fromkeys(getattr(method, "__dataclass_fields__", {}), float)
    return method(**convert_options(spec.options, known, spec.family))
