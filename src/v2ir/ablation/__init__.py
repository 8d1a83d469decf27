"""The ablation room: rows that differ in one thing, trained and measured alike."""

from v2ir.ablation.ablate import AblationReport, ablate, describe
from v2ir.ablation.settings import AblationSettings
from v2ir.ablation.studies import STUDIES, Row, Sampling, Study, study_of, table3, table4

__all__ = [
    "STUDIES",
    "AblationReport",
    "AblationSettings",
    "Row",
    "Sampling",
    "Study",
    "ablate",
    "describe",
    "study_of",
    "table3",
    "table4",
]
