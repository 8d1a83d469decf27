"""Distances between two sets of images, each image a row of network features.

All take two NxD arrays and count in float64. None of them knows which network made the
rows: the name under which a number is published is the caller's matter.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from v2ir.errors import InputError

SMALL_SET = 2048
NEIGHBOURS = 3
_BLOCK_ROWS = 1024


@dataclasses.dataclass(frozen=True)
class KernelDistance:
    """A kernel distance over subsets.

    Attributes:
        mean: Mean over the subsets.
        spread: Standard deviation over the subsets.
    """

    mean: float
    spread: float


def _checked(features: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    shapes = features.shape, others.shape
    usable = features.ndim == others.ndim == 2 and features.shape[1:] == others.shape[1:]
    if not usable or min(len(features), len(others)) < 2:
        raise InputError(
            "two sets of features cannot be compared",
            got=f"shapes {shapes[0]} and {shapes[1]}",
            do="give at least two images a set, all through the same network",
        )
    return features.astype(np.float64, copy=False), others.astype(np.float64, copy=False)


def frechet_distance(features: np.ndarray, others: np.ndarray) -> float:
    """Return the squared Frechet distance of the Gaussians fitted to two sets.

    |m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2)), covariances with N-1. With the
    centred rows X and Y, scaled so that C1 = X'X and C2 = Y'Y, the last trace is the sum
    of the singular values of X Y': exact, without the root of a DxD matrix, and small
    where there are fewer images than features. Where there are more, X and Y are
    replaced by the DxD triangular factors of their QR decomposition.

    Source: Dowson and Landau, 1982; Heusel et al., 2017.

    Args:
        features: NxD, at least two rows.
        others: MxD.

    Raises:
        InputError: If the shapes do not fit together.
    """
    features, others = _checked(features, others)
    gap = features.mean(0) - others.mean(0)
    first, second = _factor(features), _factor(others)
    cross = np.linalg.svd(first @ second.T, compute_uv=False).sum()
    traces = np.square(first).sum() + np.square(second).sum()
    # Rounding may leave equal sets a hair below zero.
    return max(float(gap @ gap + traces - 2.0 * cross), 0.0)


def _factor(features: np.ndarray) -> np.ndarray:
    """Return a matrix F of min(N, D) rows with F'F the covariance of the rows."""
    centred = (features - features.mean(0)) / math.sqrt(len(features) - 1)
    if len(centred) > centred.shape[1]:
        centred = np.linalg.qr(centred, mode="r")
    return centred


def kernel_distance(
    features: np.ndarray,
    others: np.ndarray,
    generator: np.random.Generator,
    *,
    num_subsets: int = 100,
    subset_size: int = 1000,
) -> KernelDistance:
    """Return the unbiased squared maximum mean discrepancy with the cubic kernel.

    k(x, y) = (x'y / D + 1)^3, mean over random subsets without replacement. Sets smaller
    than `subset_size` are compared whole, once.

    Source: Binkowski, Sutherland, Arbel and Gretton, 2018, section 4.

    Args:
        features: NxD.
        others: MxD.
        generator: Draws the subsets.
        num_subsets: How many subsets.
        subset_size: Images a subset.

    Raises:
        InputError: If the shapes do not fit together.
    """
    features, others = _checked(features, others)
    size = min(subset_size, len(features), len(others))
    if size == len(features) == len(others) or min(len(features), len(others)) < subset_size:
        return KernelDistance(discrepancy(features, others), 0.0)
    values = [
        discrepancy(
            features[generator.choice(len(features), size, replace=False)],
            others[generator.choice(len(others), size, replace=False)],
        )
        for _ in range(num_subsets)
    ]
    return KernelDistance(float(np.mean(values)), float(np.std(values)))


def discrepancy(features: np.ndarray, others: np.ndarray) -> float:
    """Return the unbiased squared maximum mean discrepancy of two whole sets, NxD and MxD."""
    features, others = _checked(features, others)
    num, num_others, size = len(features), len(others), features.shape[1]

    def kernel(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        values: np.ndarray = (rows @ columns.T / size + 1.0) ** 3
        return values

    def own(rows: np.ndarray) -> float:
        values = kernel(rows, rows)
        return float((values.sum() - np.trace(values)) / (len(rows) * (len(rows) - 1)))

    cross = float(kernel(features, others).sum()) / (num * num_others)
    return own(features) + own(others) - 2.0 * cross


def precision_and_recall(
    features: np.ndarray, truth: np.ndarray, neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
    """Return how much of a set lies among the true one, and how much of that it covers.

    A point lies among a set when it is within the distance of some point of the set to
    that point's k-th nearest neighbour.

    Source: Kynkaanniemi et al., 2019, equations 1 and 2.

    Args:
        features: NxD of the judged images.
        truth: MxD of the true images.
        neighbours: k.

    Raises:
        InputError: If a set has no more than k images or the shapes do not fit.
    """
    features, truth = _checked(features, truth)
    if min(len(features), len(truth)) <= neighbours:
        raise InputError(
            "too few images for precision and recall",
            got=f"{len(features)} and {len(truth)}",
            do=f"give more than {neighbours} a set",
        )
    precision = _share_among(features, truth, neighbours)
    return precision, _share_among(truth, features, neighbours)


def _share_among(points: np.ndarray, manifold: np.ndarray, neighbours: int) -> float:
    """Return the share of `points` within the k-neighbour ball of any manifold point."""
    radii = np.concatenate(
        [
            np.partition(
                _squared_distances(manifold[top : top + _BLOCK_ROWS], manifold), neighbours
            )[:, neighbours]
            for top in range(0, len(manifold), _BLOCK_ROWS)
        ]
    )
    inside = 0
    for top in range(0, len(points), _BLOCK_ROWS):
        distances = _squared_distances(points[top : top + _BLOCK_ROWS], manifold)
        inside += int((distances <= radii * (1 + 1e-9) + 1e-12).any(axis=1).sum())
    return inside / len(points)


def _squared_distances(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    squares = np.square(rows).sum(1)[:, None] + np.square(columns).sum(1)[None, :]
    distances: np.ndarray = np.maximum(squares - 2.0 * rows @ columns.T, 0.0)
    return distances
