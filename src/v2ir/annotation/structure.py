"""Captions by fields: what is there, of what it is made, and what is warm."""

from __future__ import annotations

import json
import re
import string
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from v2ir.errors import InputError


def _plain_text(value: Any) -> Any:
    """Take numbers, lists of words and nothing for text, as models answer."""
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    if isinstance(value, int | float):
        return str(value)
    return value.strip() if isinstance(value, str) else value


def _objects(value: Any) -> Any:
    """Take one object, or bare names, for a list of objects."""
    if value is None:
        return ()
    listed = value if isinstance(value, list | tuple) else [value]
    return [{"name": item} if isinstance(item, str) else item for item in listed]


Text = Annotated[str, BeforeValidator(_plain_text)]


class SceneObject(BaseModel):
    """One kind of thing in the scene.

    Attributes:
        name: What it is, with its number where there are several.
        material: What its surface is made of.
        heat: State of heat in words, such as "engine running" or "sunlit".
    """

    model_config = ConfigDict(frozen=True)

    name: Text
    material: Text = ""
    heat: Text = ""


class SceneDescription(BaseModel):
    """What matters to the infrared image of a scene; empty fields are not known.

    Attributes:
        scene: The place in a few words.
        weather: The weather.
        time_of_day: The time of day.
        light: Where light comes from.
        objects: The objects, the most important first.
        band: Infrared band, such as "long-wave infrared".
    """

    model_config = ConfigDict(frozen=True)

    scene: Text = Field(min_length=1)
    weather: Text = ""
    time_of_day: Text = ""
    light: Text = ""
    objects: Annotated[tuple[SceneObject, ...], BeforeValidator(_objects)] = ()
    band: Text = ""


def parse_description(answer: str) -> SceneDescription | None:
    """Find a description in a model's answer, or None.

    Taken is the first JSON object that fits, with text or a code fence around it, with
    commas before a closing bracket, and with other spellings of the fields' names.
    """
    for start in (match.start() for match in re.finditer(r"\{", answer)):
        value = _json_object(answer[start:])
        if value is None:
            continue
        try:
            return SceneDescription.model_validate(_named(value))
        except ValidationError:
            continue
    return None


def _json_object(text: str) -> dict[str, Any] | None:
    for candidate in (text, re.sub(r",(\s*[}\]])", r"\1", text)):
        try:
            value, _ = json.JSONDecoder().raw_decode(candidate)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    return None


_OTHER_NAMES = {
    "place": "scene",
    "setting": "scene",
    "time": "time_of_day",
    "lighting": "light",
    "heat_state": "heat",
    "state": "heat",
    "temperature": "heat",
    "materials": "material",
    "object": "name",
    "type": "name",
}


def _named(value: Any) -> Any:
    """Give fields their names, whatever case, spaces and synonyms they came with."""
    if isinstance(value, list):
        return [_named(item) for item in value]
    if not isinstance(value, dict):
        return value
    keys = {key: re.sub(r"[\s-]+", "_", str(key).strip().lower()) for key in value}
    return {_OTHER_NAMES.get(keys[key], keys[key]): _named(item) for key, item in value.items()}


BANDS = {
    "lwir": "long-wave infrared",
    "mwir": "mid-wave infrared",
    "swir": "short-wave infrared",
    "nir": "near-infrared",
}

STYLES: dict[str, str] = {
    "plain": "{scene}{in_weather}{at_time}{with_objects}",
    "long": "This is a {band} image. {scene_sentence}{object_sentences}{weather_sentence}",
}
"""Wordings of a description by name; `long` is TxT2IR's."""


def render(description: SceneDescription, style: str = "plain") -> str:
    """Put a description into words.

    Args:
        description: The description.
        style: A name of `STYLES`, or a template with any of the fields `scene`, `weather`,
            `time_of_day`, `light`, `objects`, `band`, and the phrases that `STYLES` uses;
            what is not known becomes nothing.

    Raises:
        InputError: If the template names another field or cannot be read.
    """
    template = STYLES.get(style, style)
    fields = _fields(description)
    check_template(style)
    words = re.sub(r"\s+", " ", template.format_map(fields)).strip()
    # Where a field was empty, what stood around it is tidied up.
    return re.sub(r"\s+([,.;])", r"\1", re.sub(r"([,;])(\s*[,;])+", r"\1", words)).strip(" ,;")


def check_template(style: str) -> None:
    """Refuse a wording that is neither a name nor a template that can be filled.

    Raises:
        InputError: If it is neither.
    """
    known = _fields(SceneDescription(scene="x"))
    try:
        named = [name for _, name, _, _ in string.Formatter().parse(STYLES.get(style, style))]
    except ValueError as error:
        raise InputError("the caption's template cannot be read", got=str(error)) from error
    used = [name for name in named if name is not None]
    unknown = [name for name in used if name not in known]
    if unknown or not used:
        raise InputError(
            "unknown wording of captions",
            got=repr(unknown[0] if unknown else style),
            do=f"take {' or '.join(STYLES)}, or a template with {{{'}, {'.join(known)}}}",
        )


def _fields(description: SceneDescription) -> dict[str, str]:
    """Return the fields and phrases that a template may use."""
    band = BANDS.get(description.band.lower(), description.band) or BANDS["lwir"]
    objects = [_object_phrase(item) for item in description.objects if item.name]
    weather = description.weather
    return {
        "scene": description.scene,
        "weather": weather,
        "time_of_day": description.time_of_day,
        "light": description.light,
        "objects": ", ".join(objects),
        "band": band,
        "in_weather": f", {weather}" if weather else "",
        "at_time": "".join(f", {t}" for t in (description.time_of_day, description.light) if t),
        "with_objects": f", with {_listed(objects)}" if objects else "",
        "scene_sentence": _sentence(description.scene),
        "object_sentences": "".join(_sentence(phrase) for phrase in objects),
        "weather_sentence": _sentence(
            ", ".join(t for t in (description.time_of_day, weather, description.light) if t)
        ),
    }


def _object_phrase(item: SceneObject) -> str:
    made = f" of {item.material}" if item.material else ""
    return f"{item.name}{made}" + (f" ({item.heat})" if item.heat else "")


def _listed(phrases: list[str]) -> str:
    if len(phrases) < 2:
        return "".join(phrases)
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _sentence(text: str) -> str:
    text = text.strip().rstrip(".")
    return f"{text[0].upper()}{text[1:]}. " if text else ""
