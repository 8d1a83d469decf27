"""`translate` on a cluster: each worker has the model and takes share after share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from v2ir.cluster.machines import GIBIBYTE, Cluster
from v2ir.cluster.spread import Lost, Settings, Work, spread
from v2ir.errors import ModelError
from v2ir.records import Progress, no_progress
from v2ir.sampling import Annotators, TranslateReport, TranslateSettings, Translator, pending
from v2ir.sampling.ahead import caption_ahead, segment_ahead
from v2ir.sampling.annotators import lookup
from v2ir.sampling.jobs import Job
from v2ir.sampling.kept import KeptAnnotations
from v2ir.sampling.translate import SceneStyles, translate_jobs


@dataclasses.dataclass(frozen=True)
class TranslateShare:
    """What a worker makes a translator and its annotators of.

    Attributes:
        model: Bundled name, hub name, or absolute path of a model folder.
        model_hash: Hash that the model must have on every machine.
        settings: The translator's settings.
        captioner: Name of the captioner, or None.
        segmenter: Name of the segmenter, or None.
        keep: Folder where results of annotators with weights are kept, or None.
    """

    model: str
    model_hash: str
    settings: TranslateSettings
    captioner: str | None = None
    segmenter: str | None = None
    keep: Path | None = None

    def translator(self, device: str) -> Translator:
        """Load the model.

        Raises:
            ModelError: If this machine has another model under the name.
        """
        from v2ir.model import load_model

        model = load_model(self.model, device)
        if model.hash != self.model_hash:
            raise ModelError(
                f"{self.model} is not the same model on every machine",
                got=f"{model.hash} instead of {self.model_hash}",
                do="give a model folder on the shared disk",
            )
        return Translator(model, self.settings)

    def annotators(self, device: str) -> Annotators:
        """Make the annotators; they load their weights on first use."""
        from v2ir.annotation import make_captioner, make_segmenter

        return Annotators(
            captioner=make_captioner(self.captioner, device=device) if self.captioner else None,
            segmenter=make_segmenter(self.segmenter, device=device) if self.segmenter else None,
            keep=KeptAnnotations(self.keep) if self.keep else None,
        )


@dataclasses.dataclass(frozen=True)
class _Item:
    """A job with what the user gave for it."""

    job: Job
    caption: str | None
    segmentation: Path | None
    style: str | None


def translate_spread(
    source: Path,
    out: Path,
    translator: Translator,
    annotators: Annotators,
    share: TranslateShare,
    cluster: Cluster,
    progress: Progress = no_progress,
    scenes: SceneStyles | None = None,
) -> TranslateReport:
    """Translate an image, a folder or a data set as `translate` does, on a cluster.

    What is to be made is decided here, so a call with nothing left starts nothing.

    Args:
        source: An image, a folder with images, or a data set folder with `rgb/`.
        out: Folder of the infrared images, on a disk that all machines share.
        translator: The model with its settings, on any device.
        annotators: Sources of captions and maps, as here.
        share: The same for the workers.
        cluster: The machines.
        progress: Told (done, total) after each image.
        scenes: Only these scenes, each in its own style.

    Raises:
        InputError: As `translate`; or if the cluster cannot be used.
        ModelError: If a machine has another model under the name.
        OutputError: If the disk refuses; what was written stays valid.
    """
    items, total = _left(source, out, translator, annotators, scenes)
    kept, failures = total - len(items), []
    progress(kept, total)
    if not items:
        return TranslateReport(0, kept, ())
    work = _Translate(share, cluster.found_device())
    settings = _settings(items, translator)
    results = spread(cluster, work, items, settings)
    for done, (item, reason) in enumerate(results, start=kept + 1):
        if isinstance(reason, Lost):
            failures.append((item.job.name, reason.reason))
        elif reason is not None:
            failures.append((item.job.name, reason))
        progress(done, total)
    return TranslateReport(len(items) - len(failures), kept, tuple(sorted(failures)))


def annotate_ahead(
    source: Path,
    out: Path,
    translator: Translator,
    annotators: Annotators,
    share: TranslateShare,
    what: Literal["captioner", "segmenter"],
    cluster: Cluster,
    progress: Progress = no_progress,
    scenes: SceneStyles | None = None,
) -> None:
    """Let one annotator see all that is to be translated, before the denoisers start.

    Its results are kept in `share.keep`. Arguments and errors are those of
    `translate_spread`; images that cannot be annotated are reported there.
    """
    items, _ = _left(source, out, translator, annotators, scenes)
    if not items:
        return
    work = _Ahead(share, cluster.found_device(), what)
    results = spread(cluster, work, items, _settings(items, translator))
    for done, _ in enumerate(results, start=1):
        progress(done, len(items))


def _left(
    source: Path,
    out: Path,
    translator: Translator,
    annotators: Annotators,
    scenes: SceneStyles | None,
) -> tuple[list[_Item], int]:
    """Return what is to be made, and how many images there are."""
    found = list(pending(source.absolute(), out.absolute(), translator, annotators, scenes))
    jobs = [job for job, wanted in found if wanted]
    return [_item(job, annotators, scenes or {}) for job in jobs], len(found)


def _item(job: Job, annotators: Annotators, scenes: SceneStyles) -> _Item:
    segmentation = lookup(annotators.maps, job.name)
    return _Item(
        job,
        annotators.given_caption(job.name),
        segmentation.absolute() if segmentation else None,
        scenes.get(job.scene),
    )


def _settings(items: Sequence[_Item], translator: Translator) -> Settings:
    networks = (translator.model.unet, translator.model.autoencoder, translator.model.text_encoder)
    weights = sum(p.numel() * p.element_size() for net in networks for p in net.parameters())
    job = items[0].job
    depth = len(PurePosixPath(job.name).parts)
    return Settings(
        job.output.parents[depth - 1], memory=GIBIBYTE + 2 * weights, least=translator.batch_size
    )


def _with_given(annotators: Annotators, items: Sequence[_Item]) -> Annotators:
    """Return the annotators with the captions and maps that the user gave for some items."""
    return dataclasses.replace(
        annotators,
        captions={item.job.name: item.caption for item in items if item.caption},
        maps={item.job.name: item.segmentation for item in items if item.segmentation},
    )


@dataclasses.dataclass(frozen=True)
class _Translate(Work[_Item, str | None]):
    share: TranslateShare
    device: str

    def start(self) -> Callable[[Sequence[_Item]], list[str | None]]:
        translator = self.share.translator(self.device)
        annotators = self.share.annotators(self.device)

        def run(items: Sequence[_Item]) -> list[str | None]:
            styles = {item.job.scene: item.style for item in items}
            given = _with_given(annotators, items)
            report = translate_jobs([i.job for i in items], translator, given, scenes=styles)
            reasons = dict(report.failures)
            return [reasons.get(item.job.name) for item in items]

        return run


@dataclasses.dataclass(frozen=True)
class _Ahead(Work[_Item, bool]):
    share: TranslateShare
    device: str
    what: Literal["captioner", "segmenter"]

    def start(self) -> Callable[[Sequence[_Item]], list[bool]]:
        # The translator only says at which size the network will see an image.
        translator = self.share.translator("cpu")
        annotators = self.share.annotators(self.device)
        ahead = caption_ahead if self.what == "captioner" else segment_ahead

        def run(items: Sequence[_Item]) -> list[bool]:
            given = _with_given(annotators, items)
            ahead([item.job for item in items], translator, given, free=False)
            return [True] * len(items)

        return run
