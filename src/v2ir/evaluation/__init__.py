"""Compare images with images; this room does not know that a model exists.

The registries stand here: a new metric, measure or baseline is one function, one row, one
test. The work itself is in `v2ir.evaluation.comparison`, the report in
`v2ir.evaluation.report`; networks that give features stand in `features.FEATURES`.
"""

from __future__ import annotations

from v2ir.evaluation import baselines, infrared, metrics, multiscale
from v2ir.evaluation.baselines import Baseline
from v2ir.evaluation.infrared import Measure
from v2ir.evaluation.metrics import Metric, Rule

__all__ = ["BASELINES", "MEASURES", "METRICS", "SCORES", "Baseline", "Measure", "Metric", "Rule"]

METRICS: dict[str, Metric] = {
    "psnr": Metric("higher", "PSNR dB", 2, metrics.peak_signal_to_noise),
    "ssim": Metric("higher", "SSIM", 3, metrics.structural_similarity),
    "ms-ssim": Metric("higher", "MS-SSIM", 3, multiscale.multiscale_similarity),
    "mae": Metric("lower", "MAE", 3, metrics.mean_absolute_error),
    "correlation": Metric("higher", "correlation", 3, metrics.correlation),
    "sharpness": Metric("nearest one", "sharpness ratio", 2, metrics.sharpness_ratio),
    "contrast": Metric("nearest one", "contrast ratio", 2, metrics.contrast_ratio),
}

MEASURES: dict[str, Measure] = {
    "hot error": Measure("lower", "MAE hot", 3, infrared.hot_error),
    "cold error": Measure("lower", "MAE elsewhere", 3, infrared.cold_error),
    "hot contrast": Measure("nearest one", "hot contrast ratio", 2, infrared.hot_contrast),
    "rank correlation": Measure("higher", "rank correlation", 3, infrared.rank_correlation),
    "edge agreement": Measure("nearest truth", "edge agreement", 3, infrared.edge_agreement),
    "grey correlation": Measure("nearest truth", "grey correlation", 3, infrared.grey_correlation),
    "recolouring": Measure("nearest truth", "recolouring", 3, infrared.recolouring),
    "style distance": Measure("nearest truth", "style distance", 1, infrared.style_distance),
}

# LPIPS needs a network, so it stands in no registry of plain functions.
SCORES: dict[str, Rule] = {**METRICS, **MEASURES, "lpips": Rule("lower", "LPIPS", 3)}

BASELINES: dict[str, Baseline] = {
    "grey": Baseline(baselines.grey),
    "inverted grey": Baseline(baselines.inverted_grey),
    "matched grey": Baseline(baselines.matched_grey),
    "inverted matched grey": Baseline(baselines.inverted_matched_grey),
    "constant": Baseline(baselines.constant),
}
