"""v2ir: visible and text to infrared image translation.

The names below are the façade. Each is imported from its room on first use, so that
`import v2ir` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from v2ir.annotation import make_captioner, make_segmenter
    from v2ir.images import read_visible, write_infrared
    from v2ir.model import load_model
    from v2ir.sampling import TranslateSettings, Translator

__version__ = "0.1.0"

__all__ = [
    "TranslateSettings",
    "Translator",
    "__version__",
    "load_model",
    "make_captioner",
    "make_segmenter",
    "read_visible",
    "write_infrared",
]

_HOMES = {
    "TranslateSettings": "v2ir.sampling",
    "Translator": "v2ir.sampling",
    "load_model": "v2ir.model",
    "make_captioner": "v2ir.annotation",
    "make_segmenter": "v2ir.annotation",
    "read_visible": "v2ir.images",
    "write_infrared": "v2ir.images",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
