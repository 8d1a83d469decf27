"""What the stages minimise, by name."""

from __future__ import annotations

from collections.abc import Callable

from v2ir.training.objectives.denoising import Denoising
from v2ir.training.objectives.end_to_end import EndToEnd
from v2ir.training.objectives.objective import Draw, Objective
from v2ir.training.objectives.reconstruction import Reconstruction
from v2ir.training.objectives.refinement import Refinement

OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "reconstruction": Reconstruction,
    "denoising": Denoising,
    "end_to_end": EndToEnd,
    "refinement": Refinement,
}
"""Rows for `Stage.objective`."""

__all__ = ["OBJECTIVES", "Draw", "Objective"]
