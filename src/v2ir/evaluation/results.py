"""Everything that one run measured, in one record."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from collections.abc import Mapping

from v2ir.evaluation.cases import Plan
from v2ir.evaluation.comparison import Evaluation
from v2ir.evaluation.intervals import Interval
from v2ir.evaluation.objects import ObjectReport
from v2ir.evaluation.sets import SetReport
from v2ir.evaluation.tables import Table, all_tables

LIBRARIES = ("numpy", "pillow")


@dataclasses.dataclass(frozen=True)
class Results:
    """Everything that one run measured.

    Attributes:
        plan: What was compared.
        evaluation: Numbers by image; None where there is no truth.
        sets: Numbers of the images as sets, if a feature network was given.
        objects: Objects kept, lost and invented, if something told them.
        versions: Version of each network or package that took part, by name.
    """

    plan: Plan
    evaluation: Evaluation | None
    sets: SetReport | None = None
    objects: ObjectReport | None = None
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def tables(self, intervals: Mapping[str, Mapping[str, Interval]] | None = None) -> list[Table]:
        """Return every table that the results fill."""
        return all_tables(self.evaluation, self.sets, self.objects, intervals)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the numbers should know."""
        own = self.evaluation.notes if self.evaluation else ()
        return (*own, *(self.sets.warnings if self.sets else ()))

    @property
    def failures(self) -> tuple[tuple[str, str], ...]:
        """(name, reason) of everything that could not be measured."""
        own = self.evaluation.failures if self.evaluation else self.plan.failures
        return (*own, *(self.objects.failures if self.objects else ()))


def library_versions(results: Results) -> dict[str, str]:
    """Return the versions of what made the numbers."""
    own = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), **own, **results.versions}
