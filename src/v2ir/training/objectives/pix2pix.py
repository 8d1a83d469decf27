"""Pix2Pix: regression with an opponent that sees the visible picture too."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from v2ir.model import Model
from v2ir.training.cache import Caches
from v2ir.training.objectives.adversary import make_judge
from v2ir.training.objectives.denoising import DenoisingBatch
from v2ir.training.objectives.regression import Regression
from v2ir.training.stage import Stage


def deceiving_loss(made: Tensor) -> Tensor:
    """Return the generator's loss -log D(made) for the verdicts, as logits."""
    return F.softplus(-made).mean()


def judging_loss(true: Tensor, made: Tensor) -> Tensor:
    """Return half of -log D(true) - log(1 - D(made)) for the verdicts, as logits.

    Source: Isola et al. 2017, Sec. 3.3: halved, which slows the discriminator down.
    """
    return 0.5 * (F.softplus(-true).mean() + F.softplus(made).mean())


class Pix2Pix(Regression):
    """The absolute error, and `adversarial` times the verdict of a patch discriminator.

    Source: Isola et al. 2017, Eq. 4: GAN + 100 L1, which is `adversarial` 0.01 here; the
    whole is divided by 100, to which the optimiser is blind. What differs is said in
    docs/baselines.md.
    """

    def __init__(self, model: Model, stage: Stage, caches: Caches) -> None:
        super().__init__(model, stage, caches)
        self.discriminator = make_judge(model.device, 3, len(model.card.styles))
        self.modules["discriminator"] = self.discriminator

    def loss(self, batch: DenoisingBatch) -> Tensor:
        """Return the losses of both players; each one's reaches its own weights alone."""
        made, true, judge = self.made(batch), self.true(batch), self.discriminator
        beside = torch.zeros_like(true).expand(-1, 3, -1, -1)
        if batch.visible is not None:
            beside = self.unfold(batch.visible)
        for parameter in judge.parameters():
            parameter.requires_grad_(False)
        fooled = deceiving_loss(judge(torch.cat([made, beside], dim=1), batch.styles)[-1])
        for parameter in judge.parameters():
            parameter.requires_grad_(True)
        both = torch.cat([torch.cat([true, made.detach()]), torch.cat([beside, beside])], dim=1)
        verdicts = judge(both, batch.styles.repeat(2))[-1]
        own = F.l1_loss(made, true) + self.stage.adversarial * fooled
        return own + judging_loss(*verdicts.chunk(2))
