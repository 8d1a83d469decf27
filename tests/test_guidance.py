from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from v2ir.model import Conditions, Guidance
from v2ir.sampling.guidance import GuidedDenoiser, branches

ALL = frozenset({"text", "visible", "segmentation"})


def fake_denoiser(noisy, timestep, conditions):
    """Answer with a nonlinear function of everything that is seen, row by row."""
    total = noisy.clone()
    for weight, name in ((1.0, "visible"), (2.0, "segmentation")):
        value = getattr(conditions, name)
        if value is not None:
            total = total + weight * value
    text = conditions.null_text if conditions.text is None else conditions.text
    text = text.expand(len(noisy), -1, -1)
    return torch.sin(total + text.mean(dim=(1, 2)).view(-1, 1, 1, 1))


def some_conditions(number=3, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return Conditions(
        visible=draw(number, 4, 5, 6),
        segmentation=draw(number, 4, 5, 6),
        text=draw(number, 7, 8),
        style=torch.arange(number),
        null_text=draw(1, 7, 8),
    ), draw(number, 4, 5, 6)


def by_formula(conditions, noisy, guidance):
    """DiffV2IR's Eq. 2, with the order of the released code as the other nesting."""

    def seen(*names):
        return fake_denoiser(noisy, None, conditions.without(*(ALL - set(names))))

    first, second = (
        ("visible", "segmentation") if guidance.nesting == "paper" else ("segmentation", "visible")
    )
    nothing, one, two = seen(), seen(first), seen(first, second)
    return (
        nothing
        + getattr(guidance, first) * (one - nothing)
        + getattr(guidance, second) * (two - one)
        + guidance.text * (seen(*ALL) - two)
    )


scale = st.floats(-2, 9, allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(scale, scale, scale, st.sampled_from(["paper", "released"]), st.integers(0, 99))
def test_guidance_is_the_formula_for_any_scales(text, visible, segmentation, nesting, seed):
    guidance = Guidance(text=text, visible=visible, segmentation=segmentation, nesting=nesting)
    conditions, noisy = some_conditions(seed=seed)
    got = GuidedDenoiser(fake_denoiser, guidance)(noisy, torch.tensor(500), conditions)
    torch.testing.assert_close(got, by_formula(conditions, noisy, guidance), rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("nesting", ["paper", "released"])
def test_three_evaluations_at_the_default_scales(nesting):
    conditions, noisy = some_conditions()
    guided = GuidedDenoiser(fake_denoiser, Guidance(nesting=nesting))
    got = guided(noisy, torch.tensor(0), conditions)
    assert guided.evaluations == 3 * len(noisy)
    expected = by_formula(conditions, noisy, Guidance(nesting=nesting))
    torch.testing.assert_close(got, expected)


def test_both_nestings_agree_at_the_default_scales_only():
    conditions, noisy = some_conditions()

    def run(**scales):
        return [
            GuidedDenoiser(fake_denoiser, Guidance(nesting=nesting, **scales))(
                noisy, torch.tensor(0), conditions
            )
            for nesting in ("paper", "released")
        ]

    torch.testing.assert_close(*run())
    paper, released = run(visible=1.0, segmentation=2.0)
    assert (paper - released).abs().max() > 0.1


@pytest.mark.parametrize(
    ("scales", "expected"),
    [
        ((7.5, 1.5, 1.5), 3),
        ((7.5, 1.5, 2.0), 4),
        ((1.0, 1.0, 1.0), 1),
        ((1.5, 1.5, 1.5), 2),
        ((0.0, 0.0, 0.0), 1),
    ],
)
def test_number_of_evaluations(scales, expected):
    text, visible, segmentation = scales
    guidance = Guidance(text=text, visible=visible, segmentation=segmentation)
    chain = branches(guidance, ALL)
    assert len(chain) == expected
    assert sum(weight for _, weight in chain) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "missing",
    list(
        itertools.chain.from_iterable(
            itertools.combinations(sorted(ALL), size) for size in (1, 2, 3)
        )
    ),
)
def test_null_conditions_cost_nothing_and_change_nothing(missing):
    conditions, noisy = some_conditions()
    conditions = conditions.without(*missing)
    guidance = Guidance(text=4.0, visible=1.2, segmentation=1.9)
    guided = GuidedDenoiser(fake_denoiser, guidance)
    got = guided(noisy, torch.tensor(0), conditions)
    torch.testing.assert_close(got, by_formula(conditions, noisy, guidance))
    assert guided.evaluations <= (4 - len(missing)) * len(noisy)


def test_outside_the_interval_the_conditioned_prediction_stands_alone():
    conditions, noisy = some_conditions()
    guided = GuidedDenoiser(fake_denoiser, Guidance(interval=(0.2, 0.8)))
    plain = fake_denoiser(noisy, None, conditions)
    for timestep in (999, 900, 100, 0):
        torch.testing.assert_close(guided(noisy, torch.tensor(timestep), conditions), plain)
    inside = guided(noisy, torch.tensor(500), conditions)
    assert (inside - plain).abs().max() > 0.1


def test_images_do_not_influence_one_another():
    conditions, noisy = some_conditions(number=4)
    guided = GuidedDenoiser(fake_denoiser, Guidance())
    together = guided(noisy, torch.tensor(300), conditions)
    alone = Conditions(
        visible=conditions.visible[2:3],
        segmentation=conditions.segmentation[2:3],
        text=conditions.text[2:3],
        style=conditions.style[2:3],
        null_text=conditions.null_text,
    )
    torch.testing.assert_close(together[2:3], guided(noisy[2:3], torch.tensor(300), alone))


def test_a_wrong_interval_is_refused():
    with pytest.raises(ValueError, match="interval"):
        Guidance(interval=(0.9, 0.1))
