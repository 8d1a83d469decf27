"""What the distilling objectives share: the frozen start, and scales that are told."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from v2ir.errors import InputError
from v2ir.model import CONDITION_NAMES, Conditions, Denoiser, Model, NetworkDenoiser
from v2ir.model.card import Nesting
from v2ir.model.folding import add_guidance_embedding
from v2ir.sampling.guidance import ORDERS
from v2ir.training.cache import Caches
from v2ir.training.objectives.denoising import Denoising, DenoisingBatch
from v2ir.training.objectives.objective import Draw
from v2ir.training.scenes import TrainingScene
from v2ir.training.stage import Stage


@dataclasses.dataclass(kw_only=True)
class ToldBatch(DenoisingBatch):
    """A batch whose samples have guidance scales of their own.

    Attributes:
        scales: Scales of text, visible image and map, (N, 3), float32.
    """

    scales: Tensor


def guided_prediction(
    denoiser: Denoiser,
    noisy: Tensor,
    timesteps: Tensor,
    conditions: Conditions,
    scales: Tensor,
    nesting: Nesting,
) -> Tensor:
    """Predict with guidance whose scales differ from image to image.

    Evaluations whose weight is zero for every image are left out; the others run as one
    batch. Source: DiffV2IR, Eq. 2; see `v2ir.sampling.guidance.branches`.

    Args:
        denoiser: The denoiser that is asked.
        noisy: Noisy latents, (N, c, h, w).
        timesteps: Timesteps, (N,).
        conditions: Conditions with the null text's embedding.
        scales: Scales of text, visible image and map, (N, 3).
        nesting: Order in which the conditions join.
    """
    told = dict(zip(CONDITION_NAMES, scales.unbind(dim=1), strict=True))
    along = [told[name] for name in ORDERS[nesting]]
    ones = torch.ones_like(along[0])
    net: dict[frozenset[str], Tensor] = {}
    seen: frozenset[str] = frozenset()
    for name, before, after in zip(
        (None, *ORDERS[nesting]), [ones, *along], [*along, 0 * ones], strict=True
    ):
        if name in conditions.present:
            seen = seen | {name}
        net[seen] = net.get(seen, 0 * ones) + (before - after)
    kept = {names: weight for names, weight in net.items() if float(weight.abs().max()) > 1e-9}
    number = len(kept)
    parts = [conditions.without(*(conditions.present - names)) for names in kept]
    rows = Conditions.concatenate(parts) if number > 1 else parts[0]
    made = denoiser(torch.cat([noisy] * number), timesteps.repeat(number), rows)
    weights = torch.cat(list(kept.values())).view(-1, *[1] * (noisy.dim() - 1))
    return (weights * made).unflatten(0, (number, -1)).sum(dim=0)


class Teacher:
    """The model that a stage starts from, as it was; it does not change.

    Attributes:
        denoiser: Its network, with guidance folded in or not.
        nesting: How its guidance nests the conditions.
    """

    def __init__(self, model: Model) -> None:
        unet = copy.deepcopy(model.unet).eval().requires_grad_(False)
        self.denoiser = NetworkDenoiser(unet, None)
        self.nesting: Nesting = model.card.guidance.nesting

    @torch.no_grad()
    def __call__(
        self, noisy: Tensor, timesteps: Tensor, conditions: Conditions, scales: Tensor
    ) -> Tensor:
        """Return the guided prediction, (N, c, h, w), float32; see `guided_prediction`."""
        if self.denoiser.takes_scales:
            told = dataclasses.replace(conditions, scales=scales)
            return self.denoiser(noisy, timesteps, told).float()
        return guided_prediction(
            self.denoiser, noisy, timesteps, conditions, scales, self.nesting
        ).float()


class Distilling(Denoising):
    """A student that starts as its teacher and is told the guidance scales.

    Scales are drawn for each sample from the stage's ranges. The text encoder rests, for
    both read the same embeddings.

    Attributes:
        teacher: The model that the stage starts from.
    """

    def __init__(self, model: Model, stage: Stage, caches: Caches) -> None:
        _check(model, stage)
        self.teacher = Teacher(model)
        model.unet = add_guidance_embedding(model.unet)
        super().__init__(model, stage, caches)
        if stage.lora_rank:
            # Adapters sit in the attention alone; the embedding has to be trained itself.
            self.modules["guidance"] = model.unet.time_embedding.cond_proj

    def batch(self, scenes: Sequence[TrainingScene], draws: Sequence[Draw]) -> ToldBatch:
        """Compose a batch and draw the scales of its samples."""
        composed = super().batch(scenes, draws)
        fields = {f.name: getattr(composed, f.name) for f in dataclasses.fields(composed)}
        ranges = [getattr(self.stage.guidance_range, name) for name in CONDITION_NAMES]
        scales = [[draw.generator.uniform(*each) for each in ranges] for draw in draws]
        return ToldBatch(**fields, scales=torch.tensor(scales, dtype=torch.float32))

    def conditions(self, batch: DenoisingBatch) -> Conditions:
        """Return the conditions of a batch, with the null text that guidance needs."""
        null_text = self.caches.text.get([""]).to(batch.clean.device)
        return dataclasses.replace(super().conditions(batch), null_text=null_text)

    def student(self, noisy: Tensor, timesteps: Tensor, told: Conditions) -> Tensor:
        """Return the student's prediction, (N, c, h, w), float32."""
        return NetworkDenoiser(self.model.unet, None)(noisy, timesteps, told).float()

    def finish(self, scenes: Sequence[TrainingScene]) -> None:
        """Note that guidance is folded in, and for which scales."""
        super().finish(scenes)
        update = {"guidance_range": self.stage.guidance_range}
        self.model.card = self.model.card.model_copy(update=update)


def _check(model: Model, stage: Stage) -> None:
    """Refuse what the teacher cannot teach."""
    if "text_encoder" in stage.trains:
        raise InputError(
            f"the stage {stage.name} distils the denoiser alone",
            got=f"trains {', '.join(stage.trains)}",
            do='give "trains": ["unet"]',
        )
    known, wanted = model.card.guidance_range, stage.guidance_range
    if known and (outside := known.outside(wanted)):
        raise InputError(
            f"the model {model.card.name} was not taught all scales of the stage {stage.name}",
            got=outside,
            do="give the stage a guidance_range within the model's",
        )
    if outside := wanted.outside(model.card.guidance):
        raise InputError(
            f"the default guidance of {model.card.name} is not among what {stage.name} teaches",
            got=outside,
            do="give the stage a guidance_range that holds it",
        )
