"""The verb `v2ir index`."""

from __future__ import annotations


def command() -> None:
    """Stand in until the verb is written."""
