"""How loops over pixels are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

# Sums may be taken in another order, so that several are taken at once.
_FREEDOMS = {"reassoc", "contract", "nsz"}
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": _FREEDOMS, "error_model": "numpy"}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function when it is first called, and keep what was made on disk."""
    try:
        made: Callable[..., Any] = numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # nowhere to keep it: compiled anew in each process
        made = numba.njit(**_OPTIONS)(function)
    return made


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function into those that call it: a call for each short row would cost a tenth."""
    made: Callable[..., Any] = numba.njit(inline="always", **_OPTIONS)(function)
    return made
