"""Random crops and flips that hit all images of a scene alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from v2ir.errors import DataError, InputError
from v2ir.images import Resampling, resize


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Where a crop comes from: first resize, then cut out, then perhaps flip.

    Attributes:
        width: Width in pixels to resize to.
        height: Height in pixels to resize to.
        left: First column of the crop.
        top: First row of the crop.
        size: Side of the crop in pixels.
        flipped: Whether left and right are exchanged at last.
    """

    width: int
    height: int
    left: int
    top: int
    size: int
    flipped: bool

    def apply(self, pixels: np.ndarray, resampling: Resampling = "linear") -> np.ndarray:
        """Return the size x size crop of HW or HWC pixels, in memory of its own."""
        resized = resize(pixels, self.width, self.height, resampling)
        bottom, right = self.top + self.size, self.left + self.size
        crop = resized[self.top : bottom, self.left : right]
        return (crop[:, ::-1] if self.flipped else crop).copy()


def random_resized_crop(
    images: Sequence[np.ndarray],
    size: int,
    *,
    scales: tuple[float, float],
    flip: float,
    generator: np.random.Generator,
    resampling: Sequence[Resampling] | None = None,
) -> list[np.ndarray]:
    """Cut the same random square out of all images of a scene, keeping the aspect.

    The short side is resized to `size * u`, u uniform in `scales`; the square's place is
    uniform over all that fit.

    Args:
        images: HW or HWC uint8 images, or HW float32, of equal height and width.
        size: Side of the result in pixels.
        scales: Lowest and highest ratio of the resized short side to `size`, 1 or more.
        flip: Probability of a left-right flip, in [0, 1].
        generator: Source of all draws; always the same number of draws is taken.
        resampling: How to resize each image; by default `linear` for all. Use `nearest` for
            maps whose values must stay.

    Returns:
        The crops in the order of the images, size x size, of the same dtypes.

    Raises:
        DataError: If the images differ in height or width.
        InputError: If `size`, `scales` or `flip` is out of range.
    """
    height, width = _common_size(images)
    _require(size >= 1 and 1.0 <= scales[0] <= scales[1], "scales", (size, *scales))
    short = size * generator.uniform(*scales)
    ratio = short / min(height, width)
    wide, high = (max(size, round(side * ratio)) for side in (width, height))
    return _cut(images, _placed(wide, high, size, flip, generator), resampling)


def square_crop(
    images: Sequence[np.ndarray],
    size: int = 256,
    *,
    sides: tuple[int, int] = (256, 288),
    flip: float = 0.5,
    generator: np.random.Generator,
    resampling: Sequence[Resampling] | None = None,
) -> list[np.ndarray]:
    """Cut the same random square as DiffV2IR does, which does not keep the aspect.

    All images are resized to a square whose side is drawn from `sides`, both ends
    included, and a random crop of `size` is taken. The arguments that are not named here
    are those of `random_resized_crop`.

    Source: DiffV2IR, released training configuration (the paper states 286 px).

    Args:
        images: HW or HWC uint8 images, or HW float32, of equal height and width.
        size: Side of the result in pixels.
        sides: Least and greatest side of the resized square in pixels, at least `size`.
        flip: Probability of a left-right flip, in [0, 1].
        generator: Source of all draws.
        resampling: How to resize each image; by default `linear` for all.

    Raises:
        DataError: If the images differ in height or width.
        InputError: If `sides` or `flip` is out of range.
    """
    _common_size(images)
    _require(1 <= size <= sides[0] <= sides[1], "sides", (size, *sides))
    side = int(generator.integers(sides[0], sides[1], endpoint=True))
    return _cut(images, _placed(side, side, size, flip, generator), resampling)


def _common_size(images: Sequence[np.ndarray]) -> tuple[int, int]:
    sizes = {image.shape[:2] for image in images}
    if len(sizes) != 1:
        raise DataError(
            "the images of a scene must have one size",
            got=", ".join(f"{width}x{height}" for height, width in sorted(sizes)) or "no image",
            do="run `v2ir check` and register or resize the images it names",
        )
    return next(iter(sizes))


def _require(holds: bool, name: str, values: tuple[float, ...]) -> None:
    if not holds:
        raise InputError(
            f"size and {name} do not allow a crop",
            got=", ".join(map(str, values)),
            do=f"give {name} in rising order, large enough for the size",
        )


def _placed(
    width: int, height: int, size: int, flip: float, generator: np.random.Generator
) -> Geometry:
    if not 0.0 <= flip <= 1.0:
        raise InputError("flip is a probability", got=str(flip), do="give a number in [0, 1]")
    left = int(generator.integers(0, width - size, endpoint=True))
    top = int(generator.integers(0, height - size, endpoint=True))
    return Geometry(width, height, left, top, size, flipped=bool(generator.random() < flip))


def _cut(
    images: Sequence[np.ndarray], geometry: Geometry, resampling: Sequence[Resampling] | None
) -> list[np.ndarray]:
    ways = resampling or ["linear"] * len(images)
    return [geometry.apply(image, way) for image, way in zip(images, ways, strict=True)]
