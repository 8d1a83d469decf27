"""One annotator after the other over all images, before the denoiser needs the memory."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from v2ir.annotators import release
from v2ir.errors import ImageReadError
from v2ir.images import read_visible
from v2ir.records import Progress, no_progress
from v2ir.sampling.annotators import Annotators
from v2ir.sampling.geometry import scaled
from v2ir.sampling.jobs import Job
from v2ir.sampling.translator import Translator

logger = logging.getLogger(__name__)


def caption_ahead(
    jobs: Sequence[Job],
    translator: Translator,
    annotators: Annotators,
    batch_size: int = 8,
    progress: Progress = no_progress,
    *,
    free: bool = True,
) -> None:
    """Caption the images of jobs in batches, keep the captions, and free the captioner.

    What is kept from before, or given by the user, is not made again. Images that cannot
    be read are passed over; `translate` reports them.

    Args:
        jobs: Images to be translated.
        translator: Says at which size the network will see them.
        annotators: With a captioner and a place to keep.
        batch_size: Images that the captioner gets at once.
        progress: Told the number of images that were looked at.
        free: Whether the captioner's memory is given back at the end.

    Raises:
        ModelError: If the captioner's weights are not available.
        MissingExtraError: If it needs a package that is not installed.
        OutputError: If the disk refuses.
    """
    try:
        for batch in _batches(_shown(jobs, translator, progress), batch_size):
            annotators.captions_of(batch)
    finally:
        if free:
            release(annotators.captioner)


def segment_ahead(
    jobs: Sequence[Job],
    translator: Translator,
    annotators: Annotators,
    batch_size: int = 8,
    progress: Progress = no_progress,
    *,
    free: bool = True,
) -> None:
    """Segment the images of jobs in batches; otherwise as `caption_ahead`."""
    try:
        for batch in _batches(_shown(jobs, translator, progress), batch_size):
            annotators.maps_of(batch)
    finally:
        if free:
            release(annotators.segmenter)


def _shown(
    jobs: Sequence[Job], translator: Translator, progress: Progress
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and the HWC uint8 pixels of each image as the network will see it."""
    for done, job in enumerate(jobs, start=1):
        try:
            visible = read_visible(job.source)
            yield job.name, scaled(visible, translator.fit(visible.shape[1], visible.shape[0]))
        except ImageReadError as error:
            logger.info("not annotated: %s", error)
        progress(done, len(jobs))


def _batches(
    items: Iterable[tuple[str, np.ndarray]], size: int
) -> Iterator[list[tuple[str, np.ndarray]]]:
    batch: list[tuple[str, np.ndarray]] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
