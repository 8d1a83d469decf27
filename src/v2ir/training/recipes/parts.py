"""What several recipes have in common."""

from __future__ import annotations

from typing import Any

from v2ir.training.stage import Stage

INFRARED_PROMPT = "an infrared image"
ANNOTATORS = {"captioner": "statistics", "segmenter": "regions"}


def autoencoder_stage(**changes: Any) -> Stage:
    """Return the stage that trains a small autoencoder on every kind of image."""
    settings: dict[str, Any] = {
        "name": "autoencoder",
        "objective": "reconstruction",
        "scenes": "infrared",
        "conditions": (),
        "trains": ("autoencoder",),
        "balance": 0.5,
        "crop": 128,
        "scales": (1.0, 3.0),
        "batch_size": 8,
        "warmup_steps": 50,
        "average_decay": 0.995,
        "learning_rate": 1e-3,
        "drop": 0.0,
        "drop_style": 0.0,
    }
    return Stage(**{**settings, **changes})
