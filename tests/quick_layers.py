"""What the tests of packed layers and of those in integers share."""

from __future__ import annotations

import numpy as np
import torch

from v2ir.bench.pictures import draw_street
from v2ir.model import architecture
from v2ir.model.networks import build_unet
from v2ir.model.pooling import pooled_text


def translated(translator, number=3):
    """Return a small street as a translator makes it, HW."""
    caption, scene = "a street at night", np.full((64, 96), 255, np.uint8)
    picture = draw_street(number, 96, 64)[0]
    return translator.translate_pixels(picture, caption=caption, segmentation=scene)


def small_network(name):
    """Return a network of an architecture with three styles, and what it is given."""
    torch.manual_seed(0)
    network = build_unet(architecture(name).unet, num_styles=3).eval()
    config = network.config
    noisy = torch.randn(2, config.in_channels, 16, 24)
    text = torch.randn(2, 5, config.cross_attention_dim)
    given = (noisy, torch.tensor(500), text, torch.tensor([0, 2]))
    return network, (*given, None, None, None, pooled_text(network, text))
