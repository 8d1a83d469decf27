"""What an autoencoder alone leaves of an infrared image: the most that a model can reach."""

from __future__ import annotations

import numpy as np
import torch

from v2ir.images import from_tensor, to_tensor
from v2ir.model import Model
from v2ir.sampling.geometry import apply, fit, undo
from v2ir.sampling.translator import windows_for


@torch.inference_mode()
def reconstruct(model: Model, infrared: np.ndarray) -> np.ndarray:
    """Encode an infrared image and decode it again, at its own size.

    Args:
        model: The model whose autoencoder is looked at.
        infrared: HW float32 in [0, 1] of any size; sides are padded by mirroring.

    Returns:
        The reconstruction, HW float32 in [0, 1], of the same size.
    """
    card = model.card
    windows = windows_for(card.resolution, card.factor, card.multiple)
    height, width = infrared.shape
    geometry = fit(width, height, "native", card.multiple)
    pixels = to_tensor(apply(infrared, geometry))[None]
    latents = windows.encode(model.encode_target, pixels, card.factor)
    pictures = windows.decode(model.decode, latents, card.factor)
    return undo(from_tensor(pictures)[0], geometry).clip(0, 1)
