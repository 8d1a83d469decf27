"""Work for all cores of the machine, in memory that is used again."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

_KEPT_BYTES = 31 << 20


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_threads(number: int | None = None) -> ThreadPoolExecutor:
    """Return threads for work on arrays, which runs outside the interpreter's lock.

    Args:
        number: How many; None means one a core.
    """
    # GNU's allocator keeps freed memory up to twice the largest block that was freed, and
    # hands more back; then each image would pay for its pages anew, a tenth of its time.
    # This block is never written, so it takes no memory.
    np.empty(_KEPT_BYTES, np.uint8)
    return ThreadPoolExecutor(number or num_cores())
