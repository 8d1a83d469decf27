"""A stage of training and a recipe of stages, as values."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator
from pydantic.functional_serializers import SerializerFunctionWrapHandler

from v2ir.model.card import GuidanceRange
from v2ir.model.conditions import CONDITION_NAMES, ConditionName

Part = Literal[
    "autoencoder", "unet", "text_encoder", "decoder", "encoder", "decomposition", "detail_decoder"
]

THERMAL_OBJECTIVES = ("denoising", "end_to_end")
"""Objectives that take a thermal loss: those that train the denoiser."""
SMALL_HOT_OBJECTIVES = ("reconstruction", "infrared_autoencoder")
"""Objectives that take the error of small hot targets: those that train an autoencoder."""
LATER_FIELDS = ("encoder_widths", "encoder_blocks")
"""Fields of `Stage` that are written only where they differ from what they are by themselves."""


class Stage(BaseModel):
    """One phase of training.

    Attributes:
        name: Name of the stage; the model that it ends with is saved under it.
        phase: Phase of DiffV2IR's progressive learning (Sec. 3.3) that the stage is a part
            of: 1 learns what infrared looks like, 2 translates, 3 takes on a camera's look;
            0 comes before them.
        objective: Row of `v2ir.training.OBJECTIVES`: what the stage minimises.
        scenes: `infrared` takes every scene with an infrared image, `pairs` those that
            have a visible one too.
        styles: Only scenes of these camera styles; empty takes all.
        alignment: Only pairs whose stated alignment is one of these; empty takes all.
        balance: 0 draws scenes alike, 1 draws styles alike, between is between.
        conditions: Conditions that the network is given; the others stay null.
        trains: Parts whose weights change.
        prompt: One prompt for all scenes; None makes it from the caption.
        steps: Number of optimiser steps.
        batch_size: Images in one forward pass.
        accumulation: Forward passes for one optimiser step.
        learning_rate: Peak learning rate of AdamW.
        warmup_steps: Steps over which the learning rate rises from zero.
        decay_steps: Number of steps over which the learning rate falls linearly to zero,
            counted from the stage's start; 0 keeps it constant. More than `steps` end the
            stage before it is zero.
        weight_decay: Weight decay of AdamW.
        clip_norm: Largest norm of the gradient.
        noise_shift: 1 draws all timesteps alike; s draws u = s v / (1 + (s - 1) v) of them
            for uniform v, so that more samples are noisy ones, in which the network must
            translate and not just denoise. Source: Esser et al. 2024, Eq. 23.
        lora_rank: Rank of the adapters that the UNet trains in place of its own weights,
            merged into them at the stage's end; 0 trains the weights themselves.
        lora_alpha: Scale of the adapters; None is the rank.
        end_to_end: Share of each batch that the objective `end_to_end` takes to pictures.
        hot: Further weight of hot pixels in a picture's loss.
        hot_small: Weight of the error within hot targets below 9 px, for the objectives that
            train an autoencoder: their few pixels hardly count in a mean over all.
        structure: Weight of 1 - SSIM in a picture's loss.
        texture: Weight of the difference in the local strength of detail, for the objectives
            `end_to_end` and `detail`; 0 has none.
        adversarial: Weight of a patch discriminator's verdict on pictures; 0 has none. Where
            the decoder trains too, it is a multiple of the adaptive weight.
        features: Weight of the discriminator's features within its verdict.
        kl: Weight of the posterior's divergence from the normal distribution, for the
            objective `infrared_autoencoder`. Source: Rombach et al. 2022, Appendix G (1e-6).
        perceptual: Weight of the perceptual distance, for the same objective; 0 has none.
        perceptual_network: Row of `v2ir.training.objectives.perceptual.PERCEPTUAL`.
        smoothness: Weight of the total variation of the parts, for the objective
            `decomposition`.
        patches: Patches of the environment along each side, for the same objective. Source:
            PID (2).
        thermal: Weight w of the thermal loss, an option of the stages that denoise; 0 has
            none. Source: TxT2IR's released code (50), PID (5 or 50).
        thermal_loss: What the loss compares: `mask` is mean(|y - decode(z0)| * M),
            `decomposition` the parts that the model's decomposition network tells.
        thermal_rebuilding: Weight of the term that asks a picture to rebuild itself from its
            parts, within the `decomposition`. Source: PID, 50 / 50 for FLIR, 50 / 5 for KAIST.
        thermal_hot: M where the thermal mask is hot.
        thermal_cold: M where it is cold.
        thermal_form: `corrected` weighs each sample by the signal's share alpha_t^2 of its
            noise level; `published` weighs all alike.
        thermal_share: Chance of each sample to be decoded for this loss.
        guidance_range: Guidance scales that the distilling objectives teach: each sample's are
            drawn from these ranges.
        huber: Width c of the pseudo-Huber loss of the objective `consistency`; 0 is the
            squared error. Source: Luo et al. 2023's released code (0.001).
        target_decay: Decay of that objective's target network, in forward passes; 0 takes
            the student itself. Source: Luo et al. 2023 (0.95).
        sampling_steps: Default number of steps of the model that `consistency` ends with.
        teacher_solver: Solver by which the stage's start makes the pictures that the
            objective `one_step` learns from; None takes the model's own.
        teacher_steps: Steps of that solver; None takes the model's own.
        decoder_widths: Channels of a small decoder at each size, from the latent's to the
            picture's, for the objective `decoder_distillation`.
        decoder_blocks: Residual blocks at each of these sizes.
        encoder_widths: Channels of a small encoder at each size, from the picture's to the
            latent's, for the objective `encoder_distillation`.
        encoder_blocks: Residual blocks at each of these sizes.
        drop: Probability of dropping each of the seven non-empty subsets of the
            conditions. Source: DiffV2IR's released code (0.02).
        drop_style: Probability of hiding the style.
        average_decay: Decay of the averaged weights, warmed up as (1 + n) / (10 + n).
        crop: Side of the square training crop in pixels.
        detail_crop: Side in pixels of the part of a crop that the objective `detail` makes a
            picture of, a multiple of the factor; 0 takes all of it. The denoiser sees the
            whole crop either way.
        scales: Range of the short side before cropping, in multiples of `crop`.
        jitter: Strength of random exposure and white balance of the visible image, as the
            standard deviation of gamma's logarithm; every scene's first two variants keep
            their light.
        variants: Number of resized and flipped variants of a scene that are encoded once
            and kept; crops are cut out of their latents anew in every step.
        checkpoint_every: Steps between checkpoints.
        sample_every: Steps between sample grids; 0 makes none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    phase: int = Field(default=0, ge=0, le=3)
    objective: str = "denoising"
    scenes: Literal["infrared", "pairs"] = "pairs"
    styles: tuple[str, ...] = ()
    alignment: tuple[str, ...] = ()
    balance: float = Field(default=0.0, ge=0.0, le=1.0)
    conditions: tuple[ConditionName, ...] = CONDITION_NAMES
    trains: tuple[Part, ...] = ("unet",)
    prompt: str | None = None
    steps: int = Field(ge=1)
    batch_size: int = Field(default=16, ge=1)
    accumulation: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    warmup_steps: int = Field(default=0, ge=0)
    decay_steps: int = Field(default=0, ge=0)
    weight_decay: float = 1e-2
    clip_norm: float = 1.0
    noise_shift: float = Field(default=1.0, ge=1.0)
    lora_rank: int = Field(default=0, ge=0)
    lora_alpha: float | None = Field(default=None, gt=0.0)
    end_to_end: float = Field(default=0.5, gt=0.0, le=1.0)
    hot: float = Field(default=0.0, ge=0.0)
    hot_small: float = Field(default=0.0, ge=0.0)
    structure: float = Field(default=0.0, ge=0.0)
    texture: float = Field(default=0.0, ge=0.0)
    adversarial: float = Field(default=0.0, ge=0.0)
    features: float = Field(default=0.0, ge=0.0)
    kl: float = Field(default=0.0, ge=0.0)
    perceptual: float = Field(default=0.0, ge=0.0)
    perceptual_network: str = "efficientnet-lite0"
    smoothness: float = Field(default=0.0, ge=0.0)
    patches: int = Field(default=2, ge=1, le=16)
    thermal: float = Field(default=0.0, ge=0.0)
    thermal_loss: Literal["mask", "decomposition"] = "mask"
    thermal_rebuilding: float = Field(default=1.0, ge=0.0)
    thermal_hot: float = Field(default=5.0, ge=0.0)
    thermal_cold: float = Field(default=0.5, ge=0.0)
    thermal_form: Literal["corrected", "published"] = "corrected"
    thermal_share: float = Field(default=0.25, gt=0.0, le=1.0)
    guidance_range: GuidanceRange = GuidanceRange()
    huber: float = Field(default=1e-3, ge=0.0)
    target_decay: float = Field(default=0.95, ge=0.0, lt=1.0)
    sampling_steps: int = Field(default=4, ge=1, le=50)
    teacher_solver: str | None = None
    teacher_steps: int | None = Field(default=None, ge=1)
    decoder_widths: tuple[int, ...] = (64, 64, 64, 64)
    decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)
    encoder_widths: tuple[int, ...] = (64, 64, 64, 64)
    encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    drop: float = Field(default=0.02, ge=0.0, le=1.0 / 7)
    drop_style: float = Field(default=0.05, ge=0.0, le=1.0)
    average_decay: float = 0.9999
    crop: int = Field(default=256, ge=16)
    detail_crop: int = Field(default=0, ge=0)
    scales: tuple[float, float] = (1.0, 1.125)
    jitter: float = Field(default=0.0, ge=0.0, le=1.0)
    variants: int = Field(default=4, ge=1)
    checkpoint_every: int = Field(default=200, ge=1)
    sample_every: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check_scales(self) -> Self:
        low, high = self.scales
        if not 1.0 <= low <= high:
            raise ValueError(f"scales must be 1 <= low <= high, got {low}, {high}")
        if 0 < self.decay_steps < self.steps:
            raise ValueError(f"decay_steps {self.decay_steps} end before the {self.steps} steps")
        return self

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        if self.thermal > 0 and self.objective not in THERMAL_OBJECTIVES:
            raise ValueError(f"thermal is for {', '.join(THERMAL_OBJECTIVES)}; drop it here")
        if self.hot_small > 0 and self.objective not in SMALL_HOT_OBJECTIVES:
            raise ValueError(f"hot_small is for {', '.join(SMALL_HOT_OBJECTIVES)}; drop it here")
        return self

    @model_serializer(mode="wrap")
    def _leave_out_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write the later fields where they say something.

        Runs and studies are told apart by what their stages say: those begun before these
        fields were there go on.
        """
        values: dict[str, Any] = handler(self)
        same = {f for f in LATER_FIELDS if getattr(self, f) == Stage.model_fields[f].default}
        return {name: value for name, value in values.items() if name not in same}


class Recipe(BaseModel):
    """Everything that decides what a training run ends with, besides the data.

    Attributes:
        name: Name of the recipe and of the model that it makes.
        architecture: Row of `v2ir.model.ARCHITECTURES`.
        stages: Stages in their order; each starts from the averaged weights of the last.
        seed: Seed of the initial weights and of every draw.
        card: Further facts for the model card, such as the default solver.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    architecture: str
    stages: tuple[Stage, ...] = Field(min_length=1)
    seed: int = 0
    card: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"stages must have different names, got {names}")
        return self
