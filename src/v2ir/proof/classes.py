"""Which classes a proof is about, and the scenes that show them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from v2ir.errors import DataError, InputError
from v2ir.proof.scenes import ProofScene
from v2ir.proof.task import Task

LEAST_LABELS = 10
_SHOWN = 8


def classes_of(
    task: Task[Any, Any],
    training: Sequence[ProofScene],
    testing: Sequence[ProofScene],
    wanted: Sequence[str] = (),
) -> tuple[str, ...]:
    """Return the classes to learn: those wanted, else all that the labels name ten times.

    Args:
        task: What is learned.
        training: Labelled scenes to learn from.
        testing: Labelled scenes to test on.
        wanted: Classes that were asked for.

    Raises:
        InputError: If too few are wanted to be a question.
        DataError: If too few are named ten times on both sides, or a wanted one is not
            named on one side.
    """
    counts = [Counter(c for scene in side for c in scene.labels) for side in (training, testing)]
    for label in wanted:
        if not all(count[label] for count in counts):
            raise DataError(
                f"no {task.counted.removesuffix('s')} of the class {label!r} to "
                f"{'test' if counts[0][label] else 'train'} on",
                got=_overview(counts),
                do="give other --classes or other labels",
            )
    chosen = tuple(dict.fromkeys(wanted))
    if chosen and len(chosen) < task.least_classes:
        raise InputError(
            f"a {task.learner} tells classes apart",
            got=f"--classes {','.join(chosen)}",
            do=f"name at least {task.least_classes}, or none for all",
        )
    enough = (c for c in counts[0] if all(count[c] >= LEAST_LABELS for count in counts))
    classes = chosen or tuple(sorted(enough))
    if len(classes) < task.least_classes:
        raise DataError(
            f"there are too few {task.counted} to prove anything",
            got=_overview(counts),
            do=f"a {task.learner} needs at least {task.least_classes} class(es) with "
            f"{LEAST_LABELS} {task.counted} on both sides, or name smaller ones by --classes",
        )
    return classes


def _overview(counts: Sequence[Counter[str]]) -> str:
    """Say how often each class is named; only the most frequent where there are many."""
    both = (counts[0] + counts[1]).most_common(_SHOWN)
    each = ", ".join(f"{label} {counts[0][label]} / {counts[1][label]}" for label, _ in both)
    return f"{each or 'none'} (to train / to test on)"


def with_classes(scenes: Sequence[ProofScene], classes: Sequence[str]) -> list[ProofScene]:
    """Keep only the boxes of some classes, and leave out images of any other class."""
    return [
        dataclasses.replace(s, boxes=tuple(box for box in s.boxes if box.label in classes))
        for s in scenes
        if s.label is None or s.label in classes
    ]
