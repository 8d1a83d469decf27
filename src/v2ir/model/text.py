"""The text encoders: those of transformers and diffusers that a model may have."""

from __future__ import annotations

import importlib
from typing import Any

from v2ir.errors import UnknownNameError
from v2ir.model.networks import Architecture

TEXT_ENCODERS: dict[str, dict[str, Any]] = {
    "CLIPTextModel": {},
    # Every token is read; the pooled first one would be weights without an effect.
    "BertModel": {"add_pooling_layer": False},
    # Latent diffusion's own: normed before each layer, heads of any width. TxT2IR's is one.
    "LDMBertModel": {},
}
"""Text encoders, with the arguments that building and loading need."""

LIBRARIES = {"LDMBertModel": "diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion"}
"""Modules of the text encoders that are not transformers' own."""


WORD_PIECES = frozenset({"BertModel", "LDMBertModel"})
"""Text encoders that read BERT's word pieces, and those of a vocabulary may be fewer."""


def text_encoder_class(name: str) -> Any:
    """Return a class of transformers or diffusers.

    Raises:
        UnknownNameError: If it is not one of `TEXT_ENCODERS`.
    """
    if name not in TEXT_ENCODERS:
        raise UnknownNameError.of("text encoder class", name, TEXT_ENCODERS)
    return getattr(importlib.import_module(LIBRARIES.get(name, "transformers")), name)


def build_text_encoder(architecture: Architecture, tokenizer: Any) -> Any:
    """Build the text encoder with random weights for a tokenizer's vocabulary.

    An encoder of word pieces keeps the vocabulary size of its configuration where that is
    larger, so that its weights have the published shapes.

    Raises:
        UnknownNameError: If its class is not one of `TEXT_ENCODERS`.
    """
    name = architecture.text_encoder_class
    kind, known = text_encoder_class(name), len(tokenizer)
    pieces = {"vocab_size": known, "pad_token_id": tokenizer.pad_token_id}
    if name in WORD_PIECES:
        pieces["vocab_size"] = max(known, architecture.text_encoder["vocab_size"])
    else:
        pieces["bos_token_id"] = tokenizer.cls_token_id
        pieces["eos_token_id"] = tokenizer.sep_token_id
    config = kind.config_class(**{**architecture.text_encoder, **pieces})
    return kind(config, **TEXT_ENCODERS[name]).eval()
