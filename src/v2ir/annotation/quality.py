"""Captions and maps that say nothing: found before anything is trained on them.

Users of the released code trained on maps that were white all over without noticing.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np

from v2ir.errors import ImageReadError
from v2ir.images import read_map
from v2ir.records import JsonRecord

SPAN = 8
"""Grey levels (of 255) within which nearly all of a map must lie to count as constant."""
_REST = 0.0025
_MOST_REPEATS = 3
_LEAST_VARIETY = 0.34
_LONG = 12


@dataclasses.dataclass(frozen=True)
class MapQuality(JsonRecord):
    """What decides whether a map says anything.

    Attributes:
        low: Grey level that 0.25 % of the pixels lie at or below.
        high: Grey level that 0.25 % of the pixels lie at or above.
    """

    low: int
    high: int

    @property
    def fault(self) -> str | None:
        """`all white`, `all black`, `nearly constant`, or None for a map with structure."""
        if self.high - self.low > SPAN:
            return None
        if self.low >= 255 - SPAN:
            return "all white"
        return "all black" if self.high <= SPAN else "nearly constant"


def measure_map(pixels: np.ndarray) -> MapQuality:
    """Measure a map, HW or HWC uint8; of a coloured one the channel that varies most."""
    channels = np.moveaxis(np.atleast_3d(pixels), -1, 0)
    found = [_measure_channel(channel) for channel in channels]
    return max(found, key=lambda quality: quality.high - quality.low)


def _measure_channel(channel: np.ndarray) -> MapQuality:
    shares = np.bincount(channel.ravel(), minlength=256).cumsum() / channel.size
    low = int(np.searchsorted(shares, _REST, side="right"))
    high = int(np.searchsorted(shares, 1.0 - _REST, side="left"))
    return MapQuality(low=low, high=high)


def map_fault(path: Path) -> str | None:
    """Return what is wrong with a map's content, or None; `unreadable` if it is no image."""
    try:
        return measure_map(read_map(path)).fault
    except ImageReadError:
        return "unreadable"


def caption_fault(caption: str) -> str | None:
    """Return `empty`, `repeating` or `no noun`, or None for a caption that says something."""
    words = re.findall(r"[^\W\d_]+(?:['-][^\W\d_]+)*", caption.lower())
    if not words:
        return "empty"
    if _repeats(words):
        return "repeating"
    return None if any(_may_be_noun(word) for word in words) else "no noun"


def _repeats(words: list[str]) -> bool:
    """Whether the words go in circles, as captioners do when they fail.

    Either a phrase of one to four words comes more than three times running, or a long
    caption has hardly any different words.
    """
    for length in range(1, 5):
        run = 0
        for index in range(length, len(words)):
            run = run + 1 if words[index] == words[index - length] else 0
            if run >= length * _MOST_REPEATS:
                return True
    return len(words) >= _LONG and len(set(words)) < _LEAST_VARIETY * len(words)


def _may_be_noun(word: str) -> bool:
    """Whether a word is none of those that cannot name what is in a picture.

    Every word that is not listed counts, so that unknown words and other languages pass:
    the gate is for captions without any content.
    """
    if word in _NOT_NOUNS or word.removesuffix("s") in _ABOUT_PICTURES:
        return False
    # Scripts without spaces and cases write a noun in one or two signs.
    return len(word) > 2 or not word.isascii()


_PICTURE_WORDS = "image picture photo photograph view shot scene background"
_ABOUT_PICTURES = frozenset(_PICTURE_WORDS.split())

_OTHER_WORDS = """
    a an the this that these those some any each every all both no none other another
    i you he she it we they me him her us them my your his its our their who what which
    and or but nor so yet if than then as while because although
    of in on at by with from to into onto over under above below behind beside between
    through near across along around up down off out for about against toward towards
    without within inside outside beyond
    is are was were be been being am do does did have has had can could will would shall
    should may might must not
    there here where when how why very quite too also just only even still again always
    never now soon often already almost
    one two three four five six seven eight nine ten many much few several more most less
    least lot first second next last
    red green blue yellow white black grey gray brown orange purple pink colorful
    colourful large big small little tiny huge tall short long wide narrow high low old
    new young good bad nice beautiful bright dark dim light pale clear cloudy sunny rainy
    foggy hazy snowy wet dry hot cold warm cool empty full open closed different same
    similar various blurry sharp smooth rough flat round infrared thermal visible
    standing sitting walking running lying looking showing seen taken shown parked
    driving moving going coming being making having
"""
_NOT_NOUNS = frozenset(_OTHER_WORDS.split())
