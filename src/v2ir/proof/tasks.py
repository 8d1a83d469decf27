"""The kinds of questions that a proof knows; which one it is follows from the labels."""

from __future__ import annotations

from typing import Any

from v2ir.proof.classification import CLASSIFICATION
from v2ir.proof.detection import DETECTION
from v2ir.proof.task import Task

TASKS: dict[str, Task[Any, Any]] = {
    "detection": DETECTION,
    "classification": CLASSIFICATION,
}
