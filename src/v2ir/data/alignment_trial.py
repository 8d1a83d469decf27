"""How well misalignment is told: a trial on the pairs of a data set and on spoilt ones."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from v2ir.data.alignment import WIDTH, Alignment, measure
from v2ir.data.scenes import load_scenes
from v2ir.errors import DataError, ImageReadError
from v2ir.images import read_thumbnail
from v2ir.records import Progress, Scene, no_progress

SHIFTS = (4, 8, 16)
"""Lengths in pixels, at a width of 256, by which pairs are shifted on purpose."""


@dataclasses.dataclass(frozen=True)
class TrialRow:
    """What became of one class of pairs.

    Attributes:
        pairs: The class: an alignment that the data set states, or what was done to pairs.
        number: Number of pairs.
        aligned: Share that was called aligned, in [0, 1].
        shifted: Share that was called shifted.
        doubtful: Share in which nothing showed that both are of one scene.
        auc: Probability that a pair of this class is stronger near zero shift than a
            mismatched pair; None for classes that are spoilt.
        exact: Share in which the shift made on purpose was found within 1 px; None where
            none was made.
    """

    pairs: str
    number: int
    aligned: float
    shifted: float
    doubtful: float
    auc: float | None = None
    exact: float | None = None


def trial(root: Path, *, seed: int = 0, progress: Progress = no_progress) -> list[TrialRow]:
    """Measure true, mismatched and shifted pairs of a data set.

    A mismatched pair is a visible image with the infrared image of another scene group,
    of the same style where there is one. A shifted pair is cut from a true one such that
    the infrared content lies 4, 8 or 16 px away in a random direction, at a width of 256.

    Args:
        root: Folder of an indexed data set.
        seed: Which partners and directions are drawn.
        progress: Told after each pair.

    Raises:
        DataError: If the data set has fewer than two readable pairs.
    """
    generator = np.random.default_rng(seed)
    pairs = list(_read_pairs(root, [scene for scene in load_scenes(root) if scene.is_pair]))
    if len({scene.group for scene, _, _ in pairs}) < 2:
        raise DataError(
            f"{root} has too few pairs for a trial",
            got=f"{len(pairs)} pairs of fewer than two scene groups",
            do="index more pairs",
        )
    true: list[tuple[Scene, Alignment]] = []
    mismatched: list[Alignment] = []
    shifted: dict[int, list[tuple[Alignment, bool]]] = {length: [] for length in SHIFTS}
    strangers = _strangers([scene for scene, _, _ in pairs], generator)
    for done, ((scene, visible, infrared), other) in enumerate(
        zip(pairs, strangers, strict=True), start=1
    ):
        unspoilt = measure(visible, infrared)
        true.append((scene, unspoilt))
        mismatched.append(measure(*_common(visible, pairs[other][2])))
        for length in SHIFTS:
            shifted[length].append(_shifted(visible, infrared, length, unspoilt, generator))
        progress(done, len(pairs))
    rows = []
    for stated in sorted({scene.alignment or "not stated" for scene, _ in true}):
        found = [found for scene, found in true if (scene.alignment or "not stated") == stated]
        rows.append(_row(f"alignment {stated}", found, auc=_auc(found, mismatched)))
    rows.append(_row("mismatched", mismatched))
    for length, results in shifted.items():
        exact = float(np.mean([hit for _, hit in results]))
        rows.append(_row(f"shifted by {length} px", [f for f, _ in results], exact=exact))
    return rows


def _read_pairs(
    root: Path, scenes: Sequence[Scene]
) -> Iterator[tuple[Scene, np.ndarray, np.ndarray]]:
    for scene in scenes:
        try:
            visible = read_thumbnail(root / str(scene.visible), WIDTH)
            infrared = read_thumbnail(root / str(scene.infrared), WIDTH)
        except ImageReadError:
            continue  # `v2ir check` lists it
        if visible.shape == infrared.shape and visible.shape[0] > 2 * max(SHIFTS):
            yield scene, visible, infrared


def _strangers(scenes: Sequence[Scene], generator: np.random.Generator) -> list[int]:
    """Draw for every scene the place of one of another group, of the same style if any."""
    chosen = []
    for scene in scenes:
        strange = [i for i, other in enumerate(scenes) if other.group != scene.group]
        alike = [i for i in strange if scenes[i].style == scene.style]
        chosen.append(int(generator.choice(alike or strange)))
    return chosen


def _common(visible: np.ndarray, infrared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    height = min(len(visible), len(infrared))
    return visible[:height], infrared[:height]


def _shifted(
    visible: np.ndarray,
    infrared: np.ndarray,
    length: int,
    unspoilt: Alignment,
    generator: np.random.Generator,
) -> tuple[Alignment, bool]:
    angle = generator.uniform(0, 2 * np.pi)
    right, down = round(length * np.cos(angle)), round(length * np.sin(angle))
    height, width = visible.shape
    inner = visible[length : height - length, length : width - length]
    moved = infrared[
        length - down : height - length - down, length - right : width - length - right
    ]
    found = measure(inner, moved)
    # Parallax that the true pair has already is not the trial's.
    error = max(abs(found.right - right - unspoilt.right), abs(found.down - down - unspoilt.down))
    return found, error <= 1


def _row(
    pairs: str, found: Sequence[Alignment], auc: float | None = None, exact: float | None = None
) -> TrialRow:
    counts = Counter(item.verdict for item in found)
    return TrialRow(
        pairs=pairs,
        number=len(found),
        aligned=counts["aligned"] / len(found),
        shifted=counts["shifted"] / len(found),
        doubtful=counts["doubtful"] / len(found),
        auc=auc,
        exact=exact,
    )


def _auc(true: Sequence[Alignment], mismatched: Sequence[Alignment]) -> float:
    one = np.array([item.near_zero for item in true])[:, None]
    other = np.array([item.near_zero for item in mismatched])[None, :]
    return float(np.mean((one > other) + 0.5 * (one == other)))
