"""Captions, segmentation maps and thermal masks: made once, kept, known when stale."""

from __future__ import annotations

from v2ir.annotation.annotating import AnnotationReport, annotate
from v2ir.annotation.interface import Captioner, Segmenter
from v2ir.annotation.provenance import Provenance
from v2ir.annotation.regions import RegionSegmenter
from v2ir.annotation.registry import CAPTIONERS, SEGMENTERS, make_captioner, make_segmenter
from v2ir.annotation.statistics import StatisticsCaptioner
from v2ir.annotation.store import AnnotationStore

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
