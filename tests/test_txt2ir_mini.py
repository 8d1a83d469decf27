"""The bundled model of scenes from text does what its prompts say."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from v2ir.model import bundled_models, find_model, load_model
from v2ir.sampling import GenerateSettings, TextSampler
from v2ir.sampling.prompts import Prompt

pytestmark = pytest.mark.skipif(
    "txt2ir-mini" not in bundled_models(), reason="the model is not in the package"
)
NIGHT = "a street at night with a few lamps and a building"
ABOVE = "a street seen from above"
PANELS = "rows of solar panels seen from above on a cloudy day with grass"
DISTANT = "a distant view"
EMPTY = "no people and no cars"


@functools.cache
def sampler() -> TextSampler:
    settings = GenerateSettings(width=128, height=128, solver="dpmpp", steps=8)
    return TextSampler(load_model("txt2ir-mini"), settings)


@functools.cache
def pictures(prompt: str, amount: int = 3) -> np.ndarray:
    """Return pictures of a prompt, NxHxW in [0, 1]."""
    return np.stack(sampler().run([(Prompt(prompt), number) for number in range(amount)]))


def test_a_street_at_night_is_dark_and_one_from_above_is_not():
    night, above = (pictures(prompt).mean(axis=(1, 2)) for prompt in (NIGHT, ABOVE))
    assert night.max() < 0.25 < 0.4 < above.min()


def test_panels_have_edges_that_a_street_from_above_has_not():
    panels, above = (pictures(prompt).std(axis=(1, 2)) for prompt in (PANELS, ABOVE))
    assert panels.mean() > 1.5 * above.mean()
    assert panels.min() > 1.2 * above.max()


def test_panels_lie_in_rows_and_a_street_from_above_does_not():
    panels, above = (pictures(prompt).mean(axis=2).std(axis=1) for prompt in (PANELS, ABOVE))
    assert panels.min() > 1.5 * above.max()


def test_a_distant_view_has_a_cold_sky():
    views = pictures(DISTANT, 6)
    sky, ground = views[:, :42].mean(axis=(1, 2)), views[:, -42:].mean(axis=(1, 2))
    assert (ground - sky).mean() > 0.1
    others = pictures(ABOVE)
    assert (ground - sky).mean() > (others[:, -42:] - others[:, :42]).mean() + 0.1


def middle(prompt: str) -> np.ndarray:
    """Return by how much the middle of each picture is brighter than its left and right."""
    shown = pictures(prompt, 6)[:, 26:102]
    sides = np.concatenate([shown[..., :26], shown[..., -26:]], axis=2)
    return shown[..., 48:80].mean(axis=(1, 2)) - sides.mean(axis=(1, 2))


@pytest.mark.parametrize("place", ["a street at night", ABOVE])
def test_a_person_who_is_asked_for_is_there(place):
    person, none = middle(f"{place}, a person"), middle(f"{place}, {EMPTY}")
    assert person.min() > 0.1 > 0.05 > np.abs(none).mean()
    assert person.min() > none.max()


def test_a_car_is_no_person():
    person, car, none = (
        middle(f"a street at night, {what}") for what in ("a person", "a car", EMPTY)
    )
    assert person.mean() > 2 * car.mean() > 2 * none.mean()


def test_one_prompt_makes_different_pictures():
    first, second, third = pictures(DISTANT)
    assert min(np.abs(first - second).mean(), np.abs(second - third).mean()) > 0.02


def test_both_models_fit_beside_each_other():
    files = [path for name in bundled_models() for path in find_model(name).rglob("*")]
    assert sum(path.stat().st_size for path in files if path.is_file()) < 38e6
