"""Loops over the pixels of one channel, compiled, each in one pass over the memory.

Numpy goes over an image once for every sum and product. Here a row is read once, and what
follows from it is counted while it lies in the cache. A function is compiled when it is first
called, which takes seconds, and kept on disk; while one runs, other threads go on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

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
# Sums may be taken in another order, so that several are taken at once.
_FREEDOMS = {"reassoc", "contract", "nsz"}
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": _FREEDOMS, "error_model": "numpy"}


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        made: Callable[..., Any] = numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # nowhere to keep it: compiled anew in each process
        made = numba.njit(**_OPTIONS)(function)
    return made


def _inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function into those that call it: a call for each short row would cost a tenth."""
    made: Callable[..., Any] = numba.njit(inline="always", **_OPTIONS)(function)
    return made


@_inlined
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


@_inlined
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


@_inlined
def _row_after(place: Any, number: int) -> Any:
    """Return where in the ring the row begins that lies so many after one."""
    return (place + np.uintp(number)) % np.uintp(WINDOW) * _ROW


@_inlined
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


@_inlined
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


@_compiled
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


@_compiled
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


@_compiled
def halve(values: Any, found: Any) -> None:
    """Write the means of 2x2 pixels; an odd last row or column is left out."""
    kind = found.dtype.type
    for y in range(found.shape[0]):
        upper, lower, out = values[2 * y], values[2 * y + 1], found[y]
        for x in range(out.size):
            left, right = kind(upper[2 * x]), kind(upper[2 * x + 1])
            out[x] = (left + right + kind(lower[2 * x]) + kind(lower[2 * x + 1])) * kind(0.25)


@_compiled
def _twice_the_gradient(values: Any, y: int, out: Any) -> None:
    """Write twice the length of the gradient of a row; one-sided differences at the borders."""
    height, width = values.shape
    row, upper, lower = values[y], values[max(y - 1, 0)], values[min(y + 1, height - 1)]
    kind = out.dtype.type
    down = kind(2.0 if y in (0, height - 1) else 1.0)
    for x in range(1, width - 1):
        right = kind(row[x + 1]) - kind(row[x - 1])
        below = (kind(lower[x]) - kind(upper[x])) * down
        out[x] = np.sqrt(right * right + below * below)
    for x in (0, width - 1):
        right = kind(row[min(x + 1, width - 1)]) - kind(row[max(x - 1, 0)])
        below = (kind(lower[x]) - kind(upper[x])) * down
        out[x] = np.sqrt(4 * right * right + below * below)


@_compiled
def gradient_lengths(values: Any, found: Any) -> None:
    """Write the length of the gradient, float32, of HW uint8 or float32; sides of at least 2 px."""
    for y in range(len(values)):
        _twice_the_gradient(values, y, found[y])
        found[y] *= found.dtype.type(0.5)


@_compiled
def gradient_mean(values: Any) -> float:
    """Return the mean of what `gradient_lengths` writes."""
    row = np.empty(values.shape[1], np.float32)
    total = 0.0
    for y in range(len(values)):
        _twice_the_gradient(values, y, row)
        total += row.sum()
    return total / 2 / values.size


@_compiled
def count_pairs(levels: Any, others: Any, counts: Any) -> None:
    """Add to 256x256 counts how many places have each pair of levels; both of one axis."""
    for place in range(levels.size):
        counts[levels[place], others[place]] += 1


@_compiled
def margins(counts: Any, rows: Any, columns: Any) -> None:
    """Set the sums of the rows and of the columns of 256x256 counts."""
    columns[:] = 0
    for level in range(len(counts)):
        row, total = counts[level], 0
        for other in range(row.size):
            total += row[other]
            columns[other] += row[other]
        rows[level] = total


@_compiled
def sum_of_pairs(counts: Any, values: Any) -> float:
    """Return the sum of products of 256x256 counts and what stands for each pair of levels."""
    total = 0.0
    for level in range(len(counts)):
        row, others = counts[level], values[level]
        for other in range(row.size):
            total += row[other] * others[other]
    return total


@_compiled
def sums_of_errors(counts: Any) -> Any:
    """Return the sums over 256x256 counts of the absolute and of the squared gap of the levels."""
    total, squares = 0.0, 0.0
    for level in range(len(counts)):
        row, part, square = counts[level], 0.0, 0.0
        for other in range(row.size):
            gap = np.float64(np.int32(level - other))
            weighted = row[other] * gap
            part += abs(weighted)
            square += weighted * gap
        total += part
        squares += square
    return total, squares


@_compiled
def sum_of_products(counts: Any, values: Any, others: Any) -> float:
    """Return the sum over 256x256 counts of the products of what stands for both levels."""
    total = 0.0
    for level in range(len(counts)):
        row, part = counts[level], 0.0
        for other in range(row.size):
            part += row[other] * others[other]
        total += part * values[level]
    return total


@_compiled
def _running(values: Any, side: int, found: Any) -> None:
    """Write the sums of so many values from each place on."""
    # Sums that are kept at once stay in their own type, of which more are added at a time than
    # of whole numbers of 64 bits; only what runs has to be taken one by one.
    leaving, entering = values[: found.size], values[side:]
    for x in range(found.size):
        found[x] = entering[x] - leaving[x]
    total = values[:side].sum()
    for x in range(found.size):
        change = found[x]
        found[x] = total
        total += change


@_compiled
def stand_out(levels: Any, side: int, margin: int, threshold: int, sums: Any, found: Any) -> None:
    """Write where a level is above a threshold and above what is around it.

    Args:
        levels: HW uint8, both sides at least `side`.
        side: Odd side of the square around a pixel; borders are mirrored.
        margin: The level is to be more than this over `side`^2 above the square's mean.
        threshold: The level is to be above this, too.
        sums: Memory for W + `side` sums of `side`^2 levels, of a type that holds them.
        found: HW bool, to be set.
    """
    height, width = levels.shape
    whole = sums.dtype.type
    reach, area = side // 2, whole(side * side)
    # Of each column the sum of the rows in reach, with the columns mirrored to both sides.
    sums[:] = 0
    inner, excess = sums[reach : reach + width], np.empty(width, sums.dtype)
    for y in range(-reach, reach + 1):
        row = levels[y if y >= 0 else -y - 1]
        for x in range(width):
            inner[x] += row[x]
    for y in range(height):
        if y:
            new, old = y + reach, y - 1 - reach
            upper = levels[old if old >= 0 else -old - 1]
            lower = levels[new if new < height else 2 * height - 1 - new]
            for x in range(width):
                inner[x] += whole(lower[x]) - whole(upper[x])
        for x in range(reach):
            sums[reach - 1 - x] = inner[x]
            sums[reach + width + x] = inner[width - 1 - x]
        _running(sums, side, excess)
        row, out = levels[y], found[y]
        for x in range(width):
            excess[x] = whole(row[x]) * area - excess[x]
        for x in range(width):
            out[x] = (row[x] > threshold) & (excess[x] > margin)


@_compiled
def _meet(values: Any, others: Any, found: Any) -> None:
    """Write where one of two rows is not 0."""
    for x in range(found.size):
        found[x] = values[x] | others[x]


@_compiled
def around(mask: Any, radius: int, found: Any) -> None:
    """Write what lies around a mask: no further than `radius` by row and by column, not in it.

    Args:
        mask: HW uint8 of 0 and 1.
        radius: In pixels, from 1 to 100.
        found: HW bool, to be set.
    """
    height, width = mask.shape
    # Of each column how many rows in reach are set, with nothing beyond both sides.
    side = 2 * radius + 1
    counts = np.zeros(width + side - 1, np.uint8)
    inner, near, spare = counts[radius : radius + width], counts.copy(), counts.copy()
    for y in range(-radius, height):
        new, old = y + radius, y - 1 - radius
        if new < height:
            row = mask[new]
            for x in range(width):
                inner[x] += row[x]
        if old >= 0:
            row = mask[old]
            for x in range(width):
                inner[x] -= row[x]
        if y < 0:
            continue
        # What is known of so many columns from each one on is, moved, known of twice as many.
        size = counts.size - 1
        _meet(counts, counts[1:], near[:size])
        reach = 2
        while reach < side:
            step = min(reach, side - reach)
            size -= step
            _meet(near, near[step:], spare[:size])
            near, spare = spare, near
            reach += step
        row, out = mask[y], found[y]
        for x in range(width):
            out[x] = (near[x] != 0) & (row[x] == 0)


@_compiled
def sums_of_levels(levels: Any, mask: Any, other: Any) -> Any:
    """Return the sums of the levels where each of two masks of 0 and 1 is set; all HW uint8."""
    total, other_total = np.int64(0), np.int64(0)
    for y in range(levels.shape[0]):
        row, weights, others = levels[y], mask[y], other[y]
        part, other_part = np.int32(0), np.int32(0)
        for x in range(row.size):
            # Without the outer type each sum would be one of 64 bits.
            part = np.int32(part + np.int32(row[x]) * np.int32(weights[x]))
            other_part = np.int32(other_part + np.int32(row[x]) * np.int32(others[x]))
        total += np.int64(part)
        other_total += np.int64(other_part)
    return total, other_total


@_compiled
def sum_of_gaps(levels: Any, others: Any, mask: Any) -> Any:
    """Return the sum of absolute differences where a mask of 0 and 1 is set; all HW uint8."""
    total = np.int64(0)
    for y in range(levels.shape[0]):
        row, other, weights, part = levels[y], others[y], mask[y], np.int32(0)
        for x in range(row.size):
            gap = np.int32(np.int32(row[x]) - np.int32(other[x]))
            part = np.int32(part + np.int32(abs(gap)) * np.int32(weights[x]))
        total += np.int64(part)
    return total
