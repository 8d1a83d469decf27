"""What a stage minimises. The loop knows objectives only by this protocol."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v2ir.images import read_infrared, read_map, read_visible, to_tensor, to_uint8
from v2ir.model import Conditions, Model, NetworkDenoiser, denoising_loss
from v2ir.model.networks import encode_mode
from v2ir.training.cache import Caches, Variant, cut, draw_variants
from v2ir.training.drops import draw_drops
from v2ir.training.scenes import TrainingScene
from v2ir.training.stage import Stage


class Objective(Protocol):
    """A loss over batches of scenes.

    Attributes:
        model: The model in training.
        modules: The networks whose weights change, by part.
    """

    model: Model
    modules: dict[str, nn.Module]

    def batch(self, scenes: Sequence[TrainingScene], generator: np.random.Generator) -> Any:
        """Read and compose a batch; every random choice comes from the generator."""

    def loss(self, batch: Any, generator: torch.Generator) -> Tensor:
        """Return the mean loss of a batch; noise and timesteps come from the generator."""

    def finish(self, scenes: Sequence[TrainingScene]) -> None:
        """Do what is left when the weights are final."""


def read_part(item: TrainingScene, part: str) -> np.ndarray:
    """Read one image of a scene: `infrared` and `segmentation` HW, `visible` HWC, uint8."""
    scene, root = item.scene, item.root
    if part == "visible" and scene.visible:
        return read_visible(root / scene.visible)
    if part == "infrared" and scene.infrared:
        return to_uint8(read_infrared(root / scene.infrared))
    if part == "segmentation" and item.segmentation:
        return read_map(item.segmentation)
    raise ValueError(f"{scene.name} has no {part} image")


def part_hash(item: TrainingScene, part: str) -> str | None:
    """Return the hash of an image of a scene, or None where there is no such image."""
    if part == "segmentation":
        return item.segmentation_hash
    return item.scene.visible_hash if part == "visible" else item.scene.infrared_hash


class Reconstruction:
    """The autoencoder's objective: the image back, with its edges.

    The loss is the mean absolute error of the values and of their differences between
    neighbours. Relative noise on the latent makes the decoder forgive the small errors
    of a denoised latent.
    """

    PARTS = ("infrared", "visible", "segmentation")
    CHANCES = (0.65, 0.25, 0.10)
    LATENT_NOISE = 0.05

    def __init__(self, model: Model, stage: Stage, caches: Caches | None = None) -> None:
        self.model = model
        self.stage = stage
        self.modules: dict[str, nn.Module] = {"autoencoder": model.autoencoder}

    def batch(self, scenes: Sequence[TrainingScene], generator: np.random.Generator) -> Tensor:
        """Return random crops of the scenes' images, (N, 3, crop, crop) in [-1, 1]."""
        return torch.stack([self._crop(item, generator) for item in scenes])

    def _crop(self, item: TrainingScene, generator: np.random.Generator) -> Tensor:
        part = self.PARTS[generator.choice(len(self.PARTS), p=self.CHANCES)]
        if part_hash(item, part) is None:
            part = "infrared"
        low, high = self.stage.scales
        short = round(self.stage.crop * generator.uniform(low, high))
        view = Variant(short, bool(generator.random() < 0.5), 1).apply(read_part(item, part))
        top = int(generator.integers(view.shape[0] - self.stage.crop + 1))
        left = int(generator.integers(view.shape[1] - self.stage.crop + 1))
        return to_tensor(view[top : top + self.stage.crop, left : left + self.stage.crop])

    def loss(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Return the reconstruction loss of (N, 3, H, W)."""
        latents = encode_mode(self.model.autoencoder, batch)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        latents = latents + self.LATENT_NOISE * latents.detach().std() * noise
        decoded = self.model.autoencoder.decode(latents).sample.float()
        across = F.l1_loss(decoded.diff(dim=-1), batch.diff(dim=-1))
        down = F.l1_loss(decoded.diff(dim=-2), batch.diff(dim=-2))
        return F.l1_loss(decoded, batch) + 0.5 * (across + down)

    @torch.no_grad()
    def finish(self, scenes: Sequence[TrainingScene]) -> None:
        """Measure each channel of the infrared latents, so that they get unit variance.

        One factor for all channels (Rombach et al. 2022, Appendix G) is not enough where
        the channels have different means, as those of a small autoencoder do.
        """
        step = max(1, len(scenes) // 64)
        values = []
        for item in scenes[::step]:
            pixels = Variant(self.stage.crop, False, self.model.card.factor).apply(
                read_part(item, "infrared")
            )
            latent = encode_mode(self.model.autoencoder, to_tensor(pixels)[None])
            values.append(latent[0].flatten(1))
        channels = torch.cat(values, dim=1).double()
        self.model.card = self.model.card.model_copy(
            update={
                "latent_mean": tuple(channels.mean(dim=1).tolist()),
                "latent_std": tuple(channels.std(dim=1).tolist()),
            }
        )


@dataclasses.dataclass
class DenoisingBatch:
    """A composed batch of N samples.

    Attributes:
        clean: Scaled latents of the infrared images, (N, c, h, w).
        visible: Latents of the visible images, zero where dropped or absent.
        segmentation: Latents of the maps, zero where dropped or absent.
        prompts: Complete prompts; the empty string where dropped.
        styles: Style numbers, (N,); 0 where hidden or unknown.
    """

    clean: Tensor
    visible: Tensor | None
    segmentation: Tensor | None
    prompts: list[str]
    styles: Tensor


class Denoising:
    """The denoiser's objective: DiffV2IR, Eq. 1, with dropped conditions."""

    def __init__(self, model: Model, stage: Stage, caches: Caches) -> None:
        self.model = model
        self.stage = stage
        self.caches = caches
        self.modules: dict[str, nn.Module] = {
            part: getattr(model, part) for part in ("unet", "text_encoder") if part in stage.trains
        }
        self.schedule = model.schedule

    def batch(
        self, scenes: Sequence[TrainingScene], generator: np.random.Generator
    ) -> DenoisingBatch:
        """Compose a batch: one variant, one window and one set of drops a sample."""
        stage = self.stage
        drops = draw_drops(len(scenes), stage.drop, generator)
        hidden = generator.random(len(scenes)) < stage.drop_style
        rows = [self._latents(item, generator) for item in scenes]
        clean = torch.stack([row["infrared"] for row in rows])
        planes: dict[str, Tensor | None] = {}
        for part in ("visible", "segmentation"):
            kept = [
                row.get(part) if part in stage.conditions and part not in gone else None
                for row, gone in zip(rows, drops, strict=True)
            ]
            planes[part] = self._stack(kept)
        return DenoisingBatch(
            clean=self.model.scale_latents(clean),
            prompts=[
                "" if "text" in gone else self._prompt(item, generator)
                for item, gone in zip(scenes, drops, strict=True)
            ],
            styles=torch.tensor(
                [
                    0 if out else self.model.row_of_style(item.scene.style)
                    for item, out in zip(scenes, hidden, strict=True)
                ]
            ),
            **planes,
        )

    def _latents(self, item: TrainingScene, generator: np.random.Generator) -> dict[str, Tensor]:
        stage, factor = self.stage, self.model.card.factor
        variants = draw_variants(stage.variants, stage.crop, stage.scales, factor, item.scene.name)
        variant = variants[int(generator.integers(len(variants)))]
        found: dict[str, Tensor] = {}
        for part in ("infrared", *(c for c in stage.conditions if c != "text")):
            image_hash = part_hash(item, part)
            if image_hash is not None:
                read = functools.partial(read_part, item, part)
                found[part] = self.caches.latents.get(image_hash, variant, read)
        windows = cut(list(found.values()), stage.crop // factor, generator)
        return dict(zip(found, windows, strict=True))

    def _stack(self, rows: Sequence[Tensor | None]) -> Tensor | None:
        """Stack condition latents, all-zero where there is none; None if there are none."""
        given = [row for row in rows if row is not None]
        if not given:
            return None
        scaled = iter(self.model.scale_condition(torch.stack(given)))
        blank = torch.zeros_like(given[0])
        return torch.stack([blank if row is None else next(scaled) for row in rows])

    def _prompt(self, item: TrainingScene, generator: np.random.Generator) -> str:
        if self.stage.prompt is not None:
            return self.stage.prompt
        if "text" not in self.stage.conditions or not item.captions:
            return self.model.card.prompt(None)
        return self.model.card.prompt(item.captions[int(generator.integers(len(item.captions)))])

    def loss(self, batch: DenoisingBatch, generator: torch.Generator) -> Tensor:
        """Return the mean loss of a batch."""
        number = len(batch.clean)
        noise = torch.randn(batch.clean.shape, generator=generator)
        timesteps = draw_timesteps(
            number, self.schedule.num_timesteps, self.stage.noise_shift, generator
        )
        denoiser = NetworkDenoiser(self.model.unet, None)
        losses = denoising_loss(
            denoiser, self.schedule, batch.clean, noise, timesteps, self.conditions(batch)
        )
        return losses.mean()

    def conditions(self, batch: DenoisingBatch) -> Conditions:
        """Return the conditions of a batch; text is embedded anew while its encoder trains."""
        if "text_encoder" in self.modules:
            ids = self.model.token_ids(batch.prompts).to(self.model.text_encoder.device)
            text = self.model.text_encoder(ids).last_hidden_state
        else:
            text = self.caches.text.get(batch.prompts)
        return Conditions(
            visible=batch.visible,
            segmentation=batch.segmentation,
            text=text,
            style=batch.styles,
        )

    def finish(self, scenes: Sequence[TrainingScene]) -> None:
        """Forget the embeddings that an earlier text encoder made."""
        self.model.forget_prompts()


def draw_timesteps(number: int, total: int, shift: float, generator: torch.Generator) -> Tensor:
    """Draw timesteps in 0..`total` - 1, (N,), int64; see `Stage.noise_shift`."""
    uniform = (torch.randint(0, total, (number,), generator=generator) + 0.5) / total
    shifted = shift * uniform / (1 + (shift - 1) * uniform)
    return (shifted * total).long().clamp(0, total - 1)


OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "reconstruction": Reconstruction,
    "denoising": Denoising,
}
