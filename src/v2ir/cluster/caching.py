"""The latent cache on a cluster: each worker encodes scenes and writes shards of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from v2ir.cluster.machines import GIBIBYTE, Cluster
from v2ir.cluster.spread import Lost, Settings, Work, spread
from v2ir.errors import DataError
from v2ir.records import Progress
from v2ir.training.scenes import TrainingScene
from v2ir.training.train import CacheFiller, CacheShare, FillCaches

_LEAST, _MOST = 32, 256
"""Scenes in a share: a share ends with a shard, and many small files are slow to open."""


def fill_spread(cluster: Cluster) -> FillCaches:
    """Return what makes `train` fill the caches of its stages on a cluster."""

    def run(share: CacheShare, progress: Progress) -> None:
        _fill(cluster, share, progress)

    return run


def _fill(cluster: Cluster, share: CacheShare, progress: Progress) -> None:
    start = Path(share.start)
    absolute = dataclasses.replace(
        share,
        start=str(start.absolute()) if start.exists() else share.start,
        cache_dir=share.cache_dir.absolute(),
        scenes=(),
    )
    scenes = [_absolute(item) for item in share.scenes]
    work = _Fill(absolute, cluster.found_device())
    memory = GIBIBYTE + 2 * _size(start)
    settings = Settings(absolute.cache_dir, memory=memory, least=_LEAST, most=_MOST)
    lost = []
    for done, (item, result) in enumerate(spread(cluster, work, scenes, settings), start=1):
        if isinstance(result, Lost):
            lost.append(item.scene.name)
        progress(done, len(scenes))
    if lost:
        raise DataError(
            f"workers died of {len(lost)} scenes again and again",
            got=", ".join(sorted(lost)[:5]),
            do="look at their images, give workers more memory, or train without --cluster",
        )


def _absolute(item: TrainingScene) -> TrainingScene:
    segmentation = item.segmentation and item.segmentation.absolute()
    return dataclasses.replace(item, root=item.root.absolute(), segmentation=segmentation)


def _size(folder: Path) -> int:
    """Return the bytes of a model folder's weights; a model by name counts as 4 GB."""
    files = list(folder.rglob("*.safetensors")) if folder.is_dir() else []
    return sum(path.stat().st_size for path in files) or 4 * GIBIBYTE


@dataclasses.dataclass(frozen=True)
class _Fill(Work[TrainingScene, bool]):
    share: CacheShare
    device: str

    def start(self) -> Callable[[Sequence[TrainingScene]], list[bool]]:
        filler = CacheFiller(self.share, self.device)

        def run(scenes: Sequence[TrainingScene]) -> list[bool]:
            filler.fill(scenes)
            return [True] * len(scenes)

        return run
