"""Folders of photographs: read, translate and write them as one stream that can continue."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from v2ir import __version__
from v2ir.annotators import has_weights
from v2ir.errors import InputError, V2IRError
from v2ir.files import hash_file
from v2ir.images import encode_png, read_visible, to_uint8
from v2ir.records import Progress, no_progress
from v2ir.sampling.annotators import Annotators
from v2ir.sampling.flow import Behind, Waiting, Worker, batches
from v2ir.sampling.geometry import scaled, undo
from v2ir.sampling.jobs import Job, find_jobs
from v2ir.sampling.sidecar import Sidecar, is_done, write_result
from v2ir.sampling.translator import Prepared, Translator

SceneStyles = Mapping[str, str | None]
"""For each scene, by name, its camera style; None stands for the translator's style."""

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TranslateReport:
    """What a run did.

    Attributes:
        made: Number of images translated.
        kept: Number of images that an earlier run had already made with these settings.
        failures: (input, reason) for each image that could not be translated.
        waited: Seconds in which the network had nothing to do, because no image was ready.
    """

    made: int
    kept: int
    failures: tuple[tuple[str, str], ...]
    waited: float = 0.0


@dataclasses.dataclass(frozen=True)
class _Ready:
    job: Job
    sidecar: Sidecar
    image: Prepared


@dataclasses.dataclass(frozen=True)
class _Kept:
    job: Job


@dataclasses.dataclass(frozen=True)
class _Failed:
    job: Job
    reason: str


def translate(
    source: Path,
    out: Path,
    translator: Translator,
    annotators: Annotators | None = None,
    progress: Progress = no_progress,
    scenes: SceneStyles | None = None,
) -> TranslateReport:
    """Translate an image, a folder or a data set.

    Reading, annotating and writing go on in threads beside the network, and only a few
    images more than one batch are in memory. An image whose output and sidecar were
    made from the same input with the same settings is kept. An image that fails is
    reported and the others are still translated.

    Args:
        source: An image, a folder with images, or a data set folder with `rgb/`.
        out: Folder of the infrared images.
        translator: The model with its settings.
        annotators: Sources of captions and maps.
        progress: Told (done, total) after each image.
        scenes: Only these scenes, each in its own style; None translates every image in
            the translator's style.

    Raises:
        InputError: If there is nothing to translate, or outputs would overwrite inputs.
        OutputError: If the disk refuses; what was written stays valid.
    """
    jobs = _chosen(find_jobs(source, out), source, scenes)
    return translate_jobs(jobs, translator, annotators, progress, scenes)


def translate_jobs(
    jobs: Sequence[Job],
    translator: Translator,
    annotators: Annotators | None = None,
    progress: Progress = no_progress,
    scenes: SceneStyles | None = None,
) -> TranslateReport:
    """Translate the images of jobs, as `translate` does with all that it finds.

    `scenes` gives styles alone here; every job is done.
    """
    run = _Run(translator, annotators or Annotators(), len(jobs), progress, scenes or {})
    return run.over(jobs)


def pending(
    source: Path,
    out: Path,
    translator: Translator,
    annotators: Annotators | None = None,
    scenes: SceneStyles | None = None,
) -> Iterator[tuple[Job, bool]]:
    """Yield each job of `translate` and whether it would be tried; nothing is written."""
    run = _Run(translator, annotators or Annotators(), 0, no_progress, scenes or {})
    for job in _chosen(find_jobs(source, out), source, scenes):
        try:
            wanted = run.wanted(job)
        except OSError:
            yield job, True  # The one who tries reports why it cannot be read.
        else:
            yield job, not is_done(job, wanted)


def _chosen(jobs: list[Job], source: Path, scenes: SceneStyles | None) -> list[Job]:
    """Keep the jobs of the wanted scenes."""
    if scenes is None:
        return jobs
    chosen = [job for job in jobs if job.scene in scenes]
    if not chosen:
        raise InputError(
            f"{source} holds none of the wanted scenes",
            got=f"{len(jobs)} images, {len(scenes)} scenes",
            do="give the data set whose scenes they are",
        )
    return chosen


class _Run:
    """One call of `translate`; counts what becomes of its images."""

    def __init__(
        self,
        translator: Translator,
        annotators: Annotators,
        total: int,
        progress: Progress,
        scenes: SceneStyles,
    ) -> None:
        self.scenes = scenes
        self.translator = translator
        self.annotators = annotators
        self.total = total
        self.progress = progress
        self.kept = 0
        self.made = 0
        self.failures: list[tuple[str, str]] = []

    def over(self, jobs: Sequence[Job]) -> TranslateReport:
        size = self.translator.batch_size
        if not self.translator.plan.speed.ahead:
            return self.one_by_one(jobs)
        threads = _readers(self.annotators)
        writer = Behind(_write, depth=2 * size)
        with Worker(threads) as reader, writer:
            prepared = reader.ahead(self.prepare, jobs, depth=size + threads)
            ready = self.ready(prepared)
            waiting = Waiting(batches(ready, lambda item: item.image.shape, size, 3 * size))
            for batch in waiting:
                for item, pixels in self.run(batch):
                    writer.put((item, pixels))
                    self.made += 1
                    self.tell()
            writer.finish()
        return self.report(waiting.seconds)

    def one_by_one(self, jobs: Sequence[Job]) -> TranslateReport:
        """Read, annotate, translate and write each image before the next is begun."""
        prepared = Waiting(self.ready(map(self.prepare, jobs)))
        for item in prepared:
            for result in self.run([item]):
                _write(result)
                self.made += 1
                self.tell()
        return self.report(prepared.seconds)

    def report(self, waited: float) -> TranslateReport:
        logger.info("the network waited %.2f s for images", waited)
        return TranslateReport(self.made, self.kept, tuple(sorted(self.failures)), waited)

    def tell(self) -> None:
        self.progress(self.made + self.kept + len(self.failures), self.total)

    def fail(self, job: Job, reason: str) -> None:
        self.failures.append((job.name, reason))
        self.tell()

    def ready(self, prepared: Iterable[_Ready | _Kept | _Failed]) -> Iterator[_Ready]:
        """Pass on what is to be translated; count the rest."""
        for item in prepared:
            if isinstance(item, _Ready):
                yield item
            elif isinstance(item, _Failed):
                self.fail(item.job, item.reason)
            else:
                self.kept += 1
                self.tell()

    def wanted(self, job: Job) -> Sidecar:
        """Return what the job's sidecar must say, as far as the input's bytes tell."""
        translator, card = self.translator, self.translator.model.card
        source = self.annotators
        captions, maps = translator.takes_captions, translator.takes_maps
        captioner = source.caption_source(job.name) if captions else None
        return Sidecar(
            model=card.name,
            model_hash=translator.model.hash,
            seed=translator.seed,
            steps=translator.steps,
            solver=translator.solver,
            guidance=translator.guidance.model_dump(mode="json"),
            style=self.scenes.get(job.scene) or translator.style,
            resolution=translator.resolution,
            without=translator.without,
            speed=translator.speed,
            reuse=translator.plan.reuse,
            precision=translator.plan.precision,
            input=job.name,
            input_hash=hash_file(job.source),
            caption=source.given_caption(job.name) if captions else None,
            captioner=captioner,
            segmenter=source.map_source(job.name) if maps else None,
            v2ir=__version__,
        )

    def prepare(self, job: Job) -> _Ready | _Kept | _Failed:
        """Read and annotate one image, unless it is done."""
        try:
            wanted = self.wanted(job)
            if is_done(job, wanted):
                return _Kept(job)
            return self._annotated(job, wanted)
        except (V2IRError, OSError) as error:
            return _Failed(job, str(error))
        except Exception as error:
            # One odd image must not end a night's run, whatever its annotator trips over.
            logger.warning("%s cannot be prepared", job.source, exc_info=True)
            return _Failed(job, f"{type(error).__name__}: {error}")

    def _annotated(self, job: Job, wanted: Sidecar) -> _Ready:
        translator, annotators = self.translator, self.annotators
        visible = read_visible(job.source)
        geometry = translator.fit(visible.shape[1], visible.shape[0])
        # Annotated as the network will see it, so that a huge photograph costs no more.
        shown = scaled(visible, geometry)
        caption = annotators.caption(job.name, shown) if translator.takes_captions else None
        found = annotators.segment(job.name, shown) if translator.takes_maps else None
        image = translator.prepare(
            visible,
            key=wanted.input_hash,
            caption=caption,
            segmentation=found,
            style=wanted.style or "none",
        )
        sidecar = dataclasses.replace(
            wanted, caption=caption, geometry=dataclasses.asdict(geometry)
        )
        return _Ready(job, sidecar, image)

    def run(self, batch: Sequence[_Ready]) -> list[tuple[_Ready, np.ndarray]]:
        """Translate a batch; if that fails, its images one at a time."""
        try:
            pixels = self.translator.run([item.image for item in batch])
            return list(zip(batch, pixels, strict=True))
        except RuntimeError as error:  # out of memory, above all
            if len(batch) == 1:
                logger.warning("%s cannot be translated", batch[0].job.source, exc_info=True)
                self.fail(batch[0].job, str(error).splitlines()[0])
                return []
            logger.warning("a batch of %d failed; one at a time now: %s", len(batch), error)
        return [result for item in batch for result in self.run([item])]


def _readers(annotators: Annotators) -> int:
    """Return the number of threads that prepare images.

    A network among the annotators is asked by one thread at a time.
    """
    if has_weights(annotators.captioner) or has_weights(annotators.segmenter):
        return 1
    return max(1, min(4, (os.cpu_count() or 1) // 4))


def _write(result: tuple[_Ready, np.ndarray]) -> None:
    item, working = result
    pixels = to_uint8(undo(working, item.image.geometry))
    write_result(item.job, encode_png(pixels), item.sidecar)
