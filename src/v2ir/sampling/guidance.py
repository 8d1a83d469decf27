"""Guidance with three scales: a denoiser that wraps a denoiser.

Every nesting is a chain of growing sets of conditions, 0 < A < A+B < A+B+C, and the guided
prediction is a weighted sum of the predictions on that chain. Predictions whose net weight
is zero are not computed; predictions that see the same conditions are computed once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

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


def branches(
    guidance: Guidance, present: frozenset[ConditionName], *, cancelling: bool = True
) -> list[Branch]:
    """Return the evaluations that guidance needs: (conditions seen, net weight).

    With s_1, s_2, s_3 along the nesting, the weights of the chain are 1 - s_1,
    s_1 - s_2, s_2 - s_3, s_3. At the published scales s_V = s_S the second or third one
    is zero, so three evaluations do the work of four.
    Source: DiffV2IR, Eq. 2, with the order of the released code as the other nesting.

    Args:
        guidance: Scales and nesting.
        present: Conditions that the batch really has; a null one adds nothing, so the
            steps of the chain that differ only in it are one evaluation.
        cancelling: Whether evaluations that add nothing are left out; without, the chain
            is complete, as in the published procedure.

    Returns:
        Branches in the order of the chain, without those of zero weight.
    """
    scales = [getattr(guidance, name) for name in ORDERS[guidance.nesting]]
    chain: list[Branch] = []
    seen: frozenset[ConditionName] = frozenset()
    for name, before, after in zip(
        (None, *ORDERS[guidance.nesting]), [1.0, *scales], [*scales, 0.0], strict=True
    ):
        if name in present:
            seen = seen | {name}
        chain.append((seen, before - after))
    if not cancelling:
        return chain
    net: dict[frozenset[ConditionName], float] = {}
    for names, weight in chain:
        net[names] = net.get(names, 0.0) + weight
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
        cancelling: Whether evaluations that add nothing are left out.
        evaluations: Number of network rows evaluated so far, for reports and tests.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        guidance: Guidance,
        num_timesteps: int = 1000,
        *,
        cancelling: bool = True,
    ) -> None:
        self.denoiser = denoiser
        self.guidance = guidance
        self.num_timesteps = num_timesteps
        self.cancelling = cancelling
        self.evaluations = 0
        self._kept: tuple[Conditions, object, Conditions] | None = None

    def __call__(self, noisy: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        """Predict for (N, c, h, w); see `v2ir.model.Denoiser`."""
        if getattr(self.denoiser, "takes_scales", False):
            self.evaluations += len(noisy)
            return self.denoiser(noisy, timestep, self._told(timestep, conditions, noisy))
        chain = self._branches_at(timestep, conditions.present)
        stacked = self._stack(conditions, tuple(names for names, _ in chain))
        self.evaluations += len(chain) * len(noisy)
        if len(chain) == 1:
            return chain[0][1] * self.denoiser(noisy, timestep, stacked)
        predictions = self.denoiser(torch.cat([noisy] * len(chain)), timestep, stacked)
        weights = [weight for _, weight in chain]
        guided = torch.zeros_like(noisy)
        for weight, prediction in zip(weights, predictions.chunk(len(chain)), strict=True):
            guided = guided + weight * prediction
        return guided

    def _stack(
        self, conditions: Conditions, chain: tuple[frozenset[ConditionName], ...]
    ) -> Conditions:
        """Return the conditions of all branches as one batch."""

        def build() -> Conditions:
            parts = [conditions.without(*(conditions.present - names)) for names in chain]
            return parts[0] if len(parts) == 1 else Conditions.concatenate(parts)

        return self._keep(conditions, chain, build)

    def _told(self, timestep: Tensor, conditions: Conditions, noisy: Tensor) -> Conditions:
        """Return the conditions with the scales; without them where guidance does not act."""
        acts = self._acts_at(timestep)

        def build() -> Conditions:
            names = [getattr(self.guidance, name) for name in CONDITION_NAMES]
            scales = torch.tensor([names] * len(noisy), dtype=torch.float32, device=noisy.device)
            return dataclasses.replace(conditions, scales=scales if acts else None)

        return self._keep(conditions, acts, build)

    def _keep(
        self, conditions: Conditions, key: object, build: Callable[[], Conditions]
    ) -> Conditions:
        """Return what was built for these conditions before: the same object at every step.

        What stands below, and keeps parts of its work, knows by that that nothing changed.
        """
        if self._kept is None or self._kept[0] is not conditions or self._kept[1] != key:
            self._kept = (conditions, key, build())
        return self._kept[2]

    def _acts_at(self, timestep: Tensor) -> bool:
        low, high = self.guidance.interval
        fraction = float(timestep.max()) / max(self.num_timesteps - 1, 1)
        return low <= fraction <= high

    def _branches_at(self, timestep: Tensor, present: frozenset[ConditionName]) -> list[Branch]:
        if self._acts_at(timestep):
            return branches(self.guidance, present, cancelling=self.cancelling)
        return [(present, 1.0)]
