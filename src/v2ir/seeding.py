"""Weights that are drawn from a seed of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def own_seed(seed: int = 0) -> Iterator[None]:
    """Draw from a seed while a network is built on the processor.

    What is drawn outside stays as it would be without: a run is the same whether its network is
    built or read, and generators on other devices are not touched.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
