"""The verb `v2ir train`."""

from __future__ import annotations


def command() -> None:
    """Stand in until the verb is written."""
