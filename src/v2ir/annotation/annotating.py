"""The one pass over a data set that makes the captions and maps that are not there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from v2ir.annotation.interface import Captioner, Segmenter
from v2ir.annotation.provenance import Annotator, Kind, Provenance
from v2ir.annotation.registry import make_captioner, make_segmenter
from v2ir.annotation.store import AnnotationStore
from v2ir.data import load_scenes
from v2ir.errors import DataError, ImageReadError, InputError
from v2ir.files import hash_file
from v2ir.images import read_visible
from v2ir.records import Progress, Scene, no_progress


@dataclasses.dataclass
class Counts:
    """What happened to the scenes for one kind of annotation.

    Attributes:
        made: Made now (with a dry run: would be made).
        kept: Were there and fresh.
        own: The user's own, taken as they are.
    """

    made: int = 0
    kept: int = 0
    own: int = 0


@dataclasses.dataclass(frozen=True)
class AnnotationReport:
    """The outcome of a pass.

    Attributes:
        captions: Counts of captions.
        segmentations: Counts of segmentation maps.
        infrared_only: Scenes without a visible image, which need neither.
        failures: (file, reason) of the images that could not be annotated.
    """

    captions: Counts
    segmentations: Counts
    infrared_only: int
    failures: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class _Task:
    """One annotator and where its results go."""

    kind: Kind
    annotator: Annotator
    make: Callable[[Sequence[np.ndarray]], Sequence[Any]]
    put: Callable[..., None]
    counts: Counts


def annotate(
    root: Path,
    *,
    captioner: str | Captioner | None = "statistics",
    segmenter: str | Segmenter | None = "regions",
    force: bool = False,
    dry_run: bool = False,
    batch_size: int = 8,
    progress: Progress = no_progress,
) -> AnnotationReport:
    """Make the captions and segmentation maps that are missing or stale.

    Each annotator goes over the whole data set before the next one starts, so memory
    holds one of them and one batch. What is finished is on disk at once; a killed pass
    continues where it was. An image that cannot be used is reported and passed over.

    Args:
        root: Folder of an indexed data set.
        captioner: Name or object; None makes no captions.
        segmenter: Name or object; None makes no maps.
        force: Make everything again, the user's own included.
        dry_run: Count what would be made, and write nothing.
        batch_size: Images given to an annotator at once; results do not depend on it.
        progress: Told the number of finished results.

    Raises:
        DataError: If the data set has no index.
        InputError: If `batch_size` is below 1.
        UnknownNameError: If an annotator's name is not known.
        OutputError: If a result cannot be written.
    """
    if batch_size < 1:
        raise InputError("batch_size must be at least 1", got=str(batch_size))
    store = AnnotationStore(root)
    captions, maps = Counts(), Counts()
    tasks = list(_tasks(store, captioner, segmenter, captions, maps))
    scenes = load_scenes(root)
    visible = [scene for scene in scenes if scene.visible is not None]
    pending = [_pending(store, task, visible, force) for task in tasks]
    failures: dict[str, str] = {}
    if dry_run:
        for task, left in zip(tasks, pending, strict=True):
            task.counts.made = len(left)
    else:
        total, done = sum(map(len, pending)), 0
        for task, left in zip(tasks, pending, strict=True):
            for start in range(0, len(left), batch_size):
                batch = left[start : start + batch_size]
                failures |= _annotate_batch(store, task, batch, force)
                done += len(batch)
                progress(done, total)
    return AnnotationReport(captions, maps, len(scenes) - len(visible), tuple(failures.items()))


def _tasks(
    store: AnnotationStore,
    captioner: str | Captioner | None,
    segmenter: str | Segmenter | None,
    captions: Counts,
    maps: Counts,
) -> Iterator[_Task]:
    if captioner is not None:
        words = make_captioner(captioner) if isinstance(captioner, str) else captioner

        def put_caption(scene: Scene, caption: str, source: Provenance, *, force: bool) -> None:
            store.put_captions(scene, [caption], source, force=force)

        yield _Task("caption", words, words.caption, put_caption, captions)
    if segmenter is not None:
        areas = make_segmenter(segmenter) if isinstance(segmenter, str) else segmenter
        yield _Task("segmentation", areas, areas.segment, store.put_segmentation, maps)


def _pending(
    store: AnnotationStore, task: _Task, scenes: Sequence[Scene], force: bool
) -> list[Scene]:
    if force:
        return list(scenes)
    left = []
    for scene in scenes:
        state = store.state(task.kind, scene, task.annotator)
        if state == "user":
            task.counts.own += 1
        elif state == "fresh":
            task.counts.kept += 1
        else:
            left.append(scene)
    return left


def _annotate_batch(
    store: AnnotationStore, task: _Task, batch: Sequence[Scene], force: bool
) -> dict[str, str]:
    """Make and keep the results of a batch; return the reasons of its failures by file."""
    failures: dict[str, str] = {}
    read: list[tuple[Scene, np.ndarray, str]] = []
    for scene in batch:
        if not force and store.is_fresh(task.kind, scene, task.annotator):
            task.counts.kept += 1  # Another process has made it since the pass began.
            continue
        try:
            read.append((scene, *_read(store.root, scene)))
        except (ImageReadError, DataError) as error:
            failures[str(scene.visible)] = str(error)
        except OSError as error:
            failures[str(scene.visible)] = f"cannot be read: {error.strerror or error}"
    if not read:
        return failures
    results = task.make([image for _, image, _ in read])
    for (scene, _, image_hash), result in zip(read, results, strict=True):
        source = Provenance(task.annotator.name, task.annotator.version, image_hash)
        try:
            task.put(scene, result, source, force=force)
            task.counts.made += 1
        except InputError as error:
            failures[str(scene.visible)] = str(error)
    return failures


def _read(root: Path, scene: Scene) -> tuple[np.ndarray, str]:
    path = root / str(scene.visible)
    image = read_visible(path)
    image_hash = hash_file(path)
    if scene.visible_hash not in {None, image_hash}:
        raise DataError(
            f"{path} has changed since the data set was indexed", do=f"run `v2ir index {root}`"
        )
    return image, image_hash
