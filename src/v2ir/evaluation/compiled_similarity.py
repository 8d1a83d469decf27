"""The structural similarity of two images in one pass over the memory, compiled.

A tile of columns is filtered row by row, across and then down, while it lies in the cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from v2ir.evaluation.compiling import compiled, inlined

WINDOW = 11
"""Side of the window of the structural similarity, in pixels."""
STRIP_ROWS = 128
"""Rows that are counted less the same number; a strip begins with a window filled anew."""
TILE = 64
"""Columns of windows that are filtered together, so that eleven rows of them stay in the cache."""
# An index that may be negative keeps a loop from being made wide, so those that begin somewhere
# are without a sign.
_SPAN, _FIELD, _ROW = np.uintp(TILE), np.uintp(TILE + WINDOW - 1), np.uintp(4 * TILE)
_TAPS = tuple(np.uintp(tap) for tap in range(WINDOW))


@inlined
def _fill(judged: Any, truth: Any, place: Any, width: Any, offsets: Any, fields: Any) -> None:
    """Set the fields of a row of a tile: p + t and p - t, less an offset each, and their squares.

    Args:
        judged: The image that is judged.
        truth: The true one.
        place: Row and column of the first pixel, without a sign.
        width: How many pixels there are, without a sign.
        offsets: Of p + t and of p - t.
        fields: Four times `_FIELD` numbers, to be set.
    """
    number = fields.dtype.type
    y, left = place
    total_offset, gap_offset = offsets
    for x in range(width):
        first, second = number(judged[y, left + x]), number(truth[y, left + x])
        total = first + second - total_offset
        gap = first - second - gap_offset
        fields[x] = total
        fields[_FIELD + x] = gap
        fields[_FIELD + _FIELD + x] = total * total
        fields[_FIELD + _FIELD + _FIELD + x] = gap * gap


@inlined
def _across(fields: Any, weights: Any, ring: Any, place: Any) -> None:
    """Filter the fields of a row along it, into one place of the ring."""
    a, b, c, d, e, f = weights
    _, one, two, three, four, five, six, seven, eight, nine, ten = _TAPS
    for number in range(4):
        first, out = np.uintp(number) * _FIELD, place * _ROW + np.uintp(number) * _SPAN
        for column in range(_SPAN):
            x = first + column
            ring[out + column] = (
                a * (fields[x] + fields[x + ten])
                + b * (fields[x + one] + fields[x + nine])
                + c * (fields[x + two] + fields[x + eight])
                + d * (fields[x + three] + fields[x + seven])
                + e * (fields[x + four] + fields[x + six])
                + f * fields[x + five]
            )


@inlined
def _row_after(place: Any, number: int) -> Any:
    """Return where in the ring the row begins that lies so many after one."""
    return (place + np.uintp(number)) % np.uintp(WINDOW) * _ROW


@inlined
def _down(ring: Any, place: Any, weights: Any, out: Any) -> None:
    """Filter the eleven rows of the ring, of which the first is at a place, all fields at once."""
    a, b, c, d, e, f = weights
    r0, r1, r2 = _row_after(place, 0), _row_after(place, 1), _row_after(place, 2)
    r3, r4, r5 = _row_after(place, 3), _row_after(place, 4), _row_after(place, 5)
    r6, r7, r8 = _row_after(place, 6), _row_after(place, 7), _row_after(place, 8)
    r9, r10 = _row_after(place, 9), _row_after(place, 10)
    for x in range(_ROW):
        out[x] = (
            a * (ring[r0 + x] + ring[r10 + x])
            + b * (ring[r1 + x] + ring[r9 + x])
            + c * (ring[r2 + x] + ring[r8 + x])
            + d * (ring[r3 + x] + ring[r7 + x])
            + e * (ring[r4 + x] + ring[r6 + x])
            + f * ring[r5 + x]
        )


@inlined
def _lacking(means: Any, total: Any, gap: Any, width: Any, offsets: Any, constants: Any) -> Any:
    """Return the sums over a row of windows of what they lack to 1: whole, and contrast.

    Args:
        means: Of the four fields, `_SPAN` numbers each.
        total: Where the means of the sum begin, less its offset; those of its square lie two
            fields behind.
        gap: The same of the difference.
        width: How many windows there are.
        offsets: Of sum and difference.
        constants: Twice the first constant, and twice the second.
    """
    kind = means.dtype.type
    whole, contrast = kind(0), kind(0)
    offset, gap_offset = offsets
    light, texture = constants
    for x in range(width):
        both, apart = means[total + x], means[gap + x]
        total_variance = means[total + _SPAN + _SPAN + x] - both * both
        gap_variance = means[gap + _SPAN + _SPAN + x] - apart * apart
        share = (gap_variance + gap_variance) / (gap_variance + total_variance + texture)
        near, far = both + offset, apart + gap_offset
        far *= far
        dark = (far + far) / (far + near * near + light)
        contrast += share
        whole += share + dark - share * dark
    return whole, contrast


@compiled
def _near_means(judged: Any, truth: Any, top: int, end: int, number: Any) -> Any:
    """Return whole numbers near the means of sum and difference of some rows."""
    # Any number near the mean will do, so a few pixels tell it.
    judged_sum, truth_sum, count = 0.0, 0.0, 0
    for y in range(top, end, 8):
        for x in range(4, truth.shape[1], 8):
            judged_sum += judged[y, x]
            truth_sum += truth[y, x]
            count += 1
    total, gap = (judged_sum + truth_sum) / count, (judged_sum - truth_sum) / count
    return number(np.rint(total)), number(np.rint(gap))


@compiled
def similarity_means(
    truth: Any, judged: Any, weights: Any, constants: Any, negative: Any, found: Any
) -> None:
    """Write the means over all windows of the structural similarity of an image.

    With the sum s = p + t and the difference d = p - t the similarity of a window is
    [1 - 2 d^2 / (d^2 + s^2 + 2 C1)] [1 - 2 var_d / (var_d + var_s + 2 C2)], where d and s
    stand for their means in the first factor: the same as equation 13 with fewer steps.
    Each strip of rows is taken less a number near its own mean, so that float32 keeps the
    small variances of flat areas.

    Source: Wang, Bovik, Sheikh and Simoncelli, 2004, equation 13.

    Args:
        truth: HW uint8 or float, both sides at least 11.
        judged: The same shape and type.
        weights: The first six weights of the window, of the type to count in.
        constants: (2 C1, 2 C2), a pair of that type.
        negative: The negative image is `negative - judged`; 0 where it is not asked for.
        found: Four numbers, float64, to be set: the mean similarity, the mean of its contrast
            term alone, and both of the negative image; without meaning where it is not asked for.
    """
    height, width = truth.shape
    columns, kind = width - WINDOW + 1, weights.dtype.type
    six = (weights[0], weights[1], weights[2], weights[3], weights[4], weights[5])
    fields = np.zeros(4 * _FIELD, weights.dtype)
    ring = np.empty(WINDOW * _ROW, weights.dtype)
    means = np.empty(_ROW, weights.dtype)
    found[:] = 0.0
    for top in range(0, height - WINDOW + 1, STRIP_ROWS):
        end = min(top + STRIP_ROWS + WINDOW - 1, height)
        offset, gap_offset = _near_means(judged, truth, top, end, kind)
        for left in range(0, columns, TILE):
            pixels = np.uintp(min(TILE + WINDOW - 1, width - left))
            windows = np.uintp(min(TILE, columns - left))
            for y in range(top, end):
                place = np.uintp((y - top) % WINDOW)
                start = (np.uintp(y), np.uintp(left))
                _fill(judged, truth, start, pixels, (offset, gap_offset), fields)
                _across(fields, six, ring, place)
                if y - top < WINDOW - 1:
                    continue
                _down(ring, place + np.uintp(1), six, means)
                whole, contrast = _lacking(
                    means, np.uintp(0), _SPAN, windows, (offset, gap_offset), constants
                )
                found[0] += whole
                found[1] += contrast
                if negative > 0:
                    # A negative image swaps the roles of sum and difference.
                    turned = (gap_offset - kind(negative), offset - kind(negative))
                    whole, contrast = _lacking(
                        means, _SPAN, np.uintp(0), windows, turned, constants
                    )
                    found[2] += whole
                    found[3] += contrast
    for number in range(4):
        found[number] = 1.0 - found[number] / ((height - WINDOW + 1) * columns)
