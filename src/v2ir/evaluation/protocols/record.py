"""The record of a protocol, its hash, and what it does to an image before measuring."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any, Literal

import numpy as np

from v2ir.images import resize
from v2ir.records import JsonRecord, Split

# Raise a score's number when its values change: results before and after it do not compare.
SCORE_VERSIONS: dict[str, int] = {
    "psnr": 1,
    "ssim": 1,
    "ms-ssim": 1,
    "mae": 1,
    "correlation": 1,
    "sharpness": 1,
    "contrast": 1,
    "hot error": 1,
    "cold error": 1,
    "hot contrast": 1,
    "rank correlation": 1,
    "edge agreement": 1,
    "grey correlation": 1,
    "recolouring": 1,
    "style distance": 1,
    "lpips": 1,
}


@dataclasses.dataclass(frozen=True)
class Protocol(JsonRecord):
    """What must be equal for two results to be compared.

    Attributes:
        name: Name for the command line and the report.
        source: Where the setting is published or defined.
        split: Part of the data set that is measured.
        num_images: How many images that part has; None where it is not stated.
        num_training: How many pairs the training part has; None where it is not stated.
        names_hash: SHA-256 of the sorted names, a line each; None where the list is not
            published and the user's own is taken.
        alignment: Only pairs whose registration is stated as this; None for all.
        resize: (width, height) in pixels to which truth and predictions are brought before
            measuring (bicubic, antialiased); None measures at the truth's own size.
        crop: `centre` cuts to the aspect ratio of `resize` first; `none` never cuts.
        colour: How colour files become one channel.
        samples: Images a scene that a method gives.
        seeds: Seeds that a sampling method uses.
        scores: Version of each score's definition.
    """

    name: str
    source: str
    split: Split | Literal["all"] = "test"
    num_images: int | None = None
    num_training: int | None = None
    names_hash: str | None = None
    alignment: str | None = None
    resize: tuple[int, int] | None = None
    crop: Literal["none", "centre"] = "none"
    colour: str = "luma of ITU-R BT.601"
    samples: int = 1
    seeds: tuple[int, ...] = (0,)
    scores: tuple[tuple[str, int], ...] = tuple(SCORE_VERSIONS.items())

    @property
    def hash(self) -> str:
        """SHA-256 of the record: two results with another hash do not compare."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object; fields that are None are left out."""
        values = super().to_json()
        return {**values, "scores": dict(self.scores)}

    def prepared(self, image: np.ndarray) -> np.ndarray:
        """Crop and resize an image, HWC uint8 or HW float32, as the protocol says."""
        if self.resize is None:
            return image
        if self.crop == "centre":
            image = _centre(image, self.resize[0] / self.resize[1])
        resized = resize(image, *self.resize)
        # Bicubic overshoots at edges; a float image must stay in its range as bytes do.
        return resized if image.dtype == np.uint8 else resized.clip(0.0, 1.0)


def _centre(image: np.ndarray, aspect: float) -> np.ndarray:
    """Cut the largest centred part whose width is `aspect` times its height."""
    height, width = image.shape[:2]
    wide, high = min(width, round(height * aspect)), min(height, round(width / aspect))
    top, left = (height - high) // 2, (width - wide) // 2
    return np.ascontiguousarray(image[top : top + high, left : left + wide])


def hash_of_names(names: frozenset[str]) -> str:
    """Return the SHA-256 of the sorted names, a line each."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()
