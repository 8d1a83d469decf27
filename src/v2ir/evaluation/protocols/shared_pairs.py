"""The setting of the project's own table: real pairs whose list is fixed."""

from __future__ import annotations

from v2ir.evaluation.protocols.record import Protocol

SHARED_PAIRS = Protocol(
    name="v2ir-pairs",
    source="The project's 947 real pairs: split by scene or place, strictly aligned test pairs",
    num_images=131,
    num_training=790,
    names_hash="0ef1cbae439e80e5eeed3b2d9639269ee1a3fc13f338f2f5112434d9f008ddde",
    alignment="strict",
)
