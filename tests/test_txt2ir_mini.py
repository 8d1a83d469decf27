"""The bundled model of scenes from text does what its prompts say."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, label

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


def bodies(prompt: str) -> np.ndarray:
    """Return how many warm bodies each picture shows, apart from specks."""
    found = []
    for picture in pictures(prompt, 6):
        soft = gaussian_filter(picture, 2)
        ground = float(np.median(soft))
        places, number = label(soft > ground + max(0.1, 0.45 * (soft.max() - ground)))
        found.append(sum((places == k).sum() > 60 for k in range(1, number + 1)))
    return np.array(found)


@pytest.mark.parametrize("place", ["a street at night", ABOVE])
def test_numbers_of_people_count(place):
    none, one, two, three = (
        bodies(f"{place}, {who}") for who in (EMPTY, "a person", "two people", "three people")
    )
    assert none.mean() < 0.75
    assert (one == 1).all()
    assert two.mean() > 2 and three.mean() > 2.5
    assert (two > 1).sum() >= 5 and (three > 1).sum() >= 5


def taken(prompt: str) -> np.ndarray:
    """Return which share of each picture's columns something warm takes."""
    shown = pictures(prompt, 6)
    soft = np.stack([gaussian_filter(picture, 2) for picture in shown]).max(axis=1)
    return (soft > np.median(shown, axis=(1, 2))[:, None] + 0.15).mean(axis=1)


def test_two_pedestrians_and_a_parked_car_are_more_than_either():
    street = "a night street"
    people, car, both = (
        f"{street} with {what}"
        for what in ("two pedestrians", "a parked car", "two pedestrians and a parked car")
    )
    assert bodies(both).min() >= 3 > max(bodies(people).mean(), bodies(car).mean())
    assert taken(both).min() > 0.6 > taken(people).mean() > taken(car).mean()
    assert taken(car).mean() > taken(street).mean() + 0.1
    shown = pictures(both, 6)  # and all of them stand on the ground
    assert (shown[:, 70:].mean(axis=(1, 2)) - shown[:, :50].mean(axis=(1, 2))).min() > 0.03


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
