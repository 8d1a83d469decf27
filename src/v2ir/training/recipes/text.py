"""Infrared scenes from text: TxT2IR and the infrared autoencoder."""

from __future__ import annotations

from typing import Any

from v2ir.training.recipes.parts import INFRARED_PROMPT, autoencoder_stage
from v2ir.training.stage import Recipe, Stage


def _infrared_stages(steps: tuple[int, int], **changes: Any) -> tuple[Stage, Stage]:
    """Return the two stages of an infrared autoencoder: without and with a discriminator.

    Source: TxT2IR's released code: L1, 50 x (1 - SSIM), KL 1e-6, the discriminator from step
    50,001 on with the adaptive weight times 0.5.
    """
    settings: dict[str, Any] = {
        "objective": "infrared_autoencoder", "structure": 50.0, "kl": 1e-6, **changes,
    }  # fmt: skip
    return (
        autoencoder_stage(**{**settings, "steps": steps[0]}),
        autoencoder_stage(
            **{**settings, "name": "adversary", "steps": steps[1]}, adversarial=0.5,
        ),
    )  # fmt: skip


_PUBLISHED_INFRARED: dict[str, Any] = {
    "crop": 512, "scales": (1.0, 1.0), "batch_size": 4, "learning_rate": 4.5e-6,
    "warmup_steps": 0, "balance": 0.0, "average_decay": 0.0, "checkpoint_every": 1_000,
}  # fmt: skip
# The small one is pulled less by SSIM, so that few steps get the brightness right as well.
_SMALL_INFRARED: dict[str, Any] = {"structure": 1.0, "learning_rate": 5e-4, "checkpoint_every": 100}
_TEXT_CARD: dict[str, Any] = {
    "conditions": ["text"], "prompt_template": "{caption}",
    "prompt_without_caption": INFRARED_PROMPT,
}  # fmt: skip


def _text(**changes: Any) -> Stage:
    """Return the stage that learns infrared scenes from captions.

    The text is dropped in four of the seven subsets, so in one sample of ten: that is what
    guidance needs, and what the released code lacks.
    """
    settings: dict[str, Any] = {
        "name": "text", "scenes": "infrared", "conditions": ("text",),
        "trains": ("unet", "text_encoder"), "drop": 0.025,
    }  # fmt: skip
    return Stage(**{**settings, **changes})


def txt2ir() -> Recipe:
    """Return TxT2IR without its thermal-mask loss, which is an option of the stage `text`.

    Source: TxT2IR's released code: 512 px, batch 2, 5e-5, no averaged weights, DDIM with 200
    steps and no guidance. Numbers of steps, and the batch of the autoencoder, are ours.
    """
    return Recipe(
        name="txt2ir",
        architecture="txt2ir",
        stages=(
            *_infrared_stages((50_000, 50_000), **_PUBLISHED_INFRARED),
            _text(
                steps=100_000, batch_size=2, learning_rate=5e-5, crop=512, scales=(1.0, 1.0),
                average_decay=0.0, sample_every=2_000, checkpoint_every=1_000,
            ),
        ),
        card={
            **_TEXT_CARD, "resolution": 512, "multiple": 128, "solver": "ddim", "steps": 200,
            "guidance": {"text": 1.0},
        },
    )  # fmt: skip


def txt2ir_mini() -> Recipe:
    """Return TxT2IR in a small size; its stages from `layout` on may start `--from mini`.

    What things look like and where they are is learned on small pictures, at a fifth of the work,
    and then at the size that is shown. What a word changes is decided in noise that hides the
    picture, so most of the samples are there.
    """
    small: dict[str, Any] = {
        "balance": 0.5, "scales": (1.0, 1.15), "average_decay": 0.998, "sample_every": 1_000,
        "checkpoint_every": 200, "warmup_steps": 100,
    }  # fmt: skip
    return Recipe(
        name="txt2ir-mini",
        architecture="txt2ir-mini",
        stages=(
            *_infrared_stages((1_600, 400), **_SMALL_INFRARED),
            _text(
                name="layout", crop=64, noise_shift=4.0, batch_size=64, steps=10_000,
                learning_rate=1.2e-3, **small,
            ),
            _text(
                crop=128, noise_shift=2.0, batch_size=32, steps=5_000, decay_steps=5_000,
                learning_rate=8e-4, **small,
            ),
        ),
        card={
            **_TEXT_CARD, "resolution": 128, "multiple": 16, "solver": "dpmpp", "steps": 12,
            "guidance": {"text": 3.0},
        },
    )  # fmt: skip


def ir_autoencoder(name: str, architecture: str, multiple: int) -> Recipe:
    """Return the infrared autoencoder alone, as published; `txt2ir` begins with it."""
    return Recipe(
        name=name,
        architecture=architecture,
        stages=_infrared_stages((50_000, 50_000), **_PUBLISHED_INFRARED),
        card={**_TEXT_CARD, "resolution": 512, "multiple": multiple},
    )
