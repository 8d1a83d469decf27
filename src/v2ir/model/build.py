"""The one place where the parts of a new model meet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from v2ir.model.card import ModelCard
from v2ir.model.conditions import CONDITION_NAMES
from v2ir.model.folder import Model
from v2ir.model.image_encoder import pretrained_image_encoder
from v2ir.model.networks import (
    Architecture,
    build_autoencoder,
    build_scheduler,
    build_tokenizer,
    build_unet,
    num_planes,
)
from v2ir.model.pooling import pools_text
from v2ir.model.text import build_text_encoder
from v2ir.seeding import own_seed


def build_model(
    architecture: Architecture,
    *,
    name: str,
    seed: int = 0,
    styles: Sequence[str] = (),
    words: Sequence[str] = (),
    **facts: Any,
) -> Model:
    """Build a model with random weights.

    Args:
        architecture: Sizes of the parts.
        name: Name of the model.
        seed: Seed of the initial weights.
        styles: Names of the camera styles that the network can be told.
        words: Words that the tokenizer knows as one piece.
        **facts: Further fields of the model card; `conditions` decide how many input
            channels the denoiser has.

    Raises:
        MissingExtraError: If the image encoder's weights are not installed.
    """
    length = architecture.text_encoder["max_position_embeddings"]
    tokenizer = build_tokenizer([*architecture.words, *words], length)
    channels = architecture.unet["out_channels"]
    planes = num_planes(facts.get("conditions", CONDITION_NAMES))
    # An architecture for text alone has one plane; without stated conditions it keeps it.
    most = architecture.unet["in_channels"] - architecture.image_channels
    seen = architecture.image_channels if planes > 1 else 0
    config = {**architecture.unet, "in_channels": min(planes * channels, most) + seen}
    with own_seed(seed):
        unet = build_unet(config, len(styles))
        autoencoder = build_autoencoder(architecture)
        text_encoder = build_text_encoder(architecture, tokenizer)
        if pools_text(unet):
            # Words of the usual 0.02 drown in what the layers add: all tokens of a prompt came
            # to be one vector, in which an object's word was a hundredth.
            nn.init.normal_(text_encoder.get_input_embeddings().weight)
    card = ModelCard(
        name=name,
        channels=channels,
        factor=architecture.factor,
        styles=tuple(styles),
        text_length=length,
        scale_conditions=architecture.autoencoder_class != "AutoencoderKL",
        **facts,
    )
    return Model(
        card=card,
        unet=unet.eval(),
        autoencoder=autoencoder.eval(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=build_scheduler(architecture.scheduler),
        image_encoder=pretrained_image_encoder(seen) if seen else None,
    )
