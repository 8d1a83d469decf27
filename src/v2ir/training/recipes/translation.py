"""Translation from visible images: DiffV2IR at its published size and small."""

from __future__ import annotations

from typing import Any

from v2ir.training.recipes.parts import ANNOTATORS, INFRARED_PROMPT, autoencoder_stage
from v2ir.training.stage import Recipe, Stage

_STREET: dict[str, Any] = {
    "styles": ("llvip", "metu_vistir", "msrs", "roadscene"), "alignment": ("strict", "near"),
}  # fmt: skip
# The same views in all stages of mini, so that each finds the latents of the ones before.
_VIEWS: dict[str, Any] = {"balance": 0.5, "scales": (1.0, 1.5), "jitter": 0.2, "noise_shift": 8.0}


def mini() -> Recipe:
    """Return the recipe of the bundled model; its decoder is trained by `mini_detail` after it."""
    # Most samples are noisy ones, because where heat is gets decided there; and batches are
    # small, because more updates for the same work learn more.
    small: dict[str, Any] = {
        "trains": ("unet", "text_encoder"), "batch_size": 6, "average_decay": 0.999,
        "learning_rate": 5e-4, "warmup_steps": 50, "sample_every": 500, **_VIEWS,
    }  # fmt: skip
    return Recipe(
        name="mini",
        architecture="mini",
        stages=(
            autoencoder_stage(steps=1600, decay_steps=1600),
            Stage(
                name="infrared", phase=1, scenes="infrared", conditions=(),
                prompt=INFRARED_PROMPT, steps=200, variants=2, drop=0.0,
                **{**small, "noise_shift": 1.0},
            ),
            Stage(name="pairs", phase=2, steps=500, decay_steps=5000, **small),
            Stage(
                name="style", phase=3, steps=4500, decay_steps=4500, **_STREET, **small,
            ),
        ),
        card={
            **ANNOTATORS,
            "resolution": 384, "multiple": 32, "solver": "mean", "steps": 1,
            "prompt_without_caption": "",
            "guidance": {"text": 1.0, "visible": 1.0, "segmentation": 1.0},
            "speeds": {
                "balanced": {"solver": "dpmpp", "steps": 4},
                "fast": {"solver": "mean", "steps": 2},
                "one-step": {"solver": "mean", "steps": 1},
            },
        },
    )  # fmt: skip


def mini_detail() -> Recipe:
    """Return the training of a decoder that sees the visible image, `--from` a model like mini.

    The first stage learns the picture. Pairs from two cameras are a few pixels apart, so what
    it learns is soft; the second one asks for as much detail as there is, wherever it lies.
    """
    shared: dict[str, Any] = {
        "phase": 3, "objective": "detail", "trains": ("detail_decoder",), "drop": 0.0,
        "drop_style": 0.0, "warmup_steps": 50, "batch_size": 8, "average_decay": 0.99,
        "detail_crop": 128, "hot": 2.0, "end_to_end": 0.9, **_STREET, **_VIEWS,
    }  # fmt: skip
    return Recipe(
        name="mini-detail",
        architecture="mini",
        stages=(
            Stage(
                name="detail", steps=600, decay_steps=3000, learning_rate=1e-3, structure=1.0,
                **shared,
            ),
            Stage(
                name="texture", steps=1000, decay_steps=1400, learning_rate=7e-4, structure=0.1,
                texture=5.0, **shared,
            ),
        ),
    )  # fmt: skip


def tiny() -> Recipe:
    """Return a recipe of all stages that trains in seconds, for tests and first tries."""
    small: dict[str, Any] = {
        "steps": 6, "batch_size": 2, "crop": 32, "variants": 2,
        "trains": ("unet", "text_encoder"), "average_decay": 0.9, "checkpoint_every": 2,
    }  # fmt: skip
    return Recipe(
        name="tiny",
        architecture="tiny",
        stages=(
            autoencoder_stage(steps=6, batch_size=2, crop=32, checkpoint_every=2),
            Stage(
                name="infrared", phase=1, scenes="infrared", conditions=(), prompt=INFRARED_PROMPT,
                drop=0.0, **small,
            ),
            Stage(name="pairs", phase=2, sample_every=3, **small),
            Stage(name="style", phase=3, **small),
        ),
        card={
            **ANNOTATORS, "resolution": 64, "multiple": 16, "solver": "dpmpp", "steps": 2,
            "guidance": {"text": 1.5, "visible": 1.5, "segmentation": 1.5},
        },
    )  # fmt: skip


def camera() -> Recipe:
    """Return phase 3 alone: the look of one camera from a small set, `--from` a model."""
    return Recipe(
        name="camera",
        architecture="mini",
        stages=(
            Stage(
                name="style", phase=3, trains=("unet", "text_encoder"), steps=400,
                learning_rate=2e-4, warmup_steps=20, decay_steps=400, noise_shift=4.0,
                average_decay=0.99,
                scales=(1.0, 1.5), sample_every=100, checkpoint_every=50,
            ),
        ),
    )  # fmt: skip


def diffv2ir(crop: int) -> Recipe:
    """Return the three phases of DiffV2IR, to start from Stable Diffusion 1.5 widened to 12.

    Source: DiffV2IR, Sec. 3.3 and its released code: crop 256 out of 256 to 288 px, AdamW
    with 1e-4, batch 32 x 8, averaged weights 0.9999, about 100 epochs of 66,023 pairs in
    phase 2. The rank of phase 1's adapters and its length are not stated; both are ours.
    """
    published: dict[str, Any] = {
        "batch_size": 32, "accumulation": 8, "learning_rate": 1e-4, "average_decay": 0.9999,
        "crop": crop, "scales": (1.0, 1.125), "sample_every": 500, "checkpoint_every": 500,
    }  # fmt: skip
    return Recipe(
        name=f"diffv2ir-{crop}",
        architecture="sd15",
        stages=(
            Stage(
                name="infrared", phase=1, scenes="infrared", conditions=(), prompt=INFRARED_PROMPT,
                drop=0.0, drop_style=0.0, steps=2_500, lora_rank=64, **published,
            ),
            Stage(name="pairs", phase=2, steps=25_000, **published),
            Stage(name="style", phase=3, steps=2_500, **published),
        ),
        card={
            "captioner": "blip-base", "segmenter": "sam-huge", "resolution": 512, "multiple": 64,
        },
    )  # fmt: skip


def camera_lora() -> Recipe:
    """Return the light way to fit a camera: an adapter, from about 100 pairs."""
    return Recipe(
        name="camera-lora",
        architecture="sd15",
        stages=(
            Stage(
                name="style", phase=3, steps=1_000, learning_rate=1e-4, warmup_steps=50,
                decay_steps=1_000, batch_size=8, lora_rank=32, average_decay=0.99, sample_every=250,
            ),
        ),
    )  # fmt: skip
