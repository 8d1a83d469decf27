"""Loops over the pixels of one channel, compiled, each in one pass over the memory.

Numpy goes over an image once for every sum and product. Here a row is read once, and what
follows from it is counted while it lies in the cache. A function is compiled when it is first
called, which takes seconds, and kept on disk; while one runs, other threads go on.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from v2ir.evaluation.compiling import compiled


@compiled
def halve(values: Any, found: Any) -> None:
    """Write the means of 2x2 pixels; an odd last row or column is left out."""
    kind = found.dtype.type
    for y in range(found.shape[0]):
        upper, lower, out = values[2 * y], values[2 * y + 1], found[y]
        for x in range(out.size):
            left, right = kind(upper[2 * x]), kind(upper[2 * x + 1])
            out[x] = (left + right + kind(lower[2 * x]) + kind(lower[2 * x + 1])) * kind(0.25)


@compiled
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


@compiled
def gradient_lengths(values: Any, found: Any) -> None:
    """Write the length of the gradient, float32, of HW uint8 or float32; sides of at least 2 px."""
    for y in range(len(values)):
        _twice_the_gradient(values, y, found[y])
        found[y] *= found.dtype.type(0.5)


@compiled
def gradient_mean(values: Any) -> float:
    """Return the mean of what `gradient_lengths` writes."""
    row = np.empty(values.shape[1], np.float32)
    total = 0.0
    for y in range(len(values)):
        _twice_the_gradient(values, y, row)
        total += row.sum()
    return total / 2 / values.size


@compiled
def count_pairs(levels: Any, others: Any, counts: Any) -> None:
    """Add to 256x256 counts how many places have each pair of levels; both of one axis."""
    for place in range(levels.size):
        counts[levels[place], others[place]] += 1


@compiled
def margins(counts: Any, rows: Any, columns: Any) -> None:
    """Set the sums of the rows and of the columns of 256x256 counts."""
    columns[:] = 0
    for level in range(len(counts)):
        row, total = counts[level], 0
        for other in range(row.size):
            total += row[other]
            columns[other] += row[other]
        rows[level] = total


@compiled
def sum_of_pairs(counts: Any, values: Any) -> float:
    """Return the sum of products of 256x256 counts and what stands for each pair of levels."""
    total = 0.0
    for level in range(len(counts)):
        row, others = counts[level], values[level]
        for other in range(row.size):
            total += row[other] * others[other]
    return total


@compiled
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


@compiled
def sum_of_products(counts: Any, values: Any, others: Any) -> float:
    """Return the sum over 256x256 counts of the products of what stands for both levels."""
    total = 0.0
    for level in range(len(counts)):
        row, part = counts[level], 0.0
        for other in range(row.size):
            part += row[other] * others[other]
        total += part * values[level]
    return total


@compiled
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


@compiled
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


@compiled
def _meet(values: Any, others: Any, found: Any) -> None:
    """Write where one of two rows is not 0."""
    for x in range(found.size):
        found[x] = values[x] | others[x]


@compiled
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


@compiled
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


@compiled
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
