"""The captioners and segmenters by name; `v2ir.annotation` gives them out.

A new one is one file, one row here and one test. Rows hold classes whose construction is
cheap; heavy packages and weights are loaded on first use.
"""

from __future__ import annotations

from collections.abc import Callable

from v2ir.annotation.interface import Captioner, Segmenter
from v2ir.annotation.regions import RegionSegmenter
from v2ir.annotation.statistics import StatisticsCaptioner
from v2ir.errors import UnknownNameError

CAPTIONERS: dict[str, Callable[[], Captioner]] = {
    "statistics": StatisticsCaptioner,
}

SEGMENTERS: dict[str, Callable[[], Segmenter]] = {
    "regions": RegionSegmenter,
}


def make_captioner(name: str) -> Captioner:
    """Return the captioner called `name`.

    Raises:
        UnknownNameError: If no captioner has this name.
    """
    if name not in CAPTIONERS:
        raise UnknownNameError.of("captioner", name, CAPTIONERS)
    return CAPTIONERS[name]()


def make_segmenter(name: str) -> Segmenter:
    """Return the segmenter called `name`.

    Raises:
        UnknownNameError: If no segmenter has this name.
    """
    if name not in SEGMENTERS:
        raise UnknownNameError.of("segmenter", name, SEGMENTERS)
    return SEGMENTERS[name]()
