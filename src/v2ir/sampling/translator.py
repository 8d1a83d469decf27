"""The translator: one model with its settings, from visible pixels to infrared ones."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from v2ir.errors import InputError, UnknownNameError
from v2ir.images import from_tensor, to_tensor
from v2ir.model import Conditions, Guidance, Model
from v2ir.sampling.geometry import Geometry, Resolution, apply, fit, padded, scaled, undo
from v2ir.sampling.guidance import check_guidance
from v2ir.sampling.noise import draw_noise, image_generator
from v2ir.sampling.plan import find_plan, wide
from v2ir.sampling.solvers import solve
from v2ir.sampling.speeds import Precision
from v2ir.sampling.windows import Windows

Omission = Literal["caption", "segmentation", "detail"]
OMISSIONS: tuple[Omission, ...] = ("caption", "segmentation", "detail")


@dataclasses.dataclass(frozen=True)
class TranslateSettings:
    """What the user may choose; None takes the model's default.

    Attributes:
        style: Camera style, or `none`.
        seed: Seed of the noise; see `v2ir.sampling.noise`.
        speed: Name of a row of `SPEEDS`; it sets what is not given below.
        steps: Number of solver steps.
        solver: Name of a row of `SOLVERS`.
        guidance: Scales, nesting and interval.
        resolution: Short side of the working image in pixels, or `native`.
        batch_size: Images that run through the network together. The default is 1 on a
            CPU, where more gains little and the last bits of a result would depend on
            the batch, and 8 elsewhere.
        without: Conditions to leave out; the model's null conditions take their place. With
            `detail` the autoencoder makes the picture in the detail decoder's place.
        reuse: The network's inner features are computed at every n-th step.
        precision: Number format of the denoising network.
    """

    style: str | None = None
    seed: int = 0
    speed: str | None = None
    steps: int | None = None
    solver: str | None = None
    guidance: Guidance | None = None
    resolution: Resolution | None = None
    batch_size: int | None = None
    without: tuple[Omission, ...] = ()
    reuse: int | None = None
    precision: Precision | None = None


@dataclasses.dataclass(frozen=True)
class Prepared:
    """One image at its working size.

    Attributes:
        geometry: How it was brought there.
        visible: HWC uint8 RGB of the working size.
        key: Names the content, for the noise; the SHA-256 of the input file.
        caption: Caption, or None.
        segmentation: HW uint8 map of the working size, or None.
        style: Style number of this image, or None for the translator's style.
    """

    geometry: Geometry
    visible: np.ndarray
    key: str
    caption: str | None = None
    segmentation: np.ndarray | None = None
    style: int | None = None

    @property
    def shape(self) -> tuple[int, int, bool]:
        """What images of one batch must have in common."""
        return (*self.geometry.working_size, self.segmentation is not None)


class Translator:
    """Translates visible images with a model under fixed settings.

    Attributes:
        model: The model.
        style: Name of the camera style, or None for no style.
        seed: Seed of the noise.
        steps: Number of solver steps.
        solver: Name of the solver.
        guidance: Scales, nesting and interval.
        resolution: Short side of the working image in pixels, or `native`.
        batch_size: Images that run through the network together.
        without: What is left out, by the user or by the model at this speed.
        speed: Name of the speed that was asked for, or None.
        plan: How images are computed at that speed.
        windows: The largest piece that a network is given at once.

    Raises:
        UnknownNameError: If the style, the speed, the solver, the precision or an omitted
            condition is unknown.
        InputError: If a number is out of range.
    """

    def __init__(self, model: Model, settings: TranslateSettings | None = None) -> None:
        settings = settings or TranslateSettings()
        card = model.card
        self.speed = settings.speed
        self.plan = find_plan(card, settings)
        self.without = tuple(sorted({*settings.without, *self.plan.without}))
        if "detail" in self.without:
            model = dataclasses.replace(model, detail_decoder=None)
        self.model = self.plan.fitted(model)
        self._style_number = model.style_number(settings.style)
        self.style = card.styles[self._style_number - 1] if self._style_number else None
        self.seed = settings.seed
        self.steps = self.plan.steps
        self.solver = self.plan.solver
        self.guidance = self.plan.guidance
        self.resolution = settings.resolution or card.resolution
        self.batch_size = self.plan.batch_for(model.device)
        self.windows = windows_for(card.resolution, card.factor, card.multiple)
        self._check()

    def _check(self) -> None:
        if "visible" not in self.model.card.conditions:
            raise InputError(
                f"the model {self.model.card.name} does not take visible images",
                got=f"conditions {', '.join(self.model.card.conditions) or 'none'}",
                do="make images from text with `v2ir generate`, or give another model",
            )
        check_guidance(self.model.card, self.guidance)
        self._check_one_step()
        for name in self.without:
            if name not in OMISSIONS:
                raise UnknownNameError.of("part to leave out", name, OMISSIONS)
        self.plan.check()
        if self.resolution != "native" and self.resolution < self.model.card.multiple:
            raise InputError(
                "the resolution is too small for the model",
                got=str(self.resolution),
                do=f"give at least {self.model.card.multiple}",
            )

    def _check_one_step(self) -> None:
        card = self.model.card
        asked = (self.solver, self.steps, self.guidance)
        if card.one_step and asked != (card.solver, card.steps, card.guidance):
            raise InputError(
                f"the model {card.name} makes a picture at once, without noise or guidance",
                got=f"solver {self.solver}, {self.steps} steps, {self.guidance}",
                do="leave out --solver, --steps and --guidance",
            )

    @property
    def takes_captions(self) -> bool:
        """Whether captions have an effect."""
        return "text" in self.model.card.conditions and "caption" not in self.without

    @property
    def takes_maps(self) -> bool:
        """Whether segmentation maps have an effect."""
        known = "segmentation" in self.model.card.conditions
        return known and "segmentation" not in self.without

    def fit(self, width: int, height: int) -> Geometry:
        """Choose the working size of an image of `width` x `height` pixels."""
        return fit(width, height, self.resolution, self.model.card.multiple)

    def prepare(
        self,
        visible: np.ndarray,
        *,
        key: str,
        caption: str | None = None,
        segmentation: np.ndarray | None = None,
        style: str | None = None,
    ) -> Prepared:
        """Bring an image and its map to the working size.

        Args:
            visible: HWC uint8 RGB of any size.
            key: Names the content, for the noise.
            caption: Caption, or None; ignored where captions have no effect.
            segmentation: HW uint8 map of the visible image's aspect, or None; ignored
                where maps have no effect. One of the scaled size is not resized again.
            style: Camera style of this image, or None for the translator's.

        Raises:
            UnknownNameError: If the model does not know the style.
        """
        geometry = self.fit(visible.shape[1], visible.shape[0])
        return Prepared(
            geometry=geometry,
            visible=apply(visible, geometry),
            key=key,
            caption=caption if self.takes_captions else None,
            segmentation=_fitted_map(segmentation, geometry) if self.takes_maps else None,
            style=self.model.style_number(style) if style else None,
        )

    @torch.inference_mode()
    def run(self, batch: Sequence[Prepared]) -> list[np.ndarray]:
        """Translate images of one shape together.

        Args:
            batch: Prepared images of equal `shape`.

        Returns:
            Infrared images of the working size, HW float32 in [0, 1]; `geometry.undo`
            brings them to the originals' sizes.
        """
        card = self.model.card
        if not self.plan.speed.keeping:
            self.model.forget_prompts()
        generators = [image_generator(self.seed, item.key) for item in batch]
        width, height = batch[0].geometry.working_size
        size = (card.channels, height // card.factor, width // card.factor)
        visible = _pixels([item.visible for item in batch])
        conditions = self._conditions(batch, visible)
        latents = solve(
            self.plan.denoiser(self.model, self.windows),
            draw_noise(generators, *size).to(self.model.device, wide(self.model.dtype)),
            conditions,
            config=self.model.scheduler.config,
            solver=self.solver,
            steps=self.steps,
            generators=generators,
        )
        planes = self.model.beside_visible(latents, conditions, visible)
        return list(from_tensor(self.windows.decode(self.model.decode, planes, card.factor)))

    def _styles(self, batch: Sequence[Prepared]) -> list[int]:
        return [self._style_number if item.style is None else item.style for item in batch]

    def translate_pixels(
        self,
        visible: np.ndarray,
        *,
        caption: str | None = None,
        segmentation: np.ndarray | None = None,
        key: str | None = None,
    ) -> np.ndarray:
        """Translate one image in memory.

        Args:
            visible: HWC uint8 RGB of any size.
            caption: Caption, or None.
            segmentation: HW uint8 map of the same size, or None for the null condition.
            key: Names the content, for the noise; None takes a hash of the pixels.

        Returns:
            The infrared image, HW float32 in [0, 1], of the same width and height.
        """
        key = key or hashlib.sha256(np.ascontiguousarray(visible).tobytes()).hexdigest()
        prepared = self.prepare(visible, key=key, caption=caption, segmentation=segmentation)
        # Bicubic interpolation may leave the range at strong edges.
        return undo(self.run([prepared])[0], prepared.geometry).clip(0, 1)

    def _conditions(self, batch: Sequence[Prepared], visible: Tensor) -> Conditions:
        maps = [item.segmentation for item in batch if item.segmentation is not None]
        captions = [item.caption for item in batch]
        return Conditions(
            visible=self._encode(visible, self.model.encode_visible),
            segmentation=self._encode(_pixels(maps), self.model.encode) if maps else None,
            text=self.model.embed(captions) if self.takes_captions else None,
            style=torch.tensor(self._styles(batch), device=self.model.device),
            null_text=self.model.embed_prompts([""]),
        )

    def _encode(self, pixels: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        return self.windows.encode(encode, pixels, self.model.card.factor)


def _pixels(images: Sequence[np.ndarray]) -> Tensor:
    return torch.stack([to_tensor(image) for image in images])


def windows_for(resolution: int, factor: int, multiple: int) -> Windows:
    """Return windows of about twice a model's resolution that overlap by a quarter of it.

    Args:
        resolution: Short side in pixels that the model works on.
        factor: Pixels of the image for one of the latent.
        multiple: Multiple of pixels that the network needs.
    """
    unit = max(1, multiple // factor)
    size = max(4 * unit, 2 * resolution // factor // unit * unit)
    return Windows(size=size, overlap=max(unit, size // 8), multiple=unit)


def _fitted_map(segmentation: np.ndarray | None, geometry: Geometry) -> np.ndarray | None:
    if segmentation is None:
        return None
    if segmentation.shape[:2] == (geometry.scaled_height, geometry.scaled_width):
        return padded(segmentation, geometry)
    if segmentation.shape[:2] != (geometry.height, geometry.width):
        raise InputError(
            "the map has another size than its image",
            got=f"{segmentation.shape[1]}x{segmentation.shape[0]} px",
            do=f"give a map of {geometry.width}x{geometry.height} px",
        )
    return padded(scaled(segmentation, geometry), geometry)
