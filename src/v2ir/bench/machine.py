"""What the machine is, how busy it is, and how much memory a piece of work took."""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from v2ir.bench.journal import Sample
from v2ir.bench.timing import Clock

_PROCESS = Path("/proc/self")


def num_cores() -> int:
    """Return the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine_facts(device: str) -> dict[str, Any]:
    """Return what times depend on: processor, cores, threads, torch, accelerator."""
    facts: dict[str, Any] = {
        "processor": processor_name(),
        "cores": num_cores(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "vector": torch.backends.cpu.get_cpu_capability(),
        "device": device,
    }
    if device.startswith("cuda"):
        facts["accelerator"] = torch.cuda.get_device_name(device)
    return facts


def processor_name() -> str:
    """Return the processor's own name, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def load_average() -> float | None:
    """Return the load average of the last minute, or None where there is none."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def reset_peak(device: str = "cpu") -> bool:
    """Let the peak memory start anew from what is in use; whether the system can."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        # Linux: 5 resets the high-water mark. Source: proc_pid_clear_refs(5).
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_memory(device: str = "cpu") -> int:
    """Return the peak memory in bytes since `reset_peak`, or since the start."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    status = _PROCESS / "status"
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def synchronize(device: str) -> None:
    """Wait until an accelerator has done what it was given."""
    if not device.startswith("cpu"):
        torch.accelerator.synchronize(device)


class Meter:
    """Runs a piece of work and takes its times and its memory.

    Attributes:
        clock: The clocks.
        device: Where the work computes.
    """

    def __init__(self, clock: Clock, device: str = "cpu") -> None:
        self.clock = clock
        self.device = device

    def __call__(self, run: Callable[[], object], images: int = 1) -> Sample:
        """Return the sample of one run; a dict of numbers that it returns is its `parts`."""
        has_own_peak = reset_peak(self.device)
        synchronize(self.device)
        wall, processor = self.clock.wall(), self.clock.processor()
        result = run()
        synchronize(self.device)
        wall, processor = self.clock.wall() - wall, self.clock.processor() - processor
        return Sample(
            wall=wall,
            processor=processor,
            images=images,
            peak=peak_memory(self.device) if has_own_peak else None,
            load=load_average(),
            parts=result if isinstance(result, dict) else None,
        )
