"""The bench room: how fast things are, beside the published procedure and beside others."""

from __future__ import annotations

from collections.abc import Callable

from v2ir.bench.floor import measure_floor
from v2ir.bench.journal import Journal, Sample, Section
from v2ir.bench.machine import Meter, machine_facts
from v2ir.bench.pix2pix import measure_pix2pix
from v2ir.bench.scaling import measure_scaling
from v2ir.bench.speeds import measure_speeds
from v2ir.bench.stages import measure_stages
from v2ir.bench.timing import Clock
from v2ir.bench.training import measure_training
from v2ir.bench.workbench import FULL_SIZE, BenchSettings, Workbench
from v2ir.records import Progress

Part = Callable[[Workbench, Progress], tuple[Section, ...]]

PARTS: dict[str, Part] = {
    "speeds": measure_speeds,
    "stages": measure_stages,
    "instruct-pix2pix": measure_pix2pix,
    "floor": measure_floor,
    "scaling": measure_scaling,
    "training": measure_training,
}
"""What a bench can measure; each part gives its tables."""

__all__ = [
    "FULL_SIZE",
    "PARTS",
    "BenchSettings",
    "Clock",
    "Journal",
    "Meter",
    "Part",
    "Sample",
    "Section",
    "Workbench",
    "machine_facts",
]
