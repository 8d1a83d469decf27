"""The published procedure, step by step and with nothing of ours: what speeds are ratios to.

One image after the other: decode it, caption it, segment it, encode both pictures and the
prompt, 100 ancestral Euler steps of four network evaluations in float32, decode, write.
Source: DiffV2IR's released sampling code, with its four branches in one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from v2ir.annotators import Captioner, Segmenter
from v2ir.errors import InputError
from v2ir.files import hash_file
from v2ir.images import from_tensor, read_visible, to_tensor, write_infrared
from v2ir.model import CONDITION_NAMES, Guidance, Model
from v2ir.sampling.geometry import Geometry, Resolution, fit, padded, scaled, undo
from v2ir.sampling.noise import draw_noise, image_generator
from v2ir.sampling.solvers import make_scheduler

STEPS = 100
SOLVER = "euler_ancestral"
GUIDANCE = Guidance(nesting="released")
"""The published scales: text 7.5, visible 1.5, segmentation 1.5."""


class PublishedProcedure:
    """The reference.

    Attributes:
        model: A model that takes all three conditions, in float32.
        captioner: Describes each image, inside the loop; None leaves the caption out.
        segmenter: Segments each image, inside the loop; None leaves the map out.
        resolution: Short side of the working image in pixels.
        steps: Number of solver steps.
        seed: Seed of the noise.

    Raises:
        InputError: If the model does not take the three conditions.
    """

    def __init__(
        self,
        model: Model,
        captioner: Captioner | None,
        segmenter: Segmenter | None,
        resolution: Resolution,
        steps: int = STEPS,
        seed: int = 0,
    ) -> None:
        if set(model.card.conditions) != set(CONDITION_NAMES):
            raise InputError(
                f"the reference procedure has no meaning for the model {model.card.name}",
                got=f"conditions {', '.join(model.card.conditions) or 'none'}",
                do=f"give a model that takes {', '.join(CONDITION_NAMES)}",
            )
        self.model = model
        self.captioner, self.segmenter = captioner, segmenter
        self.resolution, self.steps, self.seed = resolution, steps, seed

    def __call__(self, paths: Sequence[Path], out: Path) -> None:
        """Translate images one after the other into a folder."""
        self.model.forget_prompts()
        for path in paths:
            write_infrared(out / f"{path.stem}.png", self.translate(path))

    @torch.inference_mode()
    def translate(self, path: Path) -> np.ndarray:
        """Return the infrared image of a photograph, HW float32 in [0, 1], of its size."""
        model, card = self.model, self.model.card
        photograph = read_visible(path)
        geometry = fit(photograph.shape[1], photograph.shape[0], self.resolution, card.multiple)
        shown = scaled(photograph, geometry)
        caption = self.captioner.caption([shown])[0] if self.captioner else None
        visible = model.encode_visible(_tensor(shown, geometry))
        found = self.segmenter.segment([shown])[0] if self.segmenter else None
        blank = torch.zeros_like(visible[:, : card.channels])
        mapped = blank if found is None else model.encode(_tensor(found, geometry))
        null, text = model.embed_prompts([""]), model.embed([caption])
        # Rows: nothing, S, V + S, T + V + S; the released code's nesting.
        nothing = torch.zeros_like(visible)
        images = torch.cat(
            [
                torch.cat([nothing, nothing, visible, visible]),
                torch.cat([blank, mapped, mapped, mapped]),
            ],
            dim=1,
        )
        generator = image_generator(self.seed, hash_file(path))
        noise = draw_noise([generator], *blank.shape[1:]).to(model.device)
        clean = self._solve(noise, images, torch.cat([null, null, null, text]), generator)
        return undo(from_tensor(model.decode(clean))[0], geometry).clip(0, 1)

    def _solve(
        self, noise: Tensor, images: Tensor, texts: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Solve the reverse process from (1, c, h, w) under the four rows of conditions."""
        scheduler = make_scheduler(SOLVER, self.model.scheduler.config)
        scheduler.set_timesteps(self.steps, device=noise.device)
        style = None
        if self.model.unet.config.num_class_embeds:
            number = self.model.style_number(None)
            style = torch.full((4,), number, dtype=torch.long, device=noise.device)
        latents = noise * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            noisy = scheduler.scale_model_input(latents, timestep)
            rows = torch.cat([torch.cat([noisy] * 4), images], dim=1)
            predicted = self.model.unet(
                rows, timestep, encoder_hidden_states=texts, class_labels=style
            ).sample
            guided = combine(*predicted.chunk(4))
            latents = scheduler.step(guided, timestep, latents, generator=generator).prev_sample
        return latents


def _tensor(pixels: np.ndarray, geometry: Geometry) -> Tensor:
    return to_tensor(padded(pixels, geometry))[None]


def combine(none: Tensor, mapped: Tensor, seen: Tensor, told: Tensor) -> Tensor:
    """Combine the predictions under nothing, S, V + S and T + V + S, as released."""
    return (
        none
        + GUIDANCE.segmentation * (mapped - none)
        + GUIDANCE.visible * (seen - mapped)
        + GUIDANCE.text * (told - seen)
    )
