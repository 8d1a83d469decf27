"""A captioner without weights: what light, colour, texture and lines say about a scene.

It states only what a few numbers can tell (day or night, sky, plants, straight
structures, ground, viewpoint) in short plain English from a closed vocabulary. The
thresholds were set on training scenes only; docs/annotations.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from v2ir.annotation.measures import SceneMeasures, measure

# Every phrase that a caption can hold; the vocabulary is made from this table.
_PLACES = {
    "panels": "rows of solar panels seen from above",
    "trees above": "trees seen from above",
    "ground above": "rough ground seen from above",
    "facade": "the facade of a building",
    "street": "a street",
    "lawn": "a green lawn",
    "place": "an open place",
}
_TIMES = {
    "dark night": "on a very dark night",
    "bright night": "on a bright night",
    "night": "at night",
    "hazy": "on a hazy day",
    "sunny": "on a sunny day",
    "dim": "in dim daylight",
    "cloudy": "on a cloudy day",
    "day": "during the day",
}
_LAMPS = {"many": "bright lamps", "few": "a few lamps"}
_SKIES = {
    "dark": "a dark sky",
    "blue": "a blue sky",
    "bright": "a bright sky",
    "grey": "a grey sky",
    "wide blue": "a wide blue sky",
    "wide bright": "a wide bright sky",
    "wide grey": "a wide grey sky",
}
_PLANTS = {"many": "many trees", "some": "some trees", "grass": "grass"}
_STRUCTURES = {"many": "tall buildings", "some": "a building"}
_GROUNDS = {"smooth": "smooth asphalt", "paved": "paved ground"}
_CLUTTER = {"many": "many small objects", "few": "few objects"}
_PHRASES = (_PLACES, _TIMES, _LAMPS, _SKIES, _PLANTS, _STRUCTURES, _GROUNDS, _CLUTTER)

VOCABULARY = frozenset(
    word for table in _PHRASES for phrase in table.values() for word in phrase.split()
) | {"with", "and", ","}
"""Every word and punctuation mark that a caption can hold."""

_NIGHT_DARK_FRACTION = 0.41
_LIFTED_BLACK = 0.19
_SKY_FRACTION = 0.03
_WIDE_SKY_FRACTION = 0.25
_BLUE_SKY = 0.1


class StatisticsCaptioner:
    """Captions from measured image statistics; the same image has the same caption."""

    name = "statistics"
    version = "1"

    def caption(self, images: Sequence[np.ndarray]) -> list[str]:
        """Return one caption per image; each depends on its own image alone."""
        return [describe(measure(image)) for image in images]

    @staticmethod
    def vocabulary() -> frozenset[str]:
        """Return every word and punctuation mark that a caption can hold."""
        return VOCABULARY


def describe(measures: SceneMeasures) -> str:
    """Return the caption for what was measured, lower case without a full stop."""
    night = is_night(measures)
    place = _place(measures, night)
    details = [
        _LAMPS.get(_lamps(measures) if night else ""),
        _SKIES.get(_sky(measures, night)) if "above" not in place and place != "panels" else None,
        *_plants(measures, night, place),
        _STRUCTURES.get(_structures(measures, place)),
        _GROUNDS.get(_ground(measures)) if place in {"street", "place"} else None,
        _CLUTTER.get(_clutter(measures, night)),
    ]
    found = [detail for detail in details if detail]
    head = f"{_PLACES[place]} {_TIMES[_time(measures, night)]}"
    if not found:
        return head
    listed = " and ".join(part for part in (", ".join(found[:-1]), found[-1]) if part)
    return f"{head} with {listed}"


def is_night(measures: SceneMeasures) -> bool:
    """Tell night from day.

    Most pixels of a night image are nearly black. Where a lifted black level hides that
    (a lit haze, a camera that brightens), the sky is darker than the ground instead.
    """
    if measures.dark_fraction > _NIGHT_DARK_FRACTION:
        return True
    dark_above = (
        measures.top_lightness < measures.bottom_lightness - 0.04
        and measures.top_bright_fraction < 0.15
        and measures.top_upper_lightness < 0.65
    )
    return measures.black_level > _LIFTED_BLACK and dark_above


def _place(measures: SceneMeasures, night: bool) -> str:
    if not night and _has_panels(measures):
        return "panels"
    if not night and _looks_down(measures):
        leafy = measures.green_fraction > 0.5 or measures.tangled_fraction > 0.3
        return "trees above" if leafy else "ground above"
    if measures.vertical_fraction > 0.025 and measures.straight_share > 0.45:
        return "facade" if measures.ground_flat_fraction < 0.85 else "street"
    if not night and measures.low_green_fraction > 0.5:
        return "lawn"
    return "street" if measures.ground_flat_fraction > 0.6 else "place"


def _has_panels(measures: SceneMeasures) -> bool:
    """Blue bands with level edges and no uprights, over or beside plants."""
    blue = measures.low_blue_fraction > 0.12 and measures.vertical_fraction < 0.015
    bands = measures.horizontal_fraction > 0.04 and measures.green_fraction > 0.15
    return blue and bands and measures.ground_flat_fraction < 0.75


def _looks_down(measures: SceneMeasures) -> bool:
    """Seen from above, texture is alike from top to bottom, without uprights or sky."""
    alike = 0.6 < measures.texture_ratio < 1.5 and measures.vertical_fraction < 0.015
    skyless = measures.sky_fraction < _SKY_FRACTION
    return alike and skyless and measures.ground_flat_fraction < 0.68


def _time(measures: SceneMeasures, night: bool) -> str:
    if night:
        if measures.black_level > _LIFTED_BLACK:
            return "bright night"
        return "dark night" if measures.mean_lightness < 0.08 else "night"
    if measures.black_level > _LIFTED_BLACK:
        return "hazy"
    if _sky(measures, night).endswith("blue") or measures.contrast > 0.6:
        return "sunny"
    if measures.mean_lightness < 0.3:
        return "dim"
    return "cloudy" if measures.sky_fraction > _SKY_FRACTION else "day"


def _lamps(measures: SceneMeasures) -> str:
    if measures.lamps >= 8 and measures.lamp_fraction > 0.004:
        return "many"
    return "few" if measures.lamps >= 2 else ""


def _sky(measures: SceneMeasures, night: bool) -> str:
    if night:
        dark = measures.top_lightness < measures.bottom_lightness
        return "dark" if dark and measures.top_flat_fraction > 0.8 else ""
    if measures.sky_fraction < _SKY_FRACTION:
        return ""
    colour = "bright" if measures.sky_lightness > 0.85 else "grey"
    if measures.sky_blueness > _BLUE_SKY:
        colour = "blue"
    return f"wide {colour}" if measures.sky_fraction > _WIDE_SKY_FRACTION else colour


def _plants(measures: SceneMeasures, night: bool, place: str) -> list[str]:
    # At night a green cast of the camera is more common than visible leaves.
    amount = 1.6 * measures.tangled_fraction
    amount = 1.3 * amount if night else max(amount, measures.green_fraction)
    found = []
    if "above" not in place and place != "panels" and amount > 0.16:
        found.append(_PLANTS["many" if amount > 0.28 else "some"])
    if not night and place != "lawn" and measures.low_green_fraction > 0.2:
        found.append(_PLANTS["grass"])
    return found


def _structures(measures: SceneMeasures, place: str) -> str:
    if place not in {"street", "place", "lawn"}:
        return ""
    if measures.vertical_fraction > 0.025:
        return "many"
    return "some" if measures.vertical_fraction > 0.012 else ""


def _ground(measures: SceneMeasures) -> str:
    if measures.ground_flat_fraction > 0.9:
        return "smooth"
    return "paved" if measures.ground_flat_fraction < 0.7 else ""


def _clutter(measures: SceneMeasures, night: bool) -> str:
    low, high = (0.1, 0.18) if night else (0.16, 0.32)
    if measures.edge_fraction > high:
        return "many"
    return "few" if measures.edge_fraction < low else ""
