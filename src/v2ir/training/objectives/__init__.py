"""What the stages minimise, by name."""

from __future__ import annotations

from collections.abc import Callable

from v2ir.training.objectives.consistency import Consistency
from v2ir.training.objectives.decoder_distillation import DecoderDistillation
from v2ir.training.objectives.decomposition import Decomposing
from v2ir.training.objectives.denoising import Denoising
from v2ir.training.objectives.detail import Detail
from v2ir.training.objectives.encoder_distillation import EncoderDistillation
from v2ir.training.objectives.end_to_end import EndToEnd
from v2ir.training.objectives.guidance_distillation import GuidanceDistillation
from v2ir.training.objectives.infrared_autoencoder import InfraredAutoencoder
from v2ir.training.objectives.objective import Draw, Objective
from v2ir.training.objectives.one_step import OneStep
from v2ir.training.objectives.pix2pix import Pix2Pix
from v2ir.training.objectives.reconstruction import Reconstruction
from v2ir.training.objectives.regression import Regression

OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "reconstruction": Reconstruction,
    "infrared_autoencoder": InfraredAutoencoder,
    "decomposition": Decomposing,
    "denoising": Denoising,
    "end_to_end": EndToEnd,
    "detail": Detail,
    "regression": Regression,
    "pix2pix": Pix2Pix,
    "guidance_distillation": GuidanceDistillation,
    "consistency": Consistency,
    "one_step": OneStep,
    "decoder_distillation": DecoderDistillation,
    "encoder_distillation": EncoderDistillation,
}
"""Rows for `Stage.objective`."""
FOR_AUTOENCODERS = frozenset(
    {
        "reconstruction",
        "infrared_autoencoder",
        "decomposition",
        "decoder_distillation",
        "encoder_distillation",
    }
)
"""The objectives that train no denoiser: nothing can be sampled after them."""
FROM_A_MODEL = frozenset(
    {
        "guidance_distillation",
        "consistency",
        "one_step",
        "decoder_distillation",
        "encoder_distillation",
        "detail",
    }
)
"""The objectives whose stage starts from a trained model: it is the teacher."""

__all__ = ["FOR_AUTOENCODERS", "FROM_A_MODEL", "OBJECTIVES", "Draw", "Objective"]
