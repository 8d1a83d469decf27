"""SAM and SAM 2 as segmenters: "segment everything", then one map of all masks.

A grid of points asks for three masks each; masks that the network trusts and that do not
depend on the threshold stay; of those with much the same box the best stays.

Source: Kirillov et al., Segment Anything, 2023, appendix B, and its automatic mask
generator (one crop). torchvision is not needed: images are brought to size with Pillow,
and the suppression is our own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from v2ir.annotation.masks import find_rendering, mask_boxes, suppress
from v2ir.annotation.network import NetworkAnnotator, OptionsMixin
from v2ir.annotation.weights import cannot_load, read_config
from v2ir.errors import InputError
from v2ir.images import resize

if TYPE_CHECKING:
    import torch

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_OFFSET = 1.0
_MOST_PIXELS_OF_SIDE = 1024
"""Masks are drawn at no more than the network's own resolution, whatever the image."""


class SamSegmenter(OptionsMixin, NetworkAnnotator):
    """`SamModel` or `Sam2Model` of transformers over a grid of points.

    Args:
        weights: Hub name or folder.
        device: Where the network runs.
        rendering: How masks become a map: a name of `masks.RENDERINGS`.
        points: Points along a side of the grid.
        trust: Least overlap that the network predicts for its own mask; by default 0.88
            for SAM and 0.8 for SAM 2, as their own scripts have it.
        stability: Least intersection over union of the mask at thresholds of +1 and -1.
        overlap: Largest intersection over union of two masks' boxes that both stay.
        points_at_once: Points that the decoder gets together; results do not depend on it.

    Raises:
        UnknownNameError: If the rendering is unknown.
        InputError: If a number is out of range.
    """

    family = "sam"
    algorithm = "1"
    options: dict[str, Callable[[str], Any]] = {  # noqa: RUF012
        "rendering": str,
        "points": int,
        "trust": float,
        "stability": float,
        "overlap": float,
        "points_at_once": int,
    }

    def __init__(
        self,
        weights: str,
        device: str = "cpu",
        *,
        rendering: str = "union",
        points: int = 32,
        trust: float | None = None,
        stability: float = 0.95,
        overlap: float = 0.7,
        points_at_once: int = 64,
    ) -> None:
        super().__init__(weights, device)
        if points < 1 or points_at_once < 1:
            raise InputError("SAM needs at least one point", got=f"{points}, {points_at_once}")
        self.draw = find_rendering(rendering)
        self.rendering = rendering
        self.points = points
        self.given_trust = trust
        self.stability = stability
        self.overlap = overlap
        self.points_at_once = points_at_once

    @property
    def is_second(self) -> bool:
        """Whether the weights are SAM 2's; those of videos hold the ones of images."""
        return str(read_config(self.folder).get("model_type", "")).startswith("sam2")

    @property
    def trust(self) -> float:
        """Least overlap that the network predicts for its own mask."""
        return self.given_trust if self.given_trust is not None else 0.8 if self.is_second else 0.88

    def settings(self) -> str:
        """Return the rendering and the thresholds."""
        limits = f"{self.trust:g} {self.stability:g} {self.overlap:g}"
        return f"{self.rendering} points {self.points} limits {limits}"

    def load(self) -> Any:
        """Load the network.

        Raises:
            ModelError: If the folder is neither SAM's nor SAM 2's.
        """
        from transformers import Sam2Model, SamModel

        kind = read_config(self.folder).get("model_type")
        if kind not in {"sam", "sam2", "sam2_video"}:
            raise cannot_load(self.name, ValueError(f"it is a model of the type {kind}"))
        try:
            network = (Sam2Model if self.is_second else SamModel).from_pretrained(self.folder)
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            raise cannot_load(self.name, error) from error
        return network.eval().to(self.device)

    def segment(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return one map per image, HWC uint8 RGB of any size: HW, or HWC with colours."""
        import torch

        frame = _Frame.of(self)
        with torch.inference_mode():
            pixels = torch.stack([frame.tensor(image) for image in images]).to(self.device)
            features = self.parts.get_image_embeddings(pixels)
            return [
                self._map(image, frame, _of_image(features, index))
                for index, image in enumerate(images)
            ]

    def masks(self, image: np.ndarray) -> list[np.ndarray]:
        """Return the masks of one image, HWC uint8 RGB, each HW bool, the best first.

        Images with a longer side than 1024 pixels get masks of that size.
        """
        import torch

        frame = _Frame.of(self)
        with torch.inference_mode():
            features = self.parts.get_image_embeddings(frame.tensor(image)[None].to(self.device))
            return self._masks(image.shape[:2], frame, features)

    def _map(self, image: np.ndarray, frame: _Frame, features: Any) -> np.ndarray:
        height, width = image.shape[:2]
        masks = self._masks((height, width), frame, features)
        drawn_height, drawn_width = _drawn_size(height, width)
        drawn = self.draw(masks, resize(image, drawn_width, drawn_height, "area"))
        return resize(drawn, width, height, "nearest")

    def _masks(self, size: tuple[int, int], frame: _Frame, features: Any) -> list[np.ndarray]:
        # Packed, because a grid of 32 x 32 points may leave many hundred masks.
        packed, boxes, scores = [], [], []
        shape = _drawn_size(*size)
        for masks, trusted in self._candidates(size, shape, frame, features):
            boxes.append(mask_boxes(list(masks)))
            scores.append(trusted)
            packed += [np.packbits(mask) for mask in masks]
        if not packed:
            return []
        kept = suppress(np.concatenate(boxes), np.concatenate(scores), self.overlap)
        pixels = shape[0] * shape[1]
        return [np.unpackbits(packed[i], count=pixels).view(bool).reshape(shape) for i in kept]

    def _candidates(
        self, size: tuple[int, int], shape: tuple[int, int], frame: _Frame, features: Any
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield masks (N, H, W) bool with their predicted overlap (N,), points by points."""
        import torch

        grid = torch.from_numpy(frame.points(size, self.points)).to(self.device)
        for points in grid.split(self.points_at_once):
            found = self.parts(
                image_embeddings=features,
                input_points=points[None, :, None],
                input_labels=torch.ones((1, len(points), 1), dtype=torch.int64).to(self.device),
                multimask_output=True,
            )
            trusted = found.iou_scores.float().flatten()
            raw = found.pred_masks.float().flatten(0, 2)
            for part in (trusted > self.trust).nonzero().flatten().split(self.points_at_once):
                masks = frame.enlarge(raw[part], size, shape)
                stable = _stability(masks) > self.stability
                if stable.any():
                    yield (masks[stable] > 0).cpu().numpy(), trusted[part][stable].cpu().numpy()


def _of_image(features: Any, index: int) -> Any:
    """Return the features of one image of a batch; SAM 2 has a list of them."""
    if isinstance(features, list | tuple):
        return [feature[index : index + 1] for feature in features]
    return features[index : index + 1]


def _drawn_size(height: int, width: int) -> tuple[int, int]:
    scale = min(1.0, _MOST_PIXELS_OF_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _stability(masks: torch.Tensor) -> torch.Tensor:
    """Return (N,) intersection over union of masks (N, H, W) cut at +1 and at -1."""
    inner = (masks > _OFFSET).flatten(1).sum(dim=1)
    outer = (masks > -_OFFSET).flatten(1).sum(dim=1)
    return inner / outer.clamp_min(1)


class _Frame:
    """How an image lies in the network's square: SAM pads it, SAM 2 stretches it."""

    def __init__(self, side: int, *, stretch: bool, mean: Sequence[float], std: Sequence[float]):
        self.side = side
        self.stretch = stretch
        self.mean = np.array(mean, np.float32)
        self.std = np.array(std, np.float32)

    @classmethod
    def of(cls, segmenter: SamSegmenter) -> _Frame:
        """Read the frame of a network from its folder."""
        config = segmenter.parts.config
        side = config.vision_config if not segmenter.is_second else config.prompt_encoder_config
        pixels = read_config(segmenter.folder, "preprocessor_config.json")
        return cls(
            int(side.image_size),
            stretch=segmenter.is_second,
            mean=pixels.get("image_mean", _MEAN),
            std=pixels.get("image_std", _STD),
        )

    def inner(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return (height, width) that an image of this (height, width) takes in the square."""
        if self.stretch:
            return self.side, self.side
        scale = self.side / max(size)
        return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))

    def tensor(self, image: np.ndarray) -> torch.Tensor:
        """Return CHW float32 of the square for an HWC uint8 image."""
        import torch
        from PIL import Image

        height, width = self.inner(image.shape[:2])
        shown = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        values = (np.asarray(shown, np.float32) / 255.0 - self.mean) / self.std
        square = np.zeros((self.side, self.side, 3), np.float32)
        square[:height, :width] = values
        return torch.from_numpy(square.transpose(2, 0, 1).copy())

    def points(self, size: tuple[int, int], number: int) -> np.ndarray:
        """Return (number**2, 2) x and y of a grid, in pixels of the square, row by row."""
        height, width = self.inner(size)
        steps = (np.arange(number) + 0.5) / number
        rows, columns = np.meshgrid(steps * height, steps * width, indexing="ij")
        return np.stack([columns, rows], axis=-1).reshape(-1, 2).astype(np.float32)

    def enlarge(
        self, raw: torch.Tensor, size: tuple[int, int], shape: tuple[int, int]
    ) -> torch.Tensor:
        """Bring raw masks (N, h, w) of the square to the image's (N, *shape)."""
        from torch.nn.functional import interpolate

        masks = raw[:, None]
        if not self.stretch:
            height, width = self.inner(size)
            masks = interpolate(masks, (self.side, self.side), mode="bilinear")
            masks = masks[..., :height, :width]
        return interpolate(masks, shape, mode="bilinear")[:, 0]
