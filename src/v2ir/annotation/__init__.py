"""Captions, segmentation maps and thermal masks: made once, kept, known when stale."""

from __future__ import annotations

from v2ir.annotation.annotating import AnnotationReport, annotate
from v2ir.annotation.exporting import EXPORTS, ExportReport, export
from v2ir.annotation.findings import check_annotations
from v2ir.annotation.masking import MaskReport, make_masks
from v2ir.annotation.masks import RENDERINGS, merge_masks
from v2ir.annotation.own import ImportReport, import_captions, import_segmentations
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
from v2ir.annotation.structure import SceneDescription, SceneObject, parse_description, render
from v2ir.annotation.thermal import THERMAL_MASKS, OtsuMasker, ThermalMasker, make_masker
from v2ir.annotation.thermal_files import read_thermal_mask
from v2ir.annotation.thermal_own import import_masks
from v2ir.annotators import Captioner, Segmenter

__all__ = [
    "ALIASES",
    "CAPTIONERS",
    "CAPTIONER_FAMILIES",
    "EXPORTS",
    "RENDERINGS",
    "SEGMENTERS",
    "SEGMENTER_FAMILIES",
    "THERMAL_MASKS",
    "AnnotationReport",
    "AnnotationStore",
    "Captioner",
    "ExportReport",
    "ImportReport",
    "MaskReport",
    "OtsuMasker",
    "Provenance",
    "RegionSegmenter",
    "SceneDescription",
    "SceneObject",
    "Segmenter",
    "StatisticsCaptioner",
    "ThermalMasker",
    "annotate",
    "check_annotations",
    "export",
    "import_captions",
    "import_masks",
    "import_segmentations",
    "make_captioner",
    "make_masker",
    "make_masks",
    "make_segmenter",
    "merge_masks",
    "parse_description",
    "read_thermal_mask",
    "render",
]
