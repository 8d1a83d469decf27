"""What a model folder says about itself: `v2ir.json`."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from v2ir.model.conditions import CONDITION_NAMES, ConditionName

Nesting = Literal["paper", "released"]


class Guidance(BaseModel):
    """How strongly each condition pulls, and how the conditions are nested.

    Attributes:
        text: Scale s_T of the caption.
        visible: Scale s_V of the visible image.
        segmentation: Scale s_S of the segmentation map.
        nesting: `paper` nests visible, segmentation, text (Eq. 2); `released` nests
            segmentation, visible, text as DiffV2IR's released code does.
        interval: Part of the timesteps, as fractions (low, high) of the noisiest one,
            in which guidance acts; outside it the conditioned prediction is taken alone.
            Source: Kynkäänniemi et al. 2024.
    """

    model_config = ConfigDict(frozen=True)

    text: float = 7.5
    visible: float = 1.5
    segmentation: float = 1.5
    nesting: Nesting = "paper"
    interval: tuple[float, float] = (0.0, 1.0)

    @model_validator(mode="after")
    def _check_interval(self) -> Self:
        low, high = self.interval
        if not 0.0 <= low <= high <= 1.0:
            raise ValueError(f"interval must be 0 <= low <= high <= 1, got {low}, {high}")
        return self


class GuidanceRange(BaseModel):
    """Scales that a network with folded guidance was taught, lowest and highest.

    Attributes:
        text: Range of the scale s_T.
        visible: Range of s_V.
        segmentation: Range of s_S.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: tuple[float, float] = (1.0, 10.0)
    visible: tuple[float, float] = (1.0, 3.0)
    segmentation: tuple[float, float] = (1.0, 3.0)

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        for name in CONDITION_NAMES:
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"the range of {name} must be low <= high, got {low}, {high}")
        return self

    def outside(self, scales: Guidance | GuidanceRange) -> str:
        """Return which scales lie outside the range, in words; empty if none does."""
        found = []
        for name in CONDITION_NAMES:
            (low, high), asked = getattr(self, name), getattr(scales, name)
            values = asked if isinstance(asked, tuple) else (asked,)
            if min(values) < low or max(values) > high:
                told = " to ".join(f"{value:g}" for value in values)
                found.append(f"{name} {told}, taught {low:g} to {high:g}")
        return "; ".join(found)


class SpeedChoice(BaseModel):
    """How a model is best sampled at one of the speeds of `v2ir translate --speed`.

    Attributes:
        solver: Name of the solver.
        steps: Number of its steps.
        guidance: Guidance; None takes the model's default.
        reuse: The network's inner features are computed at every n-th step; 1 is always.
        without: What is left out because the model makes nothing better of it: `caption`,
            `segmentation`, `detail`.
    """

    model_config = ConfigDict(frozen=True)

    solver: str
    steps: int = Field(ge=1)
    guidance: Guidance | None = None
    reuse: int = Field(default=1, ge=1)
    without: tuple[str, ...] = ()


class ModelCard(BaseModel):
    """The facts that translation needs and diffusers' folders do not hold.

    Attributes:
        name: Name of the model.
        conditions: Guided conditions that the network was trained with, in the order of
            the input channels.
        channels: Channels of one latent.
        factor: Pixels of the image for one pixel of the latent, along a side.
        scale_conditions: Whether the latents of the visible image and the map are scaled
            like the target's (never so in DiffV2IR; needed where the small autoencoder's
            latents are far from unit variance).
        latent_mean: Mean of each channel of the infrared latents; empty where one factor,
            the autoencoder's `scaling_factor`, is all that scales them.
        latent_std: Standard deviation of each channel; empty like `latent_mean`.
        styles: Names of the camera styles, in the order of the embedding's rows 1, 2, ...
        default_style: Style used when none is asked for; None uses row 0, "no style".
        resolution: Short side in pixels of the size that images are worked on at.
        multiple: Working sides are padded to multiples of this many pixels.
        text_length: Tokens that a prompt is padded to.
        prompt_template: Prompt around a caption, with `{caption}`.
        prompt_without_caption: Prompt where there is no caption; the empty string is the
            null condition.
        guidance: Default guidance.
        guidance_range: Scales that the network can be told, where guidance is folded into
            it; None where guidance takes several evaluations.
        solver: Default solver.
        steps: Default number of steps.
        one_step: Whether the network makes a picture at once from zeros, as plain regression
            and Pix2Pix do, so that one step of `mean` is its only setting.
        speeds: What to do at a speed, by its name; a speed without an entry is the same
            for every model.
        captioner: Name of the captioner whose captions the model learned from.
        segmenter: Name of the segmenter whose maps the model learned from.
        licence: Terms under which the weights may be used.
        recipe: Resolved training recipe.
        data: What it was trained on, in words.
        scores: Measured results by name.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    conditions: tuple[ConditionName, ...] = CONDITION_NAMES
    channels: int
    factor: int = 8
    scale_conditions: bool = False
    latent_mean: tuple[float, ...] = ()
    latent_std: tuple[float, ...] = ()
    styles: tuple[str, ...] = ()
    default_style: str | None = None
    resolution: int = 512
    multiple: int = 64
    text_length: int = 77
    prompt_template: str = "turn the visible image of {caption} into infrared"
    prompt_without_caption: str = "turn the RGB image into the infrared one"
    guidance: Guidance = Field(default_factory=Guidance)
    guidance_range: GuidanceRange | None = None
    solver: str = "euler_ancestral"
    steps: int = 100
    one_step: bool = False
    speeds: dict[str, SpeedChoice] = Field(default_factory=dict)
    captioner: str | None = None
    segmenter: str | None = None
    licence: str = "unknown"
    recipe: dict[str, Any] = Field(default_factory=dict)
    data: str = ""
    scores: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.default_style is not None and self.default_style not in self.styles:
            raise ValueError(f"default_style {self.default_style!r} is not one of {self.styles}")
        lengths = {len(self.latent_mean), len(self.latent_std)}
        if lengths not in ({0}, {self.channels}):
            raise ValueError(f"latent_mean and latent_std need {self.channels} values or none")
        if "{caption}" not in self.prompt_template:
            raise ValueError("prompt_template must contain {caption}")
        return self

    def prompt(self, caption: str | None) -> str:
        """Return the prompt for a caption, or the one for no caption."""
        if not caption:
            return self.prompt_without_caption
        return self.prompt_template.format(caption=caption)
