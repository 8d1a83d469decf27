"""Folder shapes of data sets: each layout turns a folder into the files of its scenes."""

from __future__ import annotations

from v2ir.data.layouts.flat import infrared, visible
from v2ir.data.layouts.folders import folders
from v2ir.data.layouts.listing import KINDS, Kind, Layout, Listing

LAYOUTS: dict[str, Layout] = {
    "folders": folders,
    "infrared": infrared,
    "visible": visible,
}

__all__ = ["KINDS", "LAYOUTS", "Kind", "Layout", "Listing"]
