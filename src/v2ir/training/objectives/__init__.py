"""What the stages minimise, by name."""

from __future__ import annotations

from collections.abc import Callable

from v2ir.training.objectives.decomposition import Decomposing
from v2ir.training.objectives.denoising import Denoising
from v2ir.training.objectives.end_to_end import EndToEnd
from v2ir.training.objectives.infrared_autoencoder import InfraredAutoencoder
from v2ir.training.objectives.objective import Draw, Objective
from v2ir.training.objectives.pix2pix import Pix2Pix
from v2ir.training.objectives.reconstruction import Reconstruction
from v2ir.training.objectives.regression import Regression

OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "reconstruction": Reconstruction,
    "infrared_autoencoder": InfraredAutoencoder,
    "decomposition": Decomposing,
    "denoising": Denoising,
    "end_to_end": EndToEnd,
    "regression": Regression,
    "pix2pix": Pix2Pix,
}
"""Rows for `Stage.objective`."""
FOR_AUTOENCODERS = frozenset({"reconstruction", "infrared_autoencoder", "decomposition"})
"""The objectives that train no denoiser: nothing can be sampled after them."""

__all__ = ["FOR_AUTOENCODERS", "OBJECTIVES", "Draw", "Objective"]
