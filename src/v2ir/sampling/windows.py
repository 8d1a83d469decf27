"""Large latents in overlapping windows, with memory that does not grow with the image.

Every step of the solver blends the predictions of overlapping windows, so all windows
share one noise field and one trajectory, and any solver works unchanged.
Source: MultiDiffusion, Bar-Tal et al. 2023, Eq. 5, with smooth instead of equal weights.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from v2ir.errors import InputError
from v2ir.model.conditions import Conditions
from v2ir.model.denoiser import Denoiser


@dataclasses.dataclass(frozen=True)
class Span:
    """A window along one axis.

    Attributes:
        start: First position.
        stop: Position behind the last one.
        before: Positions shared with the window before.
        after: Positions shared with the window behind.
    """

    start: int
    stop: int
    before: int = 0
    after: int = 0

    def weights(self, scale: int = 1) -> Tensor:
        """Return the blending weights, (stop - start) * `scale` values in [0, 1].

        In an overlap one window's weight falls as the next one's rises, so at every
        position the weights of all windows sum to one. The outer three eighths of an overlap
        have weight zero: there a window has seen least of its surroundings.
        """
        weights = torch.ones((self.stop - self.start) * scale)
        if self.before:
            weights[: self.before * scale] = _ramp(self.before * scale)
        if self.after:
            weights[len(weights) - self.after * scale :] = 1 - _ramp(self.after * scale)
        return weights


def _ramp(length: int) -> Tensor:
    centres = torch.arange(length) + 0.5
    return ((centres - 3 * length / 8) / (length / 4)).clamp(0, 1)


def spans(length: int, size: int, overlap: int, multiple: int = 1) -> list[Span]:
    """Cover an axis with windows of one size that overlap by at least `overlap`.

    Args:
        length: Positions to cover; a multiple of `multiple`.
        size: Largest window; a multiple of `multiple`.
        overlap: Least overlap, at most a third of `size`, so that no position lies in
            more than two windows.
        multiple: Windows start and end at multiples of this.

    Raises:
        InputError: If the sizes do not fit together.
    """
    if not 0 < overlap <= size // 3 or size % multiple or length % multiple:
        raise InputError(
            "windows must be multiples that overlap by at most a third",
            got=f"length {length}, size {size}, overlap {overlap}, multiple {multiple}",
        )
    if length <= size:
        return [Span(0, length)]
    units, largest = length // multiple, size // multiple
    least = -(-overlap // multiple)
    number = -(-(units - least) // (largest - least))
    width = -(-(units + (number - 1) * least) // number)
    starts = [round(index * (units - width) / (number - 1)) for index in range(number)]
    shared = [(left + width - right) * multiple for left, right in itertools.pairwise(starts)]
    return [
        Span(start * multiple, (start + width) * multiple, before, after)
        for start, before, after in zip(starts, [0, *shared], [*shared, 0], strict=True)
    ]


def _blend(
    evaluate: Callable[[Span, Span], Tensor], rows: list[Span], columns: list[Span], scale: int = 1
) -> Tensor:
    """Sum the weighted results of all windows; a result has `scale` pixels a position."""
    if len(rows) == len(columns) == 1:
        return evaluate(rows[0], columns[0])
    total: Tensor | None = None
    for row in rows:
        for column in columns:
            part = evaluate(row, column)
            if total is None:
                shape = (rows[-1].stop * scale, columns[-1].stop * scale)
                total = part.new_zeros((*part.shape[:-2], *shape))
            weights = row.weights(scale)[:, None] * column.weights(scale)
            window = total[..., _cut(row, scale), _cut(column, scale)]
            window += part * weights.to(part)
    assert total is not None
    return total


def _cut(span: Span, scale: int = 1) -> slice:
    return slice(span.start * scale, span.stop * scale)


@dataclasses.dataclass(frozen=True)
class Windows:
    """The largest piece that a network is given at once, in latent pixels.

    Attributes:
        size: Side of the largest window.
        overlap: Least overlap of neighbours, at most a third of `size`.
        multiple: Sides of windows are multiples of this.
    """

    size: int
    overlap: int
    multiple: int = 1

    def along(self, length: int) -> list[Span]:
        """Cover an axis of `length` latent pixels."""
        return spans(length, self.size, self.overlap, self.multiple)

    def encode(self, encode: Callable[[Tensor], Tensor], images: Tensor, factor: int) -> Tensor:
        """Encode (N, 3, H, W) in windows to (N, c, H / `factor`, W / `factor`)."""
        rows, columns = (self.along(side // factor) for side in images.shape[-2:])
        return _blend(
            lambda row, column: encode(images[..., _cut(row, factor), _cut(column, factor)]),
            rows,
            columns,
        )

    def decode(self, decode: Callable[[Tensor], Tensor], latents: Tensor, factor: int) -> Tensor:
        """Decode (N, c, h, w) in windows to (N, 3, h * `factor`, w * `factor`)."""
        rows, columns = (self.along(side) for side in latents.shape[-2:])
        return _blend(
            lambda row, column: decode(latents[..., _cut(row), _cut(column)]),
            rows,
            columns,
            factor,
        )


class WindowedDenoiser:
    """A denoiser that asks another one window by window and blends the predictions.

    Where the other denoiser works on every pixel alone, the result is the same as
    without windows; a latent that fits into one window is passed on as it is.

    Attributes:
        denoiser: The denoiser that is asked, guided or not.
        windows: Sizes of the windows.
    """

    def __init__(self, denoiser: Denoiser, windows: Windows) -> None:
        self.denoiser = denoiser
        self.windows = windows

    def __call__(self, noisy: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        """Predict for (N, c, h, w); see `v2ir.model.Denoiser`."""

        def evaluate(row: Span, column: Span) -> Tensor:
            if len(rows) == len(columns) == 1:  # the same object again, not a copy
                return self.denoiser(noisy, timestep, conditions)
            size = (row.stop - row.start, column.stop - column.start)
            part = conditions.crop(row.start, column.start, *size)
            return self.denoiser(noisy[..., _cut(row), _cut(column)], timestep, part)

        rows, columns = (self.windows.along(side) for side in noisy.shape[-2:])
        return _blend(evaluate, rows, columns)
