"""Compare each method's images as a set with the true ones, on a feature network."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from v2ir.errors import InputError
from v2ir.evaluation.cases import TRUTH, Knowledge, Plan, images_of, read_photograph, read_truth
from v2ir.evaluation.comparison import Evaluation
from v2ir.evaluation.distances import (
    NEIGHBOURS,
    SMALL_SET,
    frechet_distance,
    kernel_distance,
    precision_and_recall,
)
from v2ir.evaluation.features import FeatureNetwork
from v2ir.records import Progress, no_progress

SEED = 0


@dataclasses.dataclass(frozen=True)
class SetScore:
    """The numbers of one method's images as a set.

    Attributes:
        method: Name of the method or baseline.
        frechet: Frechet distance to the true images.
        kernel: Kernel distance to the true images.
        kernel_spread: Its standard deviation over subsets; 0 where the sets are small
            enough to be compared whole.
        precision: Share of the images that lie among the true ones; NaN for tiny sets.
        recall: Share of the true images that the method's cover; NaN for tiny sets.
    """

    method: str
    frechet: float
    kernel: float
    kernel_spread: float
    precision: float
    recall: float


@dataclasses.dataclass(frozen=True)
class SetReport:
    """All methods as sets, with what tells how far the numbers may be trusted.

    Attributes:
        network: Name of the feature network.
        version: Its version.
        frechet_name: Name of the Frechet distance; FID only on the Inception network.
        kernel_name: Name of the kernel distance; KID only on the Inception network.
        num_images: Images a set.
        scores: One a method.
        floor: Real half against real half: what is left of the distances where there is
            no difference but chance. None below four images.
        warnings: What is wrong with the sets.
    """

    network: str
    version: str
    frechet_name: str
    kernel_name: str
    num_images: int
    scores: tuple[SetScore, ...]
    floor: SetScore | None
    warnings: tuple[str, ...]


def evaluate_sets(
    plan: Plan,
    evaluation: Evaluation,
    network: FeatureNetwork,
    knowledge: Knowledge | None = None,
    *,
    progress: Progress = no_progress,
) -> SetReport:
    """Measure the sets of the images that a comparison took in.

    One case's images are in memory at a time, and one row of features an image.

    Args:
        plan: What was compared.
        evaluation: Its result: the same images, the same methods.
        network: Where the features come from.
        knowledge: What the baselines are made from.
        progress: Told (done, total) after each case.

    Raises:
        InputError: If fewer than two images were compared.
    """
    names = set(evaluation.names)
    cases = [case for case in plan.cases if case.name in names]
    if len(cases) < 2:
        raise InputError("a set needs at least two images", got=f"{len(cases)}")
    rows: dict[str, list[np.ndarray]] = {}
    for done, case in enumerate(cases):
        truth, photograph = read_truth(plan, case), read_photograph(plan, case)
        found = images_of(plan, case, knowledge or Knowledge(), truth.shape, photograph)
        images = {TRUTH: truth, **dict(found)}
        features = network.features(images.values())
        for method, row in zip(images, features, strict=True):
            rows.setdefault(method, []).append(row)
        progress(done + 1, len(cases))
    features_of = {method: np.stack(found) for method, found in rows.items()}
    return compare_sets(features_of.pop(TRUTH), features_of, network)


def compare_sets(
    truth: np.ndarray, methods: dict[str, np.ndarray], network: FeatureNetwork
) -> SetReport:
    """Compare sets of features, NxD each, with those of the true images, MxD."""
    order = np.random.default_rng(SEED).permutation(len(truth))
    half = len(truth) // 2
    floor = _score(TRUTH, truth[order[:half]], truth[order[half : 2 * half]]) if half > 1 else None
    sizes = sorted({len(rows) for rows in methods.values()})
    return SetReport(
        network=network.name,
        version=network.version,
        frechet_name=network.frechet_name,
        kernel_name=network.kernel_name,
        num_images=len(truth),
        scores=tuple(_score(method, rows, truth) for method, rows in methods.items()),
        floor=floor,
        warnings=set_warnings(len(truth), sizes, truth.shape[1]),
    )


def set_warnings(num_truth: int, sizes: list[int], num_features: int) -> tuple[str, ...]:
    """Say what makes distances of sets of these sizes untrustworthy."""
    warnings = []
    if any(size != num_truth for size in sizes):
        warnings.append(
            f"sets of unequal size ({num_truth} true, {', '.join(map(str, sizes))} judged): the "
            "Frechet distance falls with the number of images; compare equal sets only"
        )
    least = min([num_truth, *sizes])
    if least < SMALL_SET:
        few = f", fewer than the {num_features} features" if least < num_features else ""
        warnings.append(
            f"small sets ({least} images{few}): the Frechet distance is biased upwards; compare "
            "it only with sets of this size, and with the real-against-real row"
        )
    return tuple(warnings)


def _score(method: str, features: np.ndarray, truth: np.ndarray) -> SetScore:
    kernel = kernel_distance(features, truth, np.random.default_rng(SEED))
    precision = recall = math.nan
    if min(len(features), len(truth)) > NEIGHBOURS:
        precision, recall = precision_and_recall(features, truth)
    distance = frechet_distance(features, truth)
    return SetScore(method, distance, kernel.mean, kernel.spread, precision, recall)
