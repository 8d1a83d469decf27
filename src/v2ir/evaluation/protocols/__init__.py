"""Named protocols: what must be equal for two numbers to be compared.

A new one is one row of `PROTOCOLS`, one line in docs/protocols.md, and a test that its
counts are checked.
"""

from __future__ import annotations

from v2ir.evaluation.protocols.published import (
    FLIR_ALIGNED,
    FLIR_THERA,
    LLVIP,
    M3FD,
    M3FD_THERA,
)
from v2ir.evaluation.protocols.record import Protocol
from v2ir.evaluation.protocols.shared_pairs import SHARED_PAIRS

__all__ = ["PROTOCOLS", "Protocol"]

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (M3FD, FLIR_ALIGNED, LLVIP, M3FD_THERA, FLIR_THERA, SHARED_PAIRS)
}
