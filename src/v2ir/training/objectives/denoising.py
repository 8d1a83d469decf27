"""The denoiser's objective: DiffV2IR, Eq. 1, with dropped conditions."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn

from v2ir.model import Conditions, Denoiser, Model, NetworkDenoiser, denoising_loss
from v2ir.records import Progress
from v2ir.training.cache import Caches, draw_window
from v2ir.training.drops import draw_drops
from v2ir.training.lora import attach_lora, merge_lora
from v2ir.training.objectives.objective import Draw, part_hash, read_part
from v2ir.training.objectives.thermal import ThermalLoss, ThermalTargets
from v2ir.training.objectives.window import Window
from v2ir.training.scenes import TrainingScene
from v2ir.training.stage import Stage
from v2ir.training.variants import Variant, draw_variants


@dataclasses.dataclass(kw_only=True)
class DenoisingBatch:
    """A composed batch of N samples.

    Attributes:
        clean: Scaled latents of the infrared images, (N, c, h, w).
        visible: Latents of the visible images, zero where dropped or absent.
        segmentation: Latents of the maps, zero where dropped or absent.
        prompts: Complete prompts; the empty string where dropped.
        styles: Style numbers, (N,); 0 where hidden or unknown.
        noise: Standard normal noise, (N, c, h, w).
        timesteps: Timesteps, (N,), int64.
        thermal: What the thermal-mask loss compares, where the stage has one.
    """

    clean: Tensor
    visible: Tensor | None
    segmentation: Tensor | None
    prompts: list[str]
    styles: Tensor
    noise: Tensor
    timesteps: Tensor
    thermal: ThermalTargets | None = None


class _Remembering:
    """A denoiser that keeps what it was given and said last, for further losses."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser

    def __call__(self, noisy: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        self.noisy = noisy
        self.prediction = self.denoiser(noisy, timestep, conditions)
        return self.prediction


class Denoising:
    """The denoiser's objective: DiffV2IR, Eq. 1, with dropped conditions.

    A stage may add the thermal-mask loss.
    """

    def __init__(self, model: Model, stage: Stage, caches: Caches) -> None:
        self.model = model
        self.stage = stage
        self.caches = caches
        self.needs = frozenset({"unet", "text_encoder"} & {"unet", *stage.trains})
        self.modules: dict[str, nn.Module] = {
            part: getattr(model, part) for part in ("unet", "text_encoder") if part in stage.trains
        }
        if stage.lora_rank:
            alpha = stage.lora_alpha or stage.lora_rank
            self.modules["unet"] = attach_lora(model.unet, stage.lora_rank, alpha)
        self.schedule = model.schedule
        self.thermal: ThermalLoss | None = None
        if stage.thermal > 0:
            self.thermal = ThermalLoss(stage, model)
            self.needs |= {"autoencoder"}

    def batch(self, scenes: Sequence[TrainingScene], draws: Sequence[Draw]) -> DenoisingBatch:
        """Compose a batch: one variant, one window and one set of drops a sample."""
        stage = self.stage
        generators = [draw.generator for draw in draws]
        self._windows: list[Window] = []
        drops = [draw_drops(1, stage.drop, generator)[0] for generator in generators]
        hidden = [generator.random() < stage.drop_style for generator in generators]
        rows = [self._latents(*pair) for pair in zip(scenes, generators, strict=True)]
        clean = torch.stack([row["infrared"] for row in rows])
        planes: dict[str, Tensor | None] = {}
        for part in ("visible", "segmentation"):
            kept = [
                row.get(part) if part in stage.conditions and part not in gone else None
                for row, gone in zip(rows, drops, strict=True)
            ]
            planes[part] = self._stack(kept)
        prompts = [
            "" if "text" in gone else self._prompt(item, generator)
            for item, gone, generator in zip(scenes, drops, generators, strict=True)
        ]
        styles = [
            0 if out else self.model.row_of_style(item.scene.style)
            for item, out in zip(scenes, hidden, strict=True)
        ]
        noise = torch.stack([draw.normal(clean.shape[1:]) for draw in draws])
        return DenoisingBatch(
            clean=self.model.scale_latents(clean),
            prompts=prompts,
            styles=torch.tensor(styles),
            noise=noise,
            timesteps=self._timesteps(draws),
            # Last, so that a stage with this loss draws all else like one without.
            thermal=self.thermal.targets(scenes, self._windows, draws) if self.thermal else None,
            **planes,
        )

    def _timesteps(self, draws: Sequence[Draw]) -> Tensor:
        """Draw a timestep for each sample, (N,), int64."""
        total, shift = self.schedule.num_timesteps, self.stage.noise_shift
        return torch.tensor([draw_timestep(total, shift, draw.generator) for draw in draws])

    def prepare(self, scenes: Sequence[TrainingScene], progress: Progress) -> None:
        """Encode all variants of all scenes that are not in the cache yet."""
        unique = list({item.scene.name: item for item in scenes}.values())
        if self.thermal:
            self.thermal.prepare(unique)
        progress(0, len(unique))
        # Reading and resizing go on in a thread while the encoder is at work.
        with ThreadPoolExecutor(max_workers=1) as pool:
            waiting = collections.deque(pool.submit(self._missing, item) for item in unique[:2])
            for done in range(len(unique)):
                for part, image_hash, view, pixels in waiting.popleft().result():
                    self.caches.of(part).get(image_hash, view, lambda p=pixels: p)  # type: ignore[misc]
                if done + 2 < len(unique):
                    waiting.append(pool.submit(self._missing, unique[done + 2]))
                progress(done + 1, len(unique))
        if "text_encoder" not in self.modules:
            self.caches.text.get(sorted({"", *self._all_prompts(unique)}))

        self.caches.flush()

    def unprepared(self, scenes: Sequence[TrainingScene]) -> list[TrainingScene]:
        """Return the scenes that lack a latent or the embedding of a prompt."""
        unique = {item.scene.name: item for item in scenes}.values()
        return [item for item in unique if self._lacks_prompt(item) or self._missing_parts(item)]

    def _lacks_prompt(self, item: TrainingScene) -> bool:
        if "text_encoder" in self.modules:
            return False
        return not all(map(self.caches.text.holds, {"", *self._all_prompts([item])}))

    def _missing(self, item: TrainingScene) -> list[tuple[str, str, Variant, np.ndarray]]:
        """Return part, hash, view and pixels of a scene's images that are not encoded yet."""
        found = []
        for part, entries in self._missing_parts(item).items():
            pixels = read_part(item, part)
            found += [(part, image_hash, view, pixels) for image_hash, view in entries]
        return found

    def _missing_parts(self, item: TrainingScene) -> dict[str, list[tuple[str, Variant]]]:
        """Return hash and view of what is not encoded yet, by part."""
        found = {}
        for part in self._parts(item):
            entries = dict.fromkeys(
                self._entry(item, part, variant)[:2] for variant in self._variants(item)
            )
            missing = [entry for entry in entries if not self.caches.of(part).holds(*entry)]
            if missing:
                found[part] = missing
        return found

    def _all_prompts(self, scenes: Sequence[TrainingScene]) -> Iterator[str]:
        """Yield every prompt that a sample may get."""
        if self.stage.prompt is not None:
            yield self.stage.prompt
            return
        yield self.model.card.prompt(None)
        for item in scenes:
            yield from map(self.model.card.prompt, item.captions)

    def _variants(self, item: TrainingScene) -> list[Variant]:
        stage, factor = self.stage, self.model.card.factor
        return draw_variants(
            stage.variants, stage.crop, stage.scales, factor, item.scene.name, stage.jitter
        )

    def _parts(self, item: TrainingScene) -> list[str]:
        wanted = ("infrared", *(c for c in self.stage.conditions if c != "text"))
        return [part for part in wanted if part_hash(item, part) is not None]

    def _entry(
        self, item: TrainingScene, part: str, variant: Variant
    ) -> tuple[str, Variant, Callable[[], np.ndarray]]:
        """Return hash, view and reader of an image: what the cache asks for."""
        image_hash = part_hash(item, part)
        assert image_hash is not None
        view = variant if part == "visible" else variant.untoned
        return image_hash, view, functools.partial(read_part, item, part)

    def _latents(self, item: TrainingScene, generator: np.random.Generator) -> dict[str, Tensor]:
        variants = self._variants(item)
        variant = variants[int(generator.integers(len(variants)))]
        found = {
            part: self.caches.of(part).get(*self._entry(item, part, variant))
            for part in self._parts(item)
        }
        size = self.stage.crop // self.model.card.factor
        top, left = draw_window(next(iter(found.values())), size, generator)
        self._windows.append(Window(variant, top, left))
        rows, columns = slice(top, top + size), slice(left, left + size)
        return {part: latent[:, rows, columns] for part, latent in found.items()}

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
        if "text" not in self.stage.conditions:
            return ""  # the null condition, as in every other condition that is not given
        if not item.captions:
            return self.model.card.prompt(None)
        return self.model.card.prompt(item.captions[int(generator.integers(len(item.captions)))])

    def loss(self, batch: DenoisingBatch) -> Tensor:
        """Return the mean loss of a batch."""
        denoiser = _Remembering(NetworkDenoiser(self.model.unet, None))
        conditions = self.conditions(batch)
        loss = denoising_loss(
            denoiser, self.schedule, batch.clean, batch.noise, batch.timesteps, conditions
        ).mean()
        return loss + self._thermal_loss(denoiser.noisy, denoiser.prediction.float(), batch)

    def _thermal_loss(
        self, noisy: Tensor, prediction: Tensor, batch: DenoisingBatch
    ) -> Tensor | float:
        """Return the thermal-mask loss of a prediction; 0 where the stage has none."""
        if self.thermal is None or batch.thermal is None:
            return 0.0
        estimate = self.schedule.clean_estimate(noisy, prediction, batch.timesteps)
        return self.thermal(estimate, batch.timesteps, batch.thermal, self.schedule, self._decode)

    def _decode(self, estimate: Tensor) -> Tensor:
        """Decode estimates of clean latents to pictures, (K, 1, H, W)."""
        decoded = self.model.autoencoder.decode(self.model.unscale_latents(estimate)).sample
        return decoded.float().mean(dim=1, keepdim=True)

    def conditions(self, batch: DenoisingBatch) -> Conditions:
        """Return the conditions of a batch; text is embedded anew while its encoder trains."""
        if "text_encoder" in self.modules:
            text = self.model.embed_tokens(self.model.token_ids(batch.prompts))
        else:
            text = self.caches.text.get(batch.prompts).to(batch.clean.device)
        return Conditions(
            visible=batch.visible,
            segmentation=batch.segmentation,
            text=text,
            style=batch.styles,
        )

    def finish(self, scenes: Sequence[TrainingScene]) -> None:
        """Merge adapters; forget the embeddings that an earlier text encoder made."""
        if self.stage.lora_rank:
            self.model.unet = merge_lora(self.model.unet)
        self.model.forget_prompts()


def draw_timestep(total: int, shift: float, generator: np.random.Generator) -> int:
    """Draw a timestep in 0..`total` - 1; see `Stage.noise_shift`."""
    uniform = (int(generator.integers(total)) + 0.5) / total
    shifted = shift * uniform / (1 + (shift - 1) * uniform)
    return min(int(shifted * total), total - 1)
