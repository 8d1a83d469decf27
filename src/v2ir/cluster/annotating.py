"""`annotate` on a cluster: maps are written by the workers, captions by the driver.

A map is a file of its own. Captions are lines of one file, and lines that several machines
append to one file on a network disk may overwrite each other, so they come home first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from v2ir.annotation import AnnotationStore, Provenance
from v2ir.annotation.annotating import Counts, Share, ShareReport, Spread, annotate_share
from v2ir.annotators import Described, has_weights
from v2ir.cluster.machines import GIBIBYTE, Cluster
from v2ir.cluster.spread import Lost, Settings, Work, spread
from v2ir.errors import InputError
from v2ir.records import Progress, Scene

_BATCHES = 4


def annotate_spread(cluster: Cluster) -> Spread:
    """Return what makes `annotate` do its shares on a cluster."""

    def run(store: AnnotationStore, share: Share, progress: Progress) -> ShareReport:
        return _annotate(cluster, store, share, progress)

    return run


@dataclasses.dataclass(frozen=True)
class _Made:
    """What a worker did for one scene.

    Attributes:
        counts: What was made.
        failures: The reason, by file, where it failed.
        captions: The captions and who made them from which image, if any.
    """

    counts: Counts
    failures: dict[str, str]
    captions: tuple[Described, Provenance] | None = None


def _annotate(
    cluster: Cluster, store: AnnotationStore, share: Share, progress: Progress
) -> ShareReport:
    scenes, root = share.scenes, share.root.absolute()
    work = _Annotate(dataclasses.replace(share, root=root, scenes=()))
    settings = Settings(
        root,
        memory=(4 if has_weights(share.annotator) else 1) * GIBIBYTE,
        least=share.batch_size * _BATCHES,
    )
    total, failures = Counts(), {}
    for done, (scene, made) in enumerate(spread(cluster, work, scenes, settings), start=1):
        if isinstance(made, Lost):
            failures[str(scene.visible)] = made.reason
        else:
            failures |= made.failures | _keep(store, scene, made, share)
            for field in dataclasses.fields(Counts):
                number = getattr(total, field.name) + getattr(made.counts, field.name)
                setattr(total, field.name, number)
        progress(done, len(scenes))
    # All of them were to be made; what a second worker found there, a dead one had made.
    total.made, total.kept = total.made + total.kept, 0
    return ShareReport(total, failures)


def _keep(store: AnnotationStore, scene: Scene, made: _Made, share: Share) -> dict[str, str]:
    """Write the captions that came home; return the reason if they cannot be kept."""
    if made.captions is None:
        return {}
    described, source = made.captions
    try:
        store.put_captions(scene, described, source, force=share.force)
    except InputError as error:
        made.counts.made = made.counts.faulty = made.counts.notes = 0
        return {str(scene.visible): str(error)}
    return {}


class _Homebound(AnnotationStore):
    """A store whose captions are collected instead of written."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.found: dict[str, tuple[Described, Provenance]] = {}

    def put_captions(
        self,
        scene: Scene,
        captions: Sequence[str] | Described,
        source: Provenance,
        *,
        force: bool = False,
    ) -> None:
        """Remember the captions of a scene."""
        found = captions if isinstance(captions, Described) else Described(tuple(captions))
        self.found[scene.name] = (found, source)


@dataclasses.dataclass(frozen=True)
class _Annotate(Work[Scene, _Made]):
    share: Share

    def start(self) -> Callable[[Sequence[Scene]], list[_Made]]:
        store = _Homebound(self.share.root)

        def run(scenes: Sequence[Scene]) -> list[_Made]:
            store.found.clear()
            report = annotate_share(store, dataclasses.replace(self.share, scenes=scenes))
            # The sums belong to the share; its first scene carries them home.
            made = [_Made(Counts(), {}, store.found.get(scene.name)) for scene in scenes]
            made[0] = _Made(report.counts, report.failures, made[0].captions)
            return made

        return run
