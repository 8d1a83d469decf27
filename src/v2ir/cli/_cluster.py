"""The option `--cluster`, and what the verbs do with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from v2ir.annotators import has_weights
from v2ir.cli._sources import Wanted, kept_folder, make_sources
from v2ir.cli.console import progress_bar

if TYPE_CHECKING:
    from v2ir.cluster import Cluster
    from v2ir.sampling import TranslateReport, TranslateSettings, Translator
    from v2ir.sampling.translate import SceneStyles


def cluster_option() -> Any:
    """Return the option for the address of a cluster."""
    return typer.Option(
        None,
        "--cluster",
        metavar="ADDRESS",
        help="Work on a Ray cluster that shares these folders: auto, HOST:PORT of its head, "
        "or local for all processors of this machine.",
    )


def annotating_cluster(address: str, device: str, *names: str, dry_run: bool) -> Cluster:
    """Return the cluster for annotators; it is looked at only if they hold networks."""
    from v2ir.annotation import CAPTIONERS, SEGMENTERS
    from v2ir.cluster import Cluster

    if dry_run or all(name in {"none", *CAPTIONERS, *SEGMENTERS} for name in names):
        return Cluster(address, "cpu")
    return Cluster(address, Cluster(address, device).found_device())


def translate_there(
    cluster: Cluster,
    model: str,
    translator: Translator,
    settings: TranslateSettings,
    wanted: Wanted,
    source: Path,
    out: Path,
    scenes: SceneStyles | None,
) -> TranslateReport:
    """Annotate on a cluster with the annotators that have weights, then translate there."""
    from v2ir.cluster.translating import TranslateShare, annotate_ahead, translate_spread

    keep = kept_folder(source, out).absolute()
    annotators = make_sources(translator, wanted, keep=keep).annotators
    card = translator.model.card
    share = TranslateShare(
        model=str(Path(model).absolute()) if Path(model).exists() else model,
        model_hash=translator.model.hash,
        settings=settings,
        captioner=(wanted.captioner or card.captioner) if annotators.captioner else None,
        segmenter=(wanted.segmenter or card.segmenter) if annotators.segmenter else None,
        keep=keep,
    )
    places = (source, out, translator, annotators, share)
    if annotators.captioner is not None and has_weights(annotators.captioner):
        with progress_bar("captioner") as progress:
            annotate_ahead(*places, "captioner", cluster, progress, scenes)
    if annotators.segmenter is not None and has_weights(annotators.segmenter):
        with progress_bar("segmenter") as progress:
            annotate_ahead(*places, "segmenter", cluster, progress, scenes)
    with progress_bar("translating") as progress:
        return translate_spread(*places, cluster, progress, scenes)
