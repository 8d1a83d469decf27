"""Guidance with three scales: a denoiser that wraps a denoiser.

Every nesting is a chain of growing sets of conditions, 0 < A < A+B < A+B+C, and the guided
prediction is a weighted sum of the predictions on that chain. Predictions whose net weight
is zero are not computed; predictions that see the same conditions are computed once.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from v2ir.errors import InputError
from v2ir.model.card import Guidance, ModelCard, Nesting
from v2ir.model.conditions import CONDITION_NAMES, ConditionName, Conditions
from v2ir.model.denoiser import Denoiser

ORDERS: dict[Nesting, tuple[ConditionName, ...]] = {
    "paper": ("visible", "segmentation", "text"),
    "released": ("segmentation", "visible", "text"),
}

Branch = tuple[frozenset[ConditionName], float]


def branches(guidance: Guidance, present: frozenset[ConditionName]) -> list[Branch]:
    """Return the evaluations that guidance needs: (conditions seen, net weight).

    With s_1, s_2, s_3 along the nesting, the weights of the chain are 1 - s_1,
    s_1 - s_2, s_2 - s_3, s_3. At the published scales s_V = s_S the second or third one
    is zero, so three evaluations do the work of four.
    Source: DiffV2IR, Eq. 2, with the order of the released code as the other nesting.

    Args:
        guidance: Scales and nesting.
        present: Conditions that the batch really has; a null one adds nothing, so the
            steps of the chain that differ only in it are one evaluation.

    Returns:
        Branches in the order of the chain, without those of zero weight.
    """
    scales = [getattr(guidance, name) for name in ORDERS[guidance.nesting]]
    net: dict[frozenset[ConditionName], float] = {}
    seen: frozenset[ConditionName] = frozenset()
    for name, before, after in zip(
        (None, *ORDERS[guidance.nesting]), [1.0, *scales], [*scales, 0.0], strict=True
    ):
        if name in present:
            seen = seen | {name}
        net[seen] = net.get(seen, 0.0) + (before - after)
    kept = [(names, weight) for names, weight in net.items() if abs(weight) > 1e-9]
    return kept or [(present, 1.0)]


def check_guidance(card: ModelCard, guidance: Guidance) -> None:
    """Refuse guidance that a network with folded guidance was not taught.

    Raises:
        InputError: If a scale or the nesting is another than the network was taught.
    """
    if card.guidance_range is None:
        return
    known = f"the model {card.name} has guidance folded in"
    if outside := card.guidance_range.outside(guidance):
        raise InputError(
            f"{known} and does not know these scales",
            got=outside,
            do="give scales within the range, or the model that it was distilled from",
        )
    # At equal scales both nestings are the same.
    tied = guidance.visible == guidance.segmentation
    if guidance.nesting != card.guidance.nesting and not tied:
        raise InputError(
            f"{known} with the nesting {card.guidance.nesting}",
            got=guidance.nesting,
            do="give equal scales of the visible image and the map, or that nesting",
        )


class GuidedDenoiser:
    """A denoiser that combines the predictions of another one under several conditions.

    All evaluations of a step run as one batch: N images and B branches are N x B rows. A
    network that guidance is folded into is told the scales and evaluated once.

    Attributes:
        denoiser: The denoiser that is asked.
        guidance: Scales, nesting and interval.
        num_timesteps: Number of timesteps that the interval's fractions refer to.
        evaluations: Number of network rows evaluated so far, for reports and tests.
    """

    def __init__(self, denoiser: Denoiser, guidance: Guidance, num_timesteps: int = 1000) -> None:
        self.denoiser = denoiser
        self.guidance = guidance
        self.num_timesteps = num_timesteps
        self.evaluations = 0

    def __call__(self, noisy: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        """Predict for (N, c, h, w); see `v2ir.model.Denoiser`."""
        if getattr(self.denoiser, "takes_scales", False):
            self.evaluations += len(noisy)
            scales = self._scales_at(timestep, noisy)
            return self.denoiser(noisy, timestep, dataclasses.replace(conditions, scales=scales))
        chain = self._branches_at(timestep, conditions.present)
        parts = [conditions.without(*(conditions.present - names)) for names, _ in chain]
        self.evaluations += len(chain) * len(noisy)
        if len(chain) == 1:
            return chain[0][1] * self.denoiser(noisy, timestep, parts[0])
        stacked = torch.cat([noisy] * len(chain))
        predictions = self.denoiser(stacked, timestep, Conditions.concatenate(parts))
        weights = [weight for _, weight in chain]
        guided = torch.zeros_like(noisy)
        for weight, prediction in zip(weights, predictions.chunk(len(chain)), strict=True):
            guided = guided + weight * prediction
        return guided

    def _acts_at(self, timestep: Tensor) -> bool:
        low, high = self.guidance.interval
        fraction = float(timestep.max()) / max(self.num_timesteps - 1, 1)
        return low <= fraction <= high

    def _branches_at(self, timestep: Tensor, present: frozenset[ConditionName]) -> list[Branch]:
        if self._acts_at(timestep):
            return branches(self.guidance, present)
        return [(present, 1.0)]

    def _scales_at(self, timestep: Tensor, noisy: Tensor) -> Tensor | None:
        """Return the scales for each image, (N, 3); None where guidance does not act."""
        if not self._acts_at(timestep):
            return None
        scales = [getattr(self.guidance, name) for name in CONDITION_NAMES]
        return torch.tensor([scales] * len(noisy), dtype=torch.float32, device=noisy.device)
