"""The one pass over a data set that makes the captions and maps that are not there."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from v2ir.annotation.provenance import Annotator, Kind, Provenance
from v2ir.annotation.quality import caption_fault, measure_map
from v2ir.annotation.registry import make_captioner, make_segmenter
from v2ir.annotation.store import AnnotationStore
from v2ir.annotators import Captioner, Described, Reworder, Segmenter, describe, release
from v2ir.data import load_scenes
from v2ir.errors import DataError, ImageReadError, InputError, V2IRError
from v2ir.files import hash_file
from v2ir.images import read_visible
from v2ir.records import Progress, Scene, no_progress

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class Counts:
    """What happened to the scenes for one kind of annotation.

    Attributes:
        made: Made now (with a dry run: would be made).
        kept: Were there and fresh.
        own: The user's own, taken as they are.
        faulty: Of those made now, how many say nothing and will not be given out.
        notes: Of those made now, how many came with a note of the captioner.
    """

    made: int = 0
    kept: int = 0
    own: int = 0
    faulty: int = 0
    notes: int = 0


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
class Share:
    """Some scenes of a pass, for one annotator.

    Attributes:
        root: Folder of the data set.
        kind: What is made.
        annotator: Makes it.
        force: Whether to make it again, the user's own included.
        batch_size: Images given to the annotator at once.
        scenes: The scenes.
    """

    root: Path
    kind: Kind
    annotator: Annotator
    force: bool
    batch_size: int
    scenes: Sequence[Scene]


@dataclasses.dataclass(frozen=True)
class ShareReport:
    """The outcome of a share.

    Attributes:
        counts: What was made.
        failures: The reason for each file that could not be annotated.
    """

    counts: Counts
    failures: dict[str, str]


Spread = Callable[[AnnotationStore, Share, Progress], ShareReport]
"""Does a share elsewhere, with its results in the store at the end."""


@dataclasses.dataclass(frozen=True)
class _Task:
    """One annotator and where its results go."""

    kind: Kind
    annotator: Annotator
    make: Callable[[Sequence[np.ndarray]], Sequence[Any]]
    put: Callable[..., None]
    fault: Callable[[Any], str | None]
    counts: Counts


def annotate(
    root: Path,
    *,
    captioner: str | Captioner | None = "statistics",
    segmenter: str | Segmenter | None = "regions",
    force: bool = False,
    dry_run: bool = False,
    batch_size: int = 8,
    device: str = "cpu",
    progress: Progress = no_progress,
    spread: Spread | None = None,
) -> AnnotationReport:
    """Make the captions and segmentation maps that are missing or stale.

    Each annotator goes over the whole data set and is released before the next one
    starts, so memory holds one of them and one batch. What is finished is on disk at
    once; a killed pass continues where it was. An image that cannot be used is reported
    and passed over.

    Args:
        root: Folder of an indexed data set.
        captioner: Name or object; None makes no captions.
        segmenter: Name or object; None makes no maps.
        force: Make everything again, the user's own included.
        dry_run: Count what would be made, and write nothing.
        batch_size: Images given to an annotator at once; results do not depend on it.
        device: Where the networks of annotators given by name run.
        progress: Told the number of finished results.
        spread: Does the work of each annotator elsewhere, such as on a cluster.

    Raises:
        DataError: If the data set has no index.
        InputError: If `batch_size` is below 1.
        UnknownNameError: If an annotator's name is not known.
        ModelError: If its weights are not available.
        OutputError: If a result cannot be written.
    """
    if batch_size < 1:
        raise InputError("batch_size must be at least 1", got=str(batch_size))
    store = AnnotationStore(root)
    captions, maps = Counts(), Counts()
    if isinstance(captioner, str):
        captioner = make_captioner(captioner, device=device)
    if isinstance(segmenter, str):
        segmenter = make_segmenter(segmenter, device=device)
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
            share = Share(root, task.kind, task.annotator, force, batch_size, left)
            if left:
                told = _shifted(progress, done, total)
                failures |= _do(store, task, share, told, spread)
            done += len(left)
            release(task.annotator)
    return AnnotationReport(captions, maps, len(scenes) - len(visible), tuple(failures.items()))


def _shifted(progress: Progress, before: int, total: int) -> Progress:
    return lambda done, _: progress(before + done, total)


def _do(
    store: AnnotationStore, task: _Task, share: Share, progress: Progress, spread: Spread | None
) -> dict[str, str]:
    """Do a share here or elsewhere, and add to the task's counts; return the failures."""
    if spread is None:
        return _batches(store, task, share, progress)
    report = spread(store, share, progress)
    for field in dataclasses.fields(Counts):
        number = getattr(task.counts, field.name) + getattr(report.counts, field.name)
        setattr(task.counts, field.name, number)
    return report.failures


def annotate_share(
    store: AnnotationStore, share: Share, progress: Progress = no_progress
) -> ShareReport:
    """Make the results of a share and keep them in the store; what is fresh is passed over.

    The annotator keeps its memory, for the next share.
    """
    counts = Counts()
    if share.kind == "caption":
        task = _caption_task(store, cast("Captioner", share.annotator), counts)
    else:
        task = _map_task(store, cast("Segmenter", share.annotator), counts)
    return ShareReport(counts, _batches(store, task, share, progress))


def _batches(
    store: AnnotationStore, task: _Task, share: Share, progress: Progress
) -> dict[str, str]:
    """Do a share batch by batch; return the reasons of its failures by file."""
    failures: dict[str, str] = {}
    scenes, size = share.scenes, share.batch_size
    for start in range(0, len(scenes), size):
        failures |= _annotate_batch(store, task, scenes[start : start + size], share.force)
        progress(min(start + size, len(scenes)), len(scenes))
    return failures


def _tasks(
    store: AnnotationStore,
    captioner: Captioner | None,
    segmenter: Segmenter | None,
    captions: Counts,
    maps: Counts,
) -> Iterator[_Task]:
    if captioner is not None:
        yield _caption_task(store, captioner, captions)
    if segmenter is not None:
        yield _map_task(store, segmenter, maps)


def _caption_task(store: AnnotationStore, captioner: Captioner, counts: Counts) -> _Task:
    def make(images: Sequence[np.ndarray]) -> list[Described]:
        return describe(captioner, images)

    return _Task("caption", captioner, make, store.put_captions, _caption_fault, counts)


def _map_task(store: AnnotationStore, segmenter: Segmenter, counts: Counts) -> _Task:
    put = store.put_segmentation
    return _Task("segmentation", segmenter, segmenter.segment, put, _map_fault, counts)


def _caption_fault(found: Described) -> str | None:
    return next((fault for text in found.captions if (fault := caption_fault(text))), None)


def _map_fault(pixels: np.ndarray) -> str | None:
    return measure_map(pixels).fault


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
        if not force and _reword(store, task, scene):
            task.counts.made += 1
            continue
        try:
            read.append((scene, *_read(store.root, scene)))
        except (ImageReadError, DataError) as error:
            failures[str(scene.visible)] = str(error)
        except OSError as error:
            failures[str(scene.visible)] = f"cannot be read: {error.strerror or error}"
    if not read:
        return failures
    for (scene, _, image_hash), result in zip(read, _results(task, read, failures), strict=True):
        if result is None:
            continue
        source = Provenance(task.annotator.name, task.annotator.version, image_hash)
        try:
            task.put(scene, result, source, force=force)
        except InputError as error:
            failures[str(scene.visible)] = str(error)
            continue
        task.counts.made += 1
        task.counts.faulty += task.fault(result) is not None
        task.counts.notes += bool(getattr(result, "note", ""))
    return failures


def _reword(store: AnnotationStore, task: _Task, scene: Scene) -> bool:
    """Word a scene's fields anew where nothing but the wording is asked for."""
    if task.kind != "caption" or not isinstance(task.annotator, Reworder):
        return False
    there = store.description(scene)
    if there is None or not there.structure or not there.provenance.fits(scene.visible_hash):
        return False
    if there.annotator != task.annotator.name:
        return False
    found = task.annotator.reword(there.structure, there.version)
    if found is not None:
        source = Provenance(there.annotator, task.annotator.version, there.image_hash)
        store.put_captions(scene, found, source)
    return found is not None


def _results(
    task: _Task, read: Sequence[tuple[Scene, np.ndarray, str]], failures: dict[str, str]
) -> list[Any]:
    """Annotate a batch; if that fails, its images one at a time. None stands for a failure."""
    try:
        return list(task.make([image for _, image, _ in read]))
    except RuntimeError as error:  # Out of memory, above all; RunErrors have no cure here.
        if isinstance(error, V2IRError):
            raise
        if len(read) == 1:
            logger.warning("%s cannot be annotated", read[0][0].visible, exc_info=True)
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            failures[str(read[0][0].visible)] = reason
            return [None]
        logger.warning("a batch of %d failed; one at a time now: %s", len(read), error)
    return [result for item in read for result in _results(task, [item], failures)]


def _read(root: Path, scene: Scene) -> tuple[np.ndarray, str]:
    path = root / str(scene.visible)
    image = read_visible(path)
    image_hash = hash_file(path)
    if scene.visible_hash not in {None, image_hash}:
        raise DataError(
            f"{path} has changed since the data set was indexed", do=f"run `v2ir index {root}`"
        )
    return image, image_hash
