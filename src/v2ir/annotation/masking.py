"""The one pass over a data set that makes the thermal masks that are not there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from v2ir.annotation.annotating import Counts
from v2ir.annotation.provenance import Provenance
from v2ir.annotation.store import AnnotationStore
from v2ir.annotation.thermal import ThermalMasker, make_masker
from v2ir.data import load_scenes
from v2ir.errors import DataError, ImageReadError
from v2ir.files import hash_file
from v2ir.images import read_infrared, to_uint8
from v2ir.records import Progress, Scene, no_progress


@dataclasses.dataclass(frozen=True)
class MaskReport:
    """The outcome of a pass.

    Attributes:
        masks: Counts of thermal masks.
        visible_only: Scenes without an infrared image, which need none.
        hot: Mean share of an image that is hot, of the masks made now; None without any.
        failures: (file, reason) of the images that could not be used.
    """

    masks: Counts
    visible_only: int
    hot: float | None
    failures: tuple[tuple[str, str], ...]


def make_masks(
    root: Path,
    method: str | ThermalMasker = "otsu",
    *,
    force: bool = False,
    dry_run: bool = False,
    progress: Progress = no_progress,
) -> MaskReport:
    """Make the thermal masks that are missing or stale, from the infrared images.

    Each mask is on disk as soon as it is made; a killed pass continues where it was. An
    image that cannot be used is reported and passed over.

    Args:
        root: Folder of an indexed data set.
        method: Name of `THERMAL_MASKS`, perhaps with options, or an object.
        force: Make everything again, the user's own included.
        dry_run: Count what would be made, and write nothing.
        progress: Told the number of finished masks.

    Raises:
        DataError: If the data set has no index.
        UnknownNameError: If the method's name is not known.
        InputError: If one of its options cannot be used.
        OutputError: If a mask cannot be written.
    """
    masker = make_masker(method) if isinstance(method, str) else method
    store, counts = AnnotationStore(root), Counts()
    scenes = load_scenes(root)
    thermal = [scene for scene in scenes if scene.infrared is not None]
    left = thermal if force else _pending(store, thermal, masker, counts)
    shares: list[float] = []
    failures: list[tuple[str, str]] = []
    if dry_run:
        counts.made = len(left)
    else:
        for done, scene in enumerate(left, start=1):
            try:
                shares.append(_make_mask(store, scene, masker, force))
            except (ImageReadError, DataError) as error:
                failures.append((str(scene.infrared), str(error)))
            progress(done, len(left))
        counts.made = len(shares)
    hot = float(np.mean(shares)) if shares else None
    return MaskReport(counts, len(scenes) - len(thermal), hot, tuple(failures))


def _pending(
    store: AnnotationStore, scenes: list[Scene], masker: ThermalMasker, counts: Counts
) -> list[Scene]:
    left = []
    for scene in scenes:
        state = store.state("mask", scene, masker)
        if state == "user":
            counts.own += 1
        elif state == "fresh":
            counts.kept += 1
        else:
            left.append(scene)
    return left


def _make_mask(store: AnnotationStore, scene: Scene, masker: ThermalMasker, force: bool) -> float:
    """Make and keep the mask of one scene; return the share of it that is hot."""
    path = store.root / str(scene.infrared)
    infrared = read_infrared(path)
    image_hash = hash_file(path)
    if scene.infrared_hash not in {None, image_hash}:
        raise DataError(
            f"{path} has changed since the data set was indexed",
            do=f"run `v2ir index {store.root}`",
        )
    mask = masker.mask(infrared)
    source = Provenance(masker.name, masker.version, image_hash)
    store.put_mask(scene, to_uint8(mask), source, force=force)
    return float(mask.mean())
