"""What all rows of a study have in common."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from v2ir.evaluation.context import Selection


@dataclasses.dataclass(frozen=True)
class AblationSettings:
    """Where a study reads and writes, and what every row of it is given.

    Attributes:
        data_dir: Data set folder, indexed and annotated.
        out_dir: Folder of the study.
        seeds: Seeds of each row, added to the recipe's own.
        images: Training images that the phases of every row take in.
        scale: Factor by which the autoencoder's stages are shortened.
        selection: Scenes that are translated and measured.
        limit: Only so many of them, evenly spread over their sorted names; None takes all.
        autoencoder: Model whose autoencoder all rows take; None trains one first.
        start_from: Model that all rows start from; None starts from random weights.
        model: Model that is sampled as it is, where a study does not train each row.
        cache_dir: Folder of the latents that the rows share.
        features: Network of the Frechet distance; None measures none.
        device: Where translation computes; training is accelerate's to place.
    """

    data_dir: Path
    out_dir: Path
    seeds: tuple[int, ...]
    images: int
    scale: float = 1.0
    selection: Selection = dataclasses.field(default_factory=Selection)
    limit: int | None = None
    autoencoder: str | None = None
    start_from: str | None = None
    model: str | None = None
    cache_dir: Path | None = None
    features: str | None = None
    device: str = "cpu"

    @property
    def caches(self) -> Path:
        """Folder of the latents that the rows share."""
        return self.cache_dir or self.out_dir / "cache"
