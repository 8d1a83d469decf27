"""Captions, segmentation maps and thermal masks: made once, kept, known when stale.

A new captioner or segmenter is one file, one row below and one test. Rows hold classes
whose construction is cheap; heavy packages and weights are loaded on first use.
"""

from __future__ import annotations

from collections.abc import Callable

from v2ir.annotation.annotating import AnnotationReport, annotate
from v2ir.annotation.interface import Captioner, Segmenter
from v2ir.annotation.provenance import Provenance
from v2ir.annotation.regions import RegionSegmenter
from v2ir.annotation.statistics import StatisticsCaptioner
from v2ir.annotation.store import AnnotationStore
from v2ir.errors import UnknownNameError

__all__ = [
    "CAPTIONERS",
    "SEGMENTERS",
    "AnnotationReport",
    "AnnotationStore",
    "Captioner",
    "Provenance",
    "RegionSegmenter",
    "Segmenter",
    "StatisticsCaptioner",
    "annotate",
    "make_captioner",
    "make_segmenter",
]

CAPTIONERS: dict[str, Callable[[], Captioner]] = {
    "statistics": StatisticsCaptioner,
}

SEGMENTERS: dict[str, Callable[[], Segmenter]] = {
    "regions": RegionSegmenter,
}


def make_captioner(name: str) -> Captioner:
    """Return the captioner called `name`.

    Raises:
        UnknownNameError: If no captioner has this name.
    """
    if name not in CAPTIONERS:
        raise UnknownNameError.of("captioner", name, CAPTIONERS)
    return CAPTIONERS[name]()


def make_segmenter(name: str) -> Segmenter:
    """Return the segmenter called `name`.

    Raises:
        UnknownNameError: If no segmenter has this name.
    """
    if name not in SEGMENTERS:
        raise UnknownNameError.of("segmenter", name, SEGMENTERS)
    return SEGMENTERS[name]()
