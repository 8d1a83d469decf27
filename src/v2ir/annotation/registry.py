"""The captioners and segmenters by name; `v2ir.annotation` gives them out.

A new one is one file, one row here and one test. `CAPTIONERS` and `SEGMENTERS` need no
weights. The families are adapters for weights, written `family:weights,option=value`;
`ALIASES` are short names for such. Construction is cheap: heavy packages and weights are
loaded on first use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from v2ir.annotation.blip import BlipCaptioner
from v2ir.annotation.regions import RegionSegmenter
from v2ir.annotation.segment_anything import SamSegmenter
from v2ir.annotation.spec import convert_options, parse_spec
from v2ir.annotation.statistics import StatisticsCaptioner
from v2ir.annotation.vision_language import VisionLanguageCaptioner
from v2ir.annotators import Captioner, Segmenter
from v2ir.errors import InputError, UnknownNameError

A = TypeVar("A", covariant=True)


class Family(Protocol[A]):
    """Makes an annotator from its weights, the texts of its options, and a device."""

    def __call__(self, weights: str, options: dict[str, str], device: str) -> A:
        """Build the annotator; its weights are not touched yet."""
        ...


CAPTIONERS: dict[str, Callable[[], Captioner]] = {
    "statistics": StatisticsCaptioner,
}

CAPTIONER_FAMILIES: dict[str, Family[Captioner]] = {
    "blip": BlipCaptioner.from_options,
    "vlm": VisionLanguageCaptioner.from_options,
}

SEGMENTERS: dict[str, Callable[[], Segmenter]] = {
    "regions": RegionSegmenter,
}

SEGMENTER_FAMILIES: dict[str, Family[Segmenter]] = {
    "sam": SamSegmenter.from_options,
}

ALIASES: dict[str, str] = {
    "blip-base": "blip:Salesforce/blip-image-captioning-base",
    "blip-large": "blip:Salesforce/blip-image-captioning-large",
    "florence-base": "vlm:florence-community/Florence-2-base",
    "smolvlm": "vlm:HuggingFaceTB/SmolVLM-Instruct",
    "sam-base": "sam:facebook/sam-vit-base",
    "sam-large": "sam:facebook/sam-vit-large",
    "sam-huge": "sam:facebook/sam-vit-huge",
    "sam2-tiny": "sam:facebook/sam2.1-hiera-tiny",
    "sam2-large": "sam:facebook/sam2.1-hiera-large",
}


def make_captioner(name: str, *, device: str = "cpu") -> Captioner:
    """Return the captioner called `name`, such as `statistics` or `blip-base`.

    Args:
        name: A name of `CAPTIONERS` or `ALIASES`, or `family:weights`, where the weights
            are a hub name or a folder; options follow as `,option=value`.
        device: Where a network runs.

    Raises:
        UnknownNameError: If no captioner or option has this name.
        InputError: If an option's value cannot be used.
    """
    return _make("captioner", name, device, CAPTIONERS, CAPTIONER_FAMILIES)


def make_segmenter(name: str, *, device: str = "cpu") -> Segmenter:
    """Return the segmenter called `name`, such as `regions` or `sam-base,rendering=regions`.

    Arguments and errors are those of `make_captioner`.
    """
    return _make("segmenter", name, device, SEGMENTERS, SEGMENTER_FAMILIES)


def _make(
    kind: str,
    name: str,
    device: str,
    plain: Mapping[str, Callable[[], A]],
    families: Mapping[str, Family[A]],
) -> A:
    spec = parse_spec(name)
    if spec.family in plain:
        if spec.weights:
            raise InputError(f"{spec.family} has no weights", got=name, do=f"give {spec.family}")
        convert_options(spec.options, {}, spec.family)
        return plain[spec.family]()
    if not spec.weights and spec.family in ALIASES:
        alias = parse_spec(ALIASES[spec.family])
        family, weights = alias.family, alias.weights
    else:
        family, weights = spec.family, spec.weights
    if family not in families:
        aliases = [a for a, whole in ALIASES.items() if whole.partition(":")[0] in families]
        known = [*plain, *aliases, *(f"{word}:WEIGHTS" for word in families)]
        raise UnknownNameError.of(kind, name, known)
    if not weights:
        raise InputError(
            f"{family} needs weights", got=repr(name), do=f"give {family}:HUB_NAME_OR_FOLDER"
        )
    return families[family](weights, dict(spec.options), device)
