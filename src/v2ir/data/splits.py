"""Which scenes belong together, and which part of the data set a group goes to."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from v2ir.data.fingerprints import (
    NEIGHBOUR_DISTANCE,
    Fingerprint,
    distance,
    joined,
    near_pairs,
)
from v2ir.errors import DataError, UnknownNameError
from v2ir.records import SPLITS, Split

_log = logging.getLogger(__name__)

# Fewer sequences than this, or one that holds more than half of all, cannot be split.
_LEAST_SEQUENCES = 5


@dataclasses.dataclass(frozen=True)
class SplitRule:
    """How a data set is split.

    Attributes:
        by: A name of `GROUPERS`: what makes a scene group.
        val: Share of the scenes for validation, in [0, 1).
        test: Share of the scenes for testing, in [0, 1).
        seed: Which of the many possible drawings.
        redraw: Draw all groups anew instead of leaving known scenes where they are.
    """

    by: str = "auto"
    val: float = 0.05
    test: float = 0.05
    seed: int = 0
    redraw: bool = False

    def __post_init__(self) -> None:
        if self.by not in GROUPERS:
            raise UnknownNameError.of("way to split", self.by, GROUPERS)
        if min(self.val, self.test) < 0 or self.val + self.test >= 1:
            raise DataError(
                "the shares of the splits are impossible",
                got=f"val {self.val}, test {self.test}",
                do="give shares of 0 or more that leave some scenes for training",
            )


@dataclasses.dataclass(frozen=True)
class Item:
    """A scene as far as grouping needs it.

    Attributes:
        name: Name of the scene.
        prints: Fingerprints of its visible and its infrared image; None where there is none.
    """

    name: str
    prints: tuple[Fingerprint | None, Fingerprint | None] = (None, None)


Grouper = Callable[[Sequence[Item]], list[str]]
"""Gives every item the name of its scene group."""


def sequence_of(name: str) -> tuple[str, int]:
    """Return the sequence that a scene's name belongs to, and its frame number.

    The sequence is the name with its last run of digits taken out:
    `set00/V001/I00042` is frame 42 of `set00/V001/I`, `00042D` is frame 42 of `D`. A name
    without digits is a sequence of its own.
    """
    match = re.search(r"(\d+)(\D*)$", name)
    if match is None:
        return name, 0
    return (name[: match.start()] + match[2]).rstrip("_-. ") or "frames", int(match[1])


def by_sequence(items: Sequence[Item]) -> list[str]:
    """Group the frames of a sequence, as the names tell them."""
    return [sequence_of(item.name)[0] for item in items]


def by_cluster(items: Sequence[Item]) -> list[str]:
    """Group near-duplicates, and successive frames that look alike.

    Two scenes belong together when their visible or their infrared images are
    near-duplicates. For successive frames of one sequence a wider distance is enough,
    because far fewer pairs are compared there. A group has the name of its first scene.
    """
    successive = np.array(list(_like_neighbours(items)), dtype=np.int64).reshape(-1, 2)
    lowest = joined(len(items), [*_near_duplicates(items), successive])
    return [items[i].name for i in lowest]


def _like_neighbours(items: Sequence[Item]) -> Iterator[tuple[int, int]]:
    order = sorted(range(len(items)), key=lambda i: sequence_of(items[i].name))
    for one, other in itertools.pairwise(order):
        if sequence_of(items[one].name)[0] == sequence_of(items[other].name)[0] and any(
            a and b and a.is_telling and b.is_telling and distance(a, b) <= NEIGHBOUR_DISTANCE
            for a, b in zip(items[one].prints, items[other].prints, strict=True)
        ):
            yield one, other


def _near_duplicates(items: Sequence[Item]) -> Iterator[np.ndarray]:
    for side in (0, 1):
        yield from near_pairs([item.prints[side] for item in items])


def by_auto(items: Sequence[Item]) -> list[str]:
    """Group by sequence where the names tell enough of them, else by cluster.

    Near-duplicates of different sequences are put together in both cases.
    """
    sequences = by_sequence(items)
    counts = Counter(sequences)
    if len(counts) < _LEAST_SEQUENCES or max(counts.values()) > len(items) / 2:
        return by_cluster(items)
    firsts: dict[str, int] = {}
    frames = [(firsts.setdefault(name, place), place) for place, name in enumerate(sequences)]
    lowest = joined(len(items), [np.array(frames, dtype=np.int64), *_near_duplicates(items)])
    return [sequences[i] for i in lowest]


def by_random(items: Sequence[Item]) -> list[str]:
    """Make every scene its own group, which lets neighbours fall into different splits."""
    _log.warning(
        "a random split puts near-duplicates into training and test: on M3FD it moved FID "
        "from 70.29 to 45.89 (DiffV2IR, Table 1); results on it do not tell how well a model does"
    )
    return [item.name for item in items]


def by_list(items: Sequence[Item]) -> list[str]:
    """Make every scene its own group; `draw` then cuts the list by position."""
    _log.warning("cutting the list by position separates scenes only where its order does")
    return [item.name for item in items]


GROUPERS: dict[str, Grouper] = {
    "auto": by_auto,
    "sequence": by_sequence,
    "cluster": by_cluster,
    "random": by_random,
    "list": by_list,
}


def draw(groups: Sequence[str], known: Mapping[str, Split], rule: SplitRule) -> dict[str, Split]:
    """Give every group a split, so that the shares of the scenes come close to the rule.

    The groups are taken in an order that depends on the seed and their names alone. One
    goes to test, or else to val, while that part is short of its share and the group does
    not overfill it by more than it lacks; the rest goes to train.

    Args:
        groups: Group of every scene.
        known: Splits of groups that are not to be drawn.
        rule: Shares and seed.

    Returns:
        Split by group, those of `known` included.
    """
    if rule.by == "list":
        return _by_position(groups, rule) | dict(known)
    sizes = Counter(groups)
    splits = {group: known[group] for group in sizes if group in known}
    filled: dict[str, int] = defaultdict(int)
    for group, split in splits.items():
        filled[split] += sizes[group]
    wanted = {"test": rule.test * len(groups), "val": rule.val * len(groups)}
    for group in sorted(sizes.keys() - splits.keys(), key=lambda name: _shuffled(name, rule.seed)):
        splits[group] = "train"
        for part in SPLITS[:0:-1]:
            lacking = wanted[part] - filled[part]
            if 0 < sizes[group] <= 2 * lacking:
                splits[group] = part
                break
        filled[splits[group]] += sizes[group]
    return splits


def _by_position(names: Sequence[str], rule: SplitRule) -> dict[str, Split]:
    """Cut a list into train, val and test in this order.

    Source: DiffV2IR, released code, which cuts its list at 0.9 and 0.95.
    """
    first, second = (round(len(names) * (1 - x)) for x in (rule.val + rule.test, rule.test))
    parts: list[Split] = [
        "train" if i < first else "val" if i < second else "test" for i in range(len(names))
    ]
    return dict(zip(names, parts, strict=True))


def _shuffled(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()
