"""Rows of an earlier report beside the new ones, if the two compare at all."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

from v2ir.errors import DataError, InputError
from v2ir.evaluation import SCORES
from v2ir.evaluation.comparison import Evaluation, Row
from v2ir.evaluation.protocols.choosing import refuse_other
from v2ir.files import read_json


def with_earlier(evaluation: Evaluation, reports: Mapping[str, Path]) -> Evaluation:
    """Return the evaluation with the first method of earlier reports as further methods.

    Args:
        evaluation: The result.
        reports: Folder of an earlier report by the name that its method gets here.

    Raises:
        InputError: If a report was made under another protocol, on other images, or a name
            is taken.
        DataError: If a report cannot be read.
    """
    rows: list[Row] = []
    for name, folder in reports.items():
        if name in evaluation.methods:
            raise InputError(f"the name {name} is taken", do="give the earlier result another")
        summary = read_json(folder / "summary.json")
        if evaluation.protocol is not None:
            refuse_other(evaluation.protocol, evaluation.names_hash, summary)
        rows += _rows(folder / "per_image.csv", summary["methods"][0], name)
    judged, baselines = (
        evaluation.methods[: evaluation.num_judged],
        evaluation.methods[evaluation.num_judged :],
    )
    return dataclasses.replace(
        evaluation,
        methods=(*judged, *reports, *baselines),
        num_judged=evaluation.num_judged + len(reports),
        rows=(*evaluation.rows, *rows),
    )


def _rows(path: Path, method: str, name: str) -> list[Row]:
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            lines = [line for line in csv.DictReader(stream) if line["method"] == method]
        return [
            Row(
                line["name"],
                line["style"],
                name,
                {m: float(line[m] or math.nan) for m in SCORES if m in line},
            )
            for line in lines
        ]
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path} is not a table of an earlier report", got=str(error)) from error
