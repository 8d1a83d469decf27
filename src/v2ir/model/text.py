"""The text encoders: those of transformers that a model may have."""

from __future__ import annotations

from typing import Any

from v2ir.errors import UnknownNameError
from v2ir.model.networks import Architecture

TEXT_ENCODERS: dict[str, dict[str, Any]] = {
    "CLIPTextModel": {},
    # Every token is read; the pooled first one would be weights without an effect.
    "BertModel": {"add_pooling_layer": False},
}
"""Text encoders of transformers, with the arguments that building and loading need."""


def text_encoder_class(name: str) -> Any:
    """Return a class of transformers.

    Raises:
        UnknownNameError: If it is not one of `TEXT_ENCODERS`.
    """
    import transformers

    if name not in TEXT_ENCODERS:
        raise UnknownNameError.of("text encoder class", name, TEXT_ENCODERS)
    return getattr(transformers, name)


def build_text_encoder(architecture: Architecture, tokenizer: Any) -> Any:
    """Build the text encoder with random weights for a tokenizer's vocabulary.

    A `BertModel` keeps the vocabulary size of its configuration where that is larger, so
    that its weights have the published shapes.

    Raises:
        UnknownNameError: If its class is not one of `TEXT_ENCODERS`.
    """
    name = architecture.text_encoder_class
    kind, known = text_encoder_class(name), len(tokenizer)
    pieces = {"vocab_size": known, "pad_token_id": tokenizer.pad_token_id}
    if name == "BertModel":
        pieces["vocab_size"] = max(known, architecture.text_encoder["vocab_size"])
    else:
        pieces["bos_token_id"] = tokenizer.cls_token_id
        pieces["eos_token_id"] = tokenizer.sep_token_id
    config = kind.config_class(**{**architecture.text_encoder, **pieces})
    return kind(config, **TEXT_ENCODERS[name]).eval()
