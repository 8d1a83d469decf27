"""The autoencoder's objective."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v2ir.images import to_tensor
from v2ir.model import Model
from v2ir.model.networks import encode_mode, match_channels
from v2ir.records import Progress
from v2ir.training.cache import Caches
from v2ir.training.objectives.objective import Draw, part_hash, random_crop, read_part
from v2ir.training.objectives.pixels import edge_l1, small_hot_error
from v2ir.training.scenes import TrainingScene
from v2ir.training.stage import Stage
from v2ir.training.variants import Variant


class Reconstruction:
    """The autoencoder's objective: the image back, with its edges.

    The loss is the mean absolute error of the values and of their differences between
    neighbours. Relative noise on the latent makes the decoder forgive the small errors
    of a denoised latent.
    """

    PARTS: tuple[str, ...] = ("infrared", "visible", "segmentation")
    CHANCES: tuple[float, ...] = (0.6, 0.3, 0.1)
    LATENT_NOISE = 0.05

    needs = frozenset({"autoencoder"})

    def __init__(self, model: Model, stage: Stage, caches: Caches | None = None) -> None:
        self.model = model
        self.stage = stage
        self.modules: dict[str, nn.Module] = {"autoencoder": model.autoencoder}

    def batch(
        self, scenes: Sequence[TrainingScene], draws: Sequence[Draw]
    ) -> tuple[Tensor, Tensor]:
        """Return random crops, (N, 3, crop, crop) in [-1, 1], and noise for their latents."""
        side = self.stage.crop // self.model.card.factor
        crops = [self._crop(item, draw) for item, draw in zip(scenes, draws, strict=True)]
        noise = [draw.normal((self.model.card.channels, side, side)) for draw in draws]
        return torch.stack(crops), torch.stack(noise)

    def _crop(self, item: TrainingScene, draw: Draw) -> Tensor:
        part = self.PARTS[draw.generator.choice(len(self.PARTS), p=self.CHANCES)]
        if part_hash(item, part) is None:
            part = "infrared"
        return random_crop(item, part, self.stage, draw)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the reconstruction loss of a batch."""
        images, noise = batch
        latents = encode_mode(self.model.autoencoder, images)
        spread = latents.detach().std(dim=(1, 2, 3), keepdim=True)
        latents = latents + self.LATENT_NOISE * spread * noise.to(latents)
        decoded = self.model.autoencoder.decode(latents).sample.float()
        images = match_channels(self.model.autoencoder, images)
        loss = F.l1_loss(decoded, images) + 0.5 * edge_l1(decoded, images)
        return loss + self.small_hot_loss(decoded, images)

    def small_hot_loss(self, made: Tensor, true: Tensor) -> Tensor | float:
        """Return the weighted error of small hot targets; 0 where the stage has no weight."""
        if not self.stage.hot_small:
            return 0.0
        made, true = (pictures.mean(dim=1, keepdim=True) for pictures in (made, true))
        return self.stage.hot_small * small_hot_error(made, true)

    def prepare(self, scenes: Sequence[TrainingScene], progress: Progress) -> None:
        """Do nothing: crops are cut anew in every step."""

    def unprepared(self, scenes: Sequence[TrainingScene]) -> list[TrainingScene]:
        """Return no scene: nothing is computed ahead."""
        return []

    @torch.no_grad()
    def finish(self, scenes: Sequence[TrainingScene]) -> None:
        """Measure each channel of the infrared latents, so that they get unit variance.

        One factor for all channels (Rombach et al. 2022, Appendix G) is not enough where
        the channels have different means, as those of a small autoencoder do. An image
        encoder gets its projection here, from visible images.
        """
        step = max(1, len(scenes) // 64)
        values = []
        for item in scenes[::step]:
            pixels = Variant(self.stage.crop, False, self.model.card.factor).apply(
                read_part(item, "infrared")
            )
            latent = encode_mode(self.model.autoencoder, to_tensor(pixels)[None])
            values.append(latent[0].flatten(1))
        if self.model.image_encoder is not None:
            self.model.image_encoder.fit_projection(self._visible_views(scenes))
        channels = torch.cat(values, dim=1).double()
        self.model.card = self.model.card.model_copy(
            update={
                "latent_mean": tuple(channels.mean(dim=1).tolist()),
                "latent_std": tuple(channels.std(dim=1).tolist()),
            }
        )

    def _visible_views(self, scenes: Sequence[TrainingScene]) -> Iterator[Tensor]:
        """Yield visible images of the training crop's scale, (1, 3, H, W) in [-1, 1]."""
        with_visible = [item for item in scenes if item.scene.visible]
        for item in with_visible[:: max(1, len(with_visible) // 128)]:
            view = Variant(2 * self.stage.crop, False, self.model.card.factor)
            yield to_tensor(view.apply(read_part(item, "visible")))[None]
