"""The scenes of a stage, with everything that its samples are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from v2ir.annotation import AnnotationStore
from v2ir.data import load_scenes
from v2ir.errors import DataError
from v2ir.files import hash_file
from v2ir.records import Scene
from v2ir.training.stage import Stage


@dataclasses.dataclass(frozen=True)
class TrainingScene:
    """One scene with its annotations looked up.

    Attributes:
        scene: The scene of the data set.
        root: Folder of the data set.
        captions: Captions, perhaps none.
        segmentation: Path of the segmentation map, if there is one.
        segmentation_hash: Hash of that file's bytes.
    """

    scene: Scene
    root: Path
    captions: tuple[str, ...] = ()
    segmentation: Path | None = None
    segmentation_hash: str | None = None


def training_scenes(root: Path, split: str = "train") -> list[TrainingScene]:
    """Read a split of a data set with the captions and maps that its store holds.

    Raises:
        DataError: If the data set has no scenes in that split.
    """
    store = AnnotationStore(root)
    found = []
    for scene in load_scenes(root):
        if scene.split != split:
            continue
        path = store.segmentation_path(scene) if scene.visible else None
        found.append(
            TrainingScene(
                scene=scene,
                root=root,
                captions=tuple(store.captions(scene)),
                segmentation=path,
                segmentation_hash=hash_file(path) if path else None,
            )
        )
    if not found:
        raise DataError(
            f"{root} has no scenes in the split {split!r}",
            do="run `v2ir index` with groups or a split that leaves some for training",
        )
    return found


def scenes_of(stage: Stage, scenes: Sequence[TrainingScene]) -> list[TrainingScene]:
    """Return the scenes that a stage asks for.

    Raises:
        DataError: If there are none.
    """

    def wanted(item: TrainingScene) -> bool:
        scene = item.scene
        if scene.infrared is None or (stage.scenes == "pairs" and not scene.is_pair):
            return False
        if stage.styles and scene.style not in stage.styles:
            return False
        return not stage.alignment or scene.alignment in stage.alignment

    chosen = [item for item in scenes if wanted(item)]
    if not chosen:
        raise DataError(
            f"no scene of the data set fits the stage {stage.name}",
            got=f"{len(scenes)} scenes; the stage wants {stage.scenes}, "
            f"styles {stage.styles or 'any'}, alignment {stage.alignment or 'any'}",
            do="index other data, or change the stage's styles and alignment",
        )
    return chosen


class Deck:
    """The order in which a stage sees its scenes: a function of the seed alone.

    Args:
        styles: Style of each scene.
        balance: See `Stage.balance`.
        seed: Seed and whatever else tells this order from others.
    """

    def __init__(self, styles: Sequence[str | None], balance: float, seed: Sequence[int]) -> None:
        self.number = len(styles)
        self.seed = tuple(seed)
        _, inverse, counts = np.unique(
            np.array([style or "" for style in styles]), return_inverse=True, return_counts=True
        )
        weights = (counts.astype(np.float64) ** -balance)[inverse]
        self.chances = weights / weights.sum() if balance > 0 else None
        self._epoch: tuple[int, np.ndarray] | None = None

    def draw(self, position: int, count: int) -> list[int]:
        """Return the scenes at `position`, `position` + 1, ... of an endless sequence."""
        return [self._at(index) for index in range(position, position + count)]

    def _at(self, index: int) -> int:
        epoch, place = divmod(index, self.number)
        if self._epoch is None or self._epoch[0] != epoch:
            generator = np.random.default_rng([*self.seed, epoch])
            order = (
                generator.permutation(self.number)
                if self.chances is None
                else generator.choice(self.number, self.number, p=self.chances)
            )
            self._epoch = (epoch, order)
        return int(self._epoch[1][place])
