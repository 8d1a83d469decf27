"""Scenes on disk: finding, splitting, checking and augmenting them."""

from __future__ import annotations

from v2ir.data.augment import random_resized_crop, square_crop
from v2ir.data.checking import CHECKS, check
from v2ir.data.indexing import STYLE_RULES, IndexReport, index, kind_of
from v2ir.data.layouts import LAYOUTS
from v2ir.data.scenes import load_scenes
from v2ir.data.splits import GROUPERS, SplitRule

__all__ = [
    "CHECKS",
    "GROUPERS",
    "LAYOUTS",
    "STYLE_RULES",
    "IndexReport",
    "SplitRule",
    "check",
    "index",
    "kind_of",
    "load_scenes",
    "random_resized_crop",
    "square_crop",
]
