"""Compare images with images; this room does not know that a model exists.

The registries stand here: a new metric or baseline is one function, one row, one test.
The work itself is in `v2ir.evaluation.comparison`, the report in `v2ir.evaluation.report`.
"""

from __future__ import annotations

from v2ir.evaluation import baselines, metrics
from v2ir.evaluation.baselines import Baseline
from v2ir.evaluation.metrics import Metric

__all__ = ["BASELINES", "METRICS", "Baseline", "Metric"]

METRICS: dict[str, Metric] = {
    "psnr": Metric(metrics.peak_signal_to_noise, "higher", "PSNR dB", 2),
    "ssim": Metric(metrics.structural_similarity, "higher", "SSIM", 3),
    "mae": Metric(metrics.mean_absolute_error, "lower", "MAE", 3),
    "correlation": Metric(metrics.correlation, "higher", "correlation", 3),
    "sharpness": Metric(metrics.sharpness_ratio, "nearest one", "sharpness ratio", 2),
    "contrast": Metric(metrics.contrast_ratio, "nearest one", "contrast ratio", 2),
}

BASELINES: dict[str, Baseline] = {
    "grey": baselines.grey,
    "inverted grey": baselines.inverted_grey,
    "matched grey": baselines.matched_grey,
    "inverted matched grey": baselines.inverted_matched_grey,
    "constant": baselines.constant,
}
