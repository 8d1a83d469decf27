"""A small encoder that makes the latents of the autoencoder's own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v2ir.errors import ModelError
from v2ir.images import to_tensor
from v2ir.model import Model
from v2ir.model.networks import encode_mode
from v2ir.model.small_encoder import SmallEncoder
from v2ir.records import Progress
from v2ir.training.cache import Caches
from v2ir.training.objectives.objective import Draw, part_hash, random_crop, read_part
from v2ir.training.objectives.small_parts import small_part
from v2ir.training.scenes import TrainingScene
from v2ir.training.stage import Stage
from v2ir.training.variants import Variant

CHANCES = {"visible": 0.7, "segmentation": 0.3}
"""How often a scene teaches by each of its images: photographs are the harder ones."""
MEASURED_SCENES = 64
"""At most so many scenes tell a process the moments of the latents."""
SMALLEST_DEVIATION = 1e-6


class EncoderDistillation:
    """L1 and mean square to the autoencoder's own latents of visible images and maps.

    These are the images that a translation encodes; what is denoised, the infrared image, is
    encoded in training alone and stays the autoencoder's. Every channel of the latents counts
    alike: before the first step its mean and deviation are measured, and the loss is in units
    of the latter.
    Source: the way of TAESD (Bohan 2023), a small encoder of another's latents.

    Raises:
        ModelError: If the model is told no image, or a small encoder of the stage's sizes
            makes latents of another size than the model's.
    """

    needs = frozenset({"autoencoder"})

    def __init__(self, model: Model, stage: Stage, caches: Caches | None = None) -> None:
        self.model = model
        self.stage = stage
        told = set(model.card.conditions) & set(stage.conditions)
        self.parts = [part for part in CHANCES if part in told]
        if not self.parts:
            raise ModelError(
                f"there is nothing to encode for the stage {stage.name}",
                got=f"a model told {', '.join(model.card.conditions) or 'nothing'}, "
                f"a stage told {', '.join(stage.conditions) or 'nothing'}",
                do="give a model and a stage that are told visible images or maps",
            )
        self.encoder = small_part(
            SmallEncoder, model.encoder, model, stage, stage.encoder_widths, stage.encoder_blocks
        )
        self.modules: dict[str, nn.Module] = {"encoder": self.encoder}
        model.autoencoder.requires_grad_(False)

    def batch(self, scenes: Sequence[TrainingScene], draws: Sequence[Draw]) -> Tensor:
        """Return random crops, (N, 3, crop, crop) in [-1, 1]."""
        return torch.stack(
            [self._crop(item, draw) for item, draw in zip(scenes, draws, strict=True)]
        )

    def _crop(self, item: TrainingScene, draw: Draw) -> Tensor:
        parts = self._parts_of(item)
        chances = [CHANCES.get(part, 1.0) for part in parts]
        part = parts[draw.generator.choice(len(parts), p=[c / sum(chances) for c in chances])]
        return random_crop(item, part, self.stage, draw)

    def _parts_of(self, item: TrainingScene) -> list[str]:
        """Return the images of a scene to learn from; a scene without any gives its infrared."""
        return [part for part in self.parts if part_hash(item, part)] or ["infrared"]

    def loss(self, batch: Tensor) -> Tensor:
        """Return the loss of a batch of crops, (N, 3, crop, crop)."""
        with torch.no_grad():
            wanted = self.encoder.standardise(encode_mode(self.model.autoencoder, batch).float())
        made = self.encoder.standardise(self.encoder(batch).float())
        return F.l1_loss(made, wanted) + F.mse_loss(made, wanted)

    @torch.no_grad()
    def prepare(self, scenes: Sequence[TrainingScene], progress: Progress) -> None:
        """Measure the mean and the deviation of each channel of the latents.

        An encoder that the model had already keeps those that its weights were trained for.
        Of several processes each looks at its own scenes, and all take the moments over them all.
        """
        if self.encoder is self.model.encoder:
            return
        moments = torch.zeros(3, self.model.card.channels, dtype=torch.float64)
        for latents in self._latents(scenes, progress):
            values = latents.transpose(0, 1).flatten(1).cpu().double()
            one = torch.full((len(values),), values.shape[1], dtype=torch.float64)
            moments += torch.stack([one, values.sum(dim=1), values.square().sum(dim=1)])
        count, total, squares = _summed(moments, self.model.device)
        mean = total / count
        deviation = (squares / count - mean.square()).clamp_min(SMALLEST_DEVIATION**2).sqrt()
        self.encoder.set_units(mean, deviation)

    def _latents(self, scenes: Sequence[TrainingScene], progress: Progress) -> Iterator[Tensor]:
        """Yield the autoencoder's latents (1, c, h, w) of some scenes' images."""
        chosen = scenes[:: max(1, math.ceil(len(scenes) / MEASURED_SCENES))]
        view = Variant(self.stage.crop, False, self.model.card.factor)
        for done, item in enumerate(chosen, 1):
            for part in self._parts_of(item):
                pixels = to_tensor(view.apply(read_part(item, part)))[None]
                yield encode_mode(self.model.autoencoder, pixels.to(self.model.device))
            progress(done, len(chosen))

    def unprepared(self, scenes: Sequence[TrainingScene]) -> list[TrainingScene]:
        """Return no scene: nothing is kept for the next run."""
        return []

    def finish(self, scenes: Sequence[TrainingScene]) -> None:
        """Put the small encoder into the model."""
        self.model.encoder = self.encoder.eval().requires_grad_(False)


def _summed(values: Tensor, device: torch.device) -> Tensor:
    """Return the sum of values over the processes that train together."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return values
    values = values.to(device)
    distributed.all_reduce(values)
    return values.cpu()
