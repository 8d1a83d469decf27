"""Captions, segmentation maps and thermal masks: made once, kept, known when stale."""

from __future__ import annotations

from v2ir.annotation.annotating import AnnotationReport, annotate
from v2ir.annotation.provenance import Provenance
from v2ir.annotation.regions import RegionSegmenter
from v2ir.annotation.registry import (
    ALIASES,
    CAPTIONER_FAMILIES,
    CAPTIONERS,
    SEGMENTER_FAMILIES,
    SEGMENTERS,
    make_captioner,
    make_segmenter,
)
from v2ir.annotation.statistics import StatisticsCaptioner
from v2ir.annotation.store import AnnotationStore
from v2ir.annotators import Captioner, Segmenter

__all__ = [
    "ALIASES",
    "CAPTIONERS",
    "CAPTIONER_FAMILIES",
    "SEGMENTERS",
    "SEGMENTER_FAMILIES",
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
