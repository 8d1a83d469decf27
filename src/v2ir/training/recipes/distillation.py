"""Distillation: fewer evaluations and steps, small ways in and out. All start `--from` a model."""

from __future__ import annotations

from typing import Any

from v2ir.model.card import GuidanceRange
from v2ir.training.stage import Recipe, Stage


def distil() -> Recipe:
    """Return guidance folded in, then consistency, for a model of full size.

    Source: Luo et al. 2023, Appendix: batch 72, 8e-6, 100,000 steps for consistency, scales
    drawn from a range, averages 0.95. Numbers of steps are ours, for models of one camera.
    """
    common: dict[str, Any] = {
        "batch_size": 18, "accumulation": 4, "learning_rate": 8e-6, "warmup_steps": 100,
        "average_decay": 0.999, "weight_decay": 0.0, "checkpoint_every": 500,
    }  # fmt: skip
    return Recipe(
        name="distil",
        architecture="sd15",
        stages=(
            Stage(
                name="guidance", objective="guidance_distillation", steps=5_000,
                **{**common, "learning_rate": 1e-5},
            ),
            Stage(name="consistency", objective="consistency", steps=10_000, **common),
        ),
    )  # fmt: skip


_MINI: dict[str, Any] = {
    "batch_size": 4, "learning_rate": 2e-4, "warmup_steps": 20, "average_decay": 0.99,
    "scales": (1.0, 1.5), "balance": 0.5, "weight_decay": 0.0, "checkpoint_every": 50,
}  # fmt: skip


def mini_distil() -> Recipe:
    """Return the same for the bundled model."""
    ranges = GuidanceRange(text=(1.0, 3.0), visible=(1.0, 2.0), segmentation=(1.0, 2.0))
    common = {**_MINI, "guidance_range": ranges}
    return Recipe(
        name="mini-distil",
        architecture="mini",
        stages=(
            Stage(
                name="guidance", objective="guidance_distillation", steps=300, decay_steps=300,
                **common,
            ),
            Stage(
                name="consistency", objective="consistency", steps=600, decay_steps=600,
                noise_shift=2.0, **common,
            ),
        ),
    )  # fmt: skip


def mini_one_step() -> Recipe:
    """Return one step of the bundled model that looks like many, by the pictures' losses."""
    return Recipe(
        name="mini-one-step",
        architecture="mini",
        stages=(
            Stage(
                name="one_step", objective="one_step", steps=300, decay_steps=300,
                end_to_end=0.5, teacher_solver="dpmpp", teacher_steps=8, **_MINI,
            ),
        ),
    )  # fmt: skip


def tiny_decoder() -> Recipe:
    """Return a small decoder for Stable Diffusion's latents: two stages, the last with a judge."""
    common: dict[str, Any] = {
        "objective": "decoder_distillation", "scenes": "infrared", "conditions": (),
        "trains": ("decoder",), "crop": 256, "scales": (1.0, 2.0), "batch_size": 16,
        "learning_rate": 5e-4, "warmup_steps": 100, "average_decay": 0.999, "balance": 0.5,
        "structure": 0.5, "weight_decay": 0.0, "checkpoint_every": 500,
    }  # fmt: skip
    return Recipe(
        name="tiny-decoder",
        architecture="sd15",
        stages=(
            Stage(name="decoder", steps=20_000, decay_steps=20_000, **common),
            Stage(
                name="sharp", steps=5_000, adversarial=0.1, **{**common, "learning_rate": 1e-4}
            ),
        ),
    )  # fmt: skip


def mini_tiny_decoder() -> Recipe:
    """Return a small decoder for the bundled model's latents."""
    return Recipe(
        name="mini-tiny-decoder",
        architecture="mini",
        stages=(
            Stage(
                name="decoder", objective="decoder_distillation", scenes="infrared",
                conditions=(), trains=("decoder",), crop=128, scales=(1.0, 3.0), batch_size=8,
                steps=1_000, decay_steps=1_000, learning_rate=1e-3, warmup_steps=50,
                average_decay=0.99, balance=0.5, weight_decay=0.0,
                decoder_widths=(24, 24, 24, 24), decoder_blocks=(2, 2, 1, 0),
            ),
        ),
    )  # fmt: skip


def tiny_encoder() -> Recipe:
    """Return a small encoder of visible images and maps to Stable Diffusion's latents."""
    return Recipe(
        name="tiny-encoder",
        architecture="sd15",
        stages=(
            Stage(
                name="encoder", objective="encoder_distillation",
                conditions=("visible", "segmentation"), trains=("encoder",), crop=256,
                scales=(1.0, 2.0), batch_size=16, steps=20_000, decay_steps=20_000,
                learning_rate=5e-4, warmup_steps=100, average_decay=0.999, balance=0.5,
                weight_decay=0.0, checkpoint_every=500,
            ),
        ),
    )  # fmt: skip


def mini_tiny_encoder() -> Recipe:
    """Return a small encoder to the bundled model's latents."""
    return Recipe(
        name="mini-tiny-encoder",
        architecture="mini",
        stages=(
            Stage(
                name="encoder", objective="encoder_distillation",
                conditions=("visible", "segmentation"), trains=("encoder",), crop=128,
                scales=(1.0, 3.0), batch_size=8, steps=1_000, decay_steps=1_000,
                learning_rate=1e-3, warmup_steps=50, average_decay=0.99, balance=0.5,
                weight_decay=0.0, encoder_widths=(8, 16, 32, 64), encoder_blocks=(0, 1, 2, 2),
            ),
        ),
    )  # fmt: skip
