"""Thermal losses: generated heat where heat is.

The one-step estimate of the clean latent is decoded and compared with the true infrared
picture, in one of the ways of `COMPARISONS`. The thermal mask lets hot pixels weigh more than
cold ones: w * mean(|y - decode(z0)| * M). The decomposition compares what a resting network
says of temperature, emissivity and environment.
Source: the released code of TxT2IR (w = 50, M = 5 on hot pixels and 0.5 elsewhere), which
adds its loss at every noise level alike, as PID does. The weight by the signal's share, the
subset of the batch and soft masks are ours: at high noise the estimate is a blur of all that
may be, whose distance from the picture is large, nearly constant and nothing to learn from.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from v2ir.annotation import AnnotationStore, OtsuMasker, read_thermal_mask
from v2ir.errors import DataError
from v2ir.images import image_size, read_infrared, to_tensor
from v2ir.model import Model, NoiseSchedule
from v2ir.training.objectives.decomposition import decomposition_errors, resting_network
from v2ir.training.objectives.objective import Draw, read_part
from v2ir.training.objectives.window import Window
from v2ir.training.scenes import TrainingScene
from v2ir.training.stage import Stage

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ThermalTargets:
    """What the decoded samples of a batch are compared with.

    Attributes:
        places: Places in the batch of the K samples that are decoded, (K,), int64.
        true: Their infrared pictures, (K, 1, H, W) in [-1, 1].
        masks: Their thermal masks, (K, 1, H, W), 0 where cold, 1 where hot; None where the
            loss looks at none.
    """

    places: Tensor
    true: Tensor
    masks: Tensor | None


def thermal_errors(
    made: Tensor, true: Tensor, masks: Tensor, hot: float = 5.0, cold: float = 0.5
) -> Tensor:
    """Return the weighted absolute error of each picture, (K,).

    Args:
        made: Decoded pictures, (K, 1, H, W).
        true: True infrared pictures in [-1, 1], (K, 1, H, W).
        masks: Thermal masks in 0..1, (K, 1, H, W).
        hot: Weight of a pixel where the mask is 1.
        cold: Weight of a pixel where it is 0; between, the weight is between.
    """
    weights = cold + (hot - cold) * masks
    return ((true - made).abs() * weights).mean(dim=(1, 2, 3))


Comparison = Callable[[Tensor, ThermalTargets], Tensor]
"""Gives the error of each decoded picture, (K,), of (K, 1, H, W) in about [-1, 1]."""


def _by_mask(stage: Stage, model: Model) -> Comparison:
    def compare(made: Tensor, targets: ThermalTargets) -> Tensor:
        assert targets.masks is not None
        return thermal_errors(
            made, targets.true, targets.masks, stage.thermal_hot, stage.thermal_cold
        )

    return compare


def _by_decomposition(stage: Stage, model: Model) -> Comparison:
    network = resting_network(model)

    def compare(made: Tensor, targets: ThermalTargets) -> Tensor:
        return decomposition_errors(network, made, targets.true, stage.thermal_rebuilding)

    return compare


COMPARISONS: dict[str, Callable[[Stage, Model], Comparison]] = {
    "mask": _by_mask,
    "decomposition": _by_decomposition,
}
"""Rows for `Stage.thermal_loss`."""


class ThermalLoss:
    """The thermal loss of a stage that denoises.

    Args:
        stage: The stage, with `thermal` above 0.
        model: The model in training; its decoder rests unless the stage trains it.
    """

    def __init__(self, stage: Stage, model: Model) -> None:
        self.stage = stage
        self.factor = model.card.factor
        self.compare = COMPARISONS[stage.thermal_loss](stage, model)
        self.masked = stage.thermal_loss == "mask"
        self.fallback = OtsuMasker()
        if stage.objective == "denoising":
            # No gradients of weights that stay. End to end, the stage says what trains.
            model.autoencoder.requires_grad_(False)

    def prepare(self, scenes: Sequence[TrainingScene]) -> None:
        """Check the masks' sizes and say how many are not there.

        Raises:
            DataError: If a mask has another size than its infrared image.
            ImageReadError: If a mask is no image.
        """
        if not self.masked:
            return
        paths = [(item, _mask_path(item)) for item in scenes]
        for item, path in paths:
            if path is not None:
                _check_size(item, path)
        missing = sum(path is None for _, path in paths)
        if missing:
            logger.warning(
                "%d of %d scenes have no thermal mask; theirs are made by the method %s in "
                "every step; `v2ir annotate --thermal-mask METHOD` makes and keeps them",
                missing,
                len(paths),
                self.fallback.name,
            )

    def targets(
        self, scenes: Sequence[TrainingScene], windows: Sequence[Window], draws: Sequence[Draw]
    ) -> ThermalTargets:
        """Draw the samples that are decoded, and cut their pictures and masks.

        Each sample is drawn for itself, with the last draw of its generator, so that all its
        other draws are those of a stage without this loss.
        """
        share, crop = self.stage.thermal_share, self.stage.crop
        places = [place for place, draw in enumerate(draws) if draw.generator.random() < share]
        true, masks = [], []
        for place in places:
            item, window = scenes[place], windows[place]
            true.append(to_tensor(self._cut(window, read_part(item, "infrared")))[:1])
            if self.masked:
                # Resizing overshoots at edges.
                mask = np.clip(self._cut(window, self._mask(item)), 0.0, 1.0)
                masks.append(torch.from_numpy(mask)[None])
        empty = torch.zeros(0, 1, crop, crop)
        stacked = torch.stack(masks) if masks else empty
        return ThermalTargets(
            places=torch.tensor(places, dtype=torch.long),
            true=torch.stack(true) if true else empty,
            masks=stacked if self.masked else None,
        )

    def _cut(self, window: Window, pixels: np.ndarray) -> np.ndarray:
        return window.cut(pixels, self.stage.crop, self.factor)

    def _mask(self, item: TrainingScene) -> np.ndarray:
        path = _mask_path(item)
        if path is not None:
            return read_thermal_mask(path)
        return self.fallback.mask(read_infrared(item.root / str(item.scene.infrared)))

    def __call__(
        self,
        estimate: Tensor,
        timesteps: Tensor,
        targets: ThermalTargets,
        schedule: NoiseSchedule,
        decode: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Return the weighted loss, whose mean over the subsets is that of the whole batch.

        Args:
            estimate: One-step estimates of the clean latents, (N, c, h, w).
            timesteps: Timesteps, (N,), int64.
            targets: What the K drawn samples are compared with.
            schedule: Tells the signal's share alpha_t^2 of each timestep.
            decode: Turns (K, c, h, w) into pictures (K, 1, H, W).
        """
        stage, places = self.stage, targets.places
        if not len(places):
            return estimate.new_zeros(())
        errors = self.compare(decode(estimate[places]), targets)
        if stage.thermal_form == "corrected":
            signal = schedule.alphas_cumprod.to(errors.device)[timesteps[places]]
            errors = errors * signal.to(errors.dtype)
        return stage.thermal * errors.sum() / (stage.thermal_share * len(estimate))


def _mask_path(item: TrainingScene) -> Path | None:
    return AnnotationStore(item.root).mask_path(item.scene)


def _check_size(item: TrainingScene, path: Path) -> None:
    picture = item.root / str(item.scene.infrared)
    found, wanted = image_size(path), image_size(picture)
    if found != wanted:
        raise DataError(
            f"the thermal mask {path} has another size than its infrared image",
            got=f"{found[0]}x{found[1]} px",
            do=f"give one of {wanted[0]}x{wanted[1]} px, or remove it",
        )
