"""The hub room: checkpoints of other projects, read and written under their own names."""

from __future__ import annotations

from v2ir.hub.assembly import assemble, load_tokenizer
from v2ir.hub.contents import Contents, Problem, ReadSettings
from v2ir.hub.converting import (
    DTYPES,
    ConvertSettings,
    choose_layout,
    convert,
    inspect_checkpoint,
    write_model,
)
from v2ir.hub.registry import LAYOUTS, Layout

__all__ = [
    "DTYPES",
    "LAYOUTS",
    "Contents",
    "ConvertSettings",
    "Layout",
    "Problem",
    "ReadSettings",
    "assemble",
    "choose_layout",
    "convert",
    "inspect_checkpoint",
    "load_tokenizer",
    "write_model",
]
