"""The speeds: what each one leaves out, and that the picture stays what it is."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from conftest import street
from v2ir import cli
from v2ir.errors import InputError, ModelError, UnknownNameError
from v2ir.files import read_json
from v2ir.model import (
    Conditions,
    Guidance,
    Model,
    ModelCard,
    NetworkDenoiser,
    SpeedChoice,
    add_guidance_embedding,
    architecture,
    build_model,
    find_model,
)
from v2ir.model.networks import build_unet
from v2ir.sampling import Annotators, TranslateSettings, Translator, translate
from v2ir.sampling.guidance import GuidedDenoiser, branches
from v2ir.sampling.network import KeepingDenoiser
from v2ir.sampling.plan import in_precision
from v2ir.sampling.solvers import SOLVERS, make_scheduler, solve
from v2ir.sampling.speeds import SPEEDS, choose, find_precision, find_speed
from v2ir.sampling.text_sampler import GenerateSettings, TextSampler
from v2ir.sampling.windows import WindowedDenoiser, Windows

PUBLISHED = Guidance(text=7.5, visible=1.5, segmentation=1.5)


def tiny(**facts) -> Model:
    facts = {
        "resolution": 64,
        "multiple": 16,
        "guidance": PUBLISHED,
        "speeds": {
            "fast": SpeedChoice(solver="dpmpp", steps=4),
            "one-step": SpeedChoice(solver="mean", steps=1),
        },
        **facts,
    }
    model = build_model(architecture("tiny"), name="tiny", styles=("north", "south"), **facts)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(5)
        model.unet.class_embedding.weight.normal_(generator=generator)
    return model


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny()


class InDouble(Model):
    """A model whose pictures come in double precision, whatever copies are made of it."""

    def encode(self, images):
        return super().encode(images.double())

    def encode_visible(self, images):
        return super().encode_visible(images.double())


@pytest.fixture(scope="module")
def double() -> Model:
    """A model in which an order of additions cannot change a picture."""
    model = tiny()
    for part in (model.unet, model.autoencoder, model.text_encoder):
        part.double()
    parts = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    return InDouble(**parts)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, (width, height) in enumerate([(64, 64), (64, 64), (48, 70), (64, 64)]):
        Image.fromarray(street(number, width, height)[0]).save(folder / f"{number}.png")
    return folder


class Describer:
    name, version = "describer", "1"

    def caption(self, images):
        return [f"a place of brightness {image.mean():.0f}" for image in images]


class Edges:
    name, version = "edges", "1"

    def segment(self, images):
        steep = [abs(np.diff(i.astype(int).mean(2), axis=1, prepend=0)) for i in images]
        return [np.where(slope > 20, 0, 255).astype(np.uint8) for slope in steep]


def made(model, photos, out, **choices) -> dict[str, np.ndarray]:
    translator = Translator(model, TranslateSettings(**choices))
    report = translate(photos, out, translator, Annotators(Describer(), Edges()))
    assert report.failures == ()
    return {p.name: np.asarray(Image.open(p)) for p in sorted(out.glob("*.png"))}


def apart(first, second) -> int:
    assert first.keys() == second.keys()
    return max(int(abs(first[k].astype(int) - second[k]).max()) for k in first)


def some_conditions(model: Model, number=2, side=8, seed=0) -> tuple[torch.Tensor, Conditions]:
    generator = torch.Generator().manual_seed(seed)
    dtype = model.dtype

    def draw(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    c = model.card.channels
    conditions = Conditions(
        visible=draw(number, c, side, side),
        segmentation=draw(number, c, side, side),
        text=model.embed([f"street {k}" for k in range(number)]).to(dtype),
        style=torch.arange(number) % 3,
        null_text=model.embed_prompts([""]).to(dtype),
    )
    return draw(number, c, side, side), conditions


# ---- what is chosen -------------------------------------------------------------------


def test_a_speed_sets_what_is_not_given_otherwise(model):
    for name, speed in SPEEDS.items():
        plan = Translator(model, TranslateSettings(speed=name)).plan
        assert plan.speed is speed
        chosen = choose(model.card, name)
        assert (plan.solver, plan.steps, plan.reuse) == (chosen.solver, chosen.steps, chosen.reuse)
    given_too = TranslateSettings(
        speed="balanced", steps=3, solver="ddim", reuse=1, precision="bfloat16", batch_size=5
    )
    plan = Translator(model, given_too).plan
    assert (plan.solver, plan.steps, plan.reuse) == ("ddim", 3, 1)
    assert (plan.precision, plan.batch_size) == ("bfloat16", 5)
    assert plan.guidance.interval == SPEEDS["balanced"].interval


def test_without_a_speed_the_model_decides(model):
    plan = Translator(model).plan
    assert (plan.solver, plan.steps, plan.guidance) == ("euler_ancestral", 100, PUBLISHED)
    assert plan.reuse == 1


def test_the_model_chooses_for_itself():
    guidance = Guidance(text=1, visible=1, segmentation=1)
    own = SpeedChoice(solver="unipc", steps=7, guidance=guidance, reuse=3)
    card = ModelCard(name="x", channels=4, speeds={"balanced": own})
    assert choose(card, "balanced") == own
    # What it leaves open is its own default.
    card = ModelCard(name="x", channels=4, speeds={"fast": SpeedChoice(solver="lcm", steps=4)})
    assert choose(card, "fast").guidance == card.guidance


def test_the_bundled_model_chooses_for_itself():
    card = ModelCard.model_validate(read_json(find_model("mini") / "v2ir.json"))
    assert choose(card, "one-step").steps == 1
    assert choose(card, "fast").steps <= 4
    assert 1 < choose(card, "balanced").steps < 100
    assert card.speeds.keys() <= SPEEDS.keys()
    assert {choice.solver for choice in card.speeds.values()} <= SOLVERS.keys()


def test_a_model_leaves_out_at_a_speed_what_makes_its_pictures_no_better(model):
    left = SpeedChoice(solver="ddim", steps=2, without=("segmentation",))
    card = model.card.model_copy(update={"speeds": {"fast": left}})
    choosy = dataclasses.replace(model, card=card)
    quick = Translator(choosy, TranslateSettings(speed="fast", without=("caption",)))
    assert quick.without == ("caption", "segmentation")
    assert not quick.takes_maps
    assert not quick.takes_captions
    plain = Translator(choosy, TranslateSettings(solver="ddim", steps=2))
    assert plain.without == ()
    assert plain.takes_maps
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    bare = TranslateSettings(solver="ddim", steps=2, without=("caption", "segmentation"))

    def made(translator):
        map_ = np.full((48, 64), 90, np.uint8) if translator.takes_maps else None
        prepared = translator.prepare(picture, key="a", segmentation=map_)
        return translator.run([prepared])[0]

    same = dataclasses.replace(bare, speed="fast", solver=None, steps=None)
    np.testing.assert_array_equal(made(Translator(choosy, same)), made(Translator(choosy, bare)))
    assert not np.array_equal(made(plain), made(quick))


def test_a_model_that_was_not_trained_for_few_steps_is_refused():
    card = ModelCard(name="slow", channels=4)
    with pytest.raises(InputError, match=r"slow was not trained for the speed one-step.*distil"):
        choose(card, "one-step")
    quick = ModelCard(name="quick", channels=4, solver="lcm", steps=4)
    assert choose(quick, "fast").solver == "lcm"
    with pytest.raises(InputError, match="not trained"):
        choose(quick, "one-step")


def test_an_unknown_speed_and_precision_are_named(model):
    with pytest.raises(UnknownNameError, match="balanced"):
        find_speed("ballanced")
    with pytest.raises(UnknownNameError, match="bfloat16"):
        Translator(model, TranslateSettings(precision="bf16"))
    with pytest.raises(InputError, match="reuse must be positive"):
        Translator(model, TranslateSettings(reuse=0))


def test_the_reference_is_the_published_procedure():
    speed = SPEEDS["reference"]
    assert (speed.solver, speed.steps, speed.batch_size) == ("euler_ancestral", 100, 1)
    assert not (speed.cancelling or speed.keeping or speed.ahead)
    assert speed.reuse == 1
    assert speed.precision == "float32"
    assert all(speed.solver is None or speed.solver in SOLVERS for speed in SPEEDS.values())


def test_pictures_from_text_need_chance(model):
    with pytest.raises(InputError, match="no room for chance"):
        TextSampler(model, GenerateSettings(speed="one-step"))
    sampler = TextSampler(model, GenerateSettings(speed="balanced", guidance=3.0))
    assert (sampler.solver, sampler.steps) == ("dpmpp", SPEEDS["balanced"].steps)
    assert sampler.guidance.interval == SPEEDS["balanced"].interval
    assert sampler.guidance.text == 3.0


# ---- what is left out -----------------------------------------------------------------


@given(
    *[st.floats(-2, 9)] * 3,
    st.sampled_from(["paper", "released"]),
    st.sets(st.sampled_from(["text", "visible", "segmentation"])),
)
def test_the_complete_chain_has_four_evaluations(text, visible, segmentation, nesting, present):
    guidance = Guidance(text=text, visible=visible, segmentation=segmentation, nesting=nesting)
    present = frozenset(present)
    chain = branches(guidance, present, cancelling=False)
    assert len(chain) == 4
    assert sum(weight for _, weight in chain) == pytest.approx(1.0)
    assert all(names <= present for names, _ in chain)


def test_the_reference_costs_four_and_the_exact_speed_three(model):
    calls = []
    hook = model.unet.conv_out.register_forward_hook(lambda _, a, __: calls.append(len(a[0])))
    try:
        for speed in ("reference", "exact"):
            translator = Translator(model, TranslateSettings(speed=speed, steps=5))
            picture, _ = street(1, 64, 64)
            translator.translate_pixels(picture, caption="street", segmentation=picture[..., 0])
    finally:
        hook.remove()
    assert calls == [4] * 5 + [3] * 5


@pytest.mark.parametrize("solver", ["euler_ancestral", "dpmpp"])
def test_exact_is_the_reference_within_one_grey_level(model, photos, tmp_path, solver):
    reference = made(model, photos, tmp_path / "a", speed="reference", steps=10, solver=solver)
    exact = made(
        model, photos, tmp_path / "b", speed="exact", steps=10, solver=solver, batch_size=3
    )
    assert apart(reference, exact) <= 1
    assert min(picture.std() for picture in reference.values()) > 2  # not flat


def test_in_double_precision_exact_is_the_reference(double, photos, tmp_path):
    reference = made(double, photos, tmp_path / "a", speed="reference", steps=6)
    exact = made(double, photos, tmp_path / "b", speed="exact", steps=6, batch_size=3)
    assert apart(reference, exact) == 0


class Watched(Edges):
    """Notes how many pictures lie in a folder when it is asked."""

    def __init__(self, out: Path) -> None:
        self.out, self.found = out, []

    def segment(self, images):
        self.found.append(len(list(self.out.glob("*.png"))))
        return super().segment(images)


@pytest.mark.parametrize(("name", "one_by_one"), [("reference", True), ("exact", False)])
def test_the_reference_finishes_one_image_before_the_next(
    model, photos, tmp_path, name, one_by_one
):
    watched, told = Watched(tmp_path / "out"), []
    settings = TranslateSettings(speed=name, steps=1, batch_size=4)
    report = translate(
        photos,
        tmp_path / "out",
        Translator(model, settings),
        Annotators(Describer(), watched),
        lambda done, total: told.append((done, total)),
    )
    assert (watched.found == [0, 1, 2, 3]) == one_by_one
    assert (report.made, told) == (4, [(done, 4) for done in range(1, 5)])
    assert report.waited > 0


def test_the_reference_lists_what_failed(model, photos, tmp_path):
    (photos / "2.png").write_bytes(b"no image")
    report = translate(
        photos, tmp_path / "out", Translator(model, TranslateSettings(speed="reference", steps=1))
    )
    assert report.made == 3
    assert [name for name, _ in report.failures] == ["2.png"]


# ---- the network that keeps parts of its work -----------------------------------------

WIDE = {
    "sample_size": 8,
    "in_channels": 12,
    "out_channels": 4,
    "cross_attention_dim": 16,
    "block_out_channels": [16, 32, 32],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 2,
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}
"""Attention in the outermost block and two layers, as in Stable Diffusion."""


def network(config=None, styles=2, double=True):
    torch.manual_seed(3)
    unet = build_unet(config or WIDE, styles).eval()
    for parameter in unet.parameters():  # zero-initialised parts would hide mistakes
        torch.nn.init.normal_(parameter, std=0.1)
    return unet.double() if double else unet


def inputs(number=3, height=8, width=12, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    plane = (number, 4, height, width)
    return draw(*plane), Conditions(
        visible=draw(*plane),
        segmentation=draw(*plane),
        text=draw(number, 5, 16),
        style=torch.arange(number) % 3,
        null_text=draw(1, 5, 16),
    )


@pytest.mark.parametrize("size", [(8, 12), (6, 10), (5, 7)])
@pytest.mark.parametrize("scales", [False, True])
@torch.inference_mode()
def test_every_call_is_the_networks_own_answer(size, scales):
    unet = network()
    if scales:
        unet = add_guidance_embedding(unet, 16).double()
        torch.nn.init.normal_(unet.time_embedding.cond_proj.weight)
    noisy, conditions = inputs(3, *size)
    if scales:
        conditions = dataclasses.replace(conditions, scales=torch.rand(3, 3) * 5)
    plain, keeping = NetworkDenoiser(unet, None), KeepingDenoiser(NetworkDenoiser(unet, None))
    for timestep in (999, 600, 3):
        got = keeping(noisy, torch.tensor(timestep), conditions)
        wanted = plain(noisy, torch.tensor(timestep), conditions)
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)
    assert (keeping.full, keeping.partial) == (3, 0)


@torch.inference_mode()
def test_new_conditions_are_noticed():
    unet = network()
    plain, keeping = NetworkDenoiser(unet, None), KeepingDenoiser(NetworkDenoiser(unet, None))
    noisy, first = inputs(seed=1)
    _, second = inputs(seed=2)
    for timestep, told in ((9, first), (8, first), (7, second), (6, second), (5, first)):
        timestep = torch.tensor(timestep)
        got, wanted = keeping(noisy, timestep, told), plain(noisy, timestep, told)
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


@torch.inference_mode()
def test_the_share_of_the_conditions_is_computed_once():
    unet = network()
    keeping = KeepingDenoiser(NetworkDenoiser(unet, None))
    noisy, conditions = inputs()
    rows = []
    hook = unet.conv_in.register_forward_hook(lambda *_: rows.append(1))
    for timestep in range(9, 0, -1):
        keeping(noisy, torch.tensor(timestep), conditions)
    hook.remove()
    assert rows == [1]  # the whole layer ran at the first step alone


@torch.inference_mode()
def test_guidance_hands_on_the_same_conditions_at_every_step():
    seen = []

    def denoiser(noisy, timestep, conditions):
        seen.append(conditions)
        return noisy

    noisy, conditions = inputs()
    guided = WindowedDenoiser(GuidedDenoiser(denoiser, PUBLISHED), Windows(16, 4))
    for timestep in (900, 500, 100):
        guided(noisy, torch.tensor(timestep), conditions)
    assert seen[0] is seen[1] is seen[2]


# ---- features used again --------------------------------------------------------------


@torch.inference_mode()
def test_features_that_did_not_change_give_the_same_answer():
    """If nothing but the call is new, keeping the inner features changes nothing."""
    unet = network()
    plain = NetworkDenoiser(unet, None)
    keeping = KeepingDenoiser(NetworkDenoiser(unet, None), reuse=10)
    noisy, conditions = inputs()
    keeping(noisy, torch.tensor(500), conditions)
    keeping._clock.timestep = None  # the next step, at the same timestep
    got = keeping(noisy, torch.tensor(500), conditions)
    assert (keeping.full, keeping.partial) == (1, 1)
    wanted = plain(noisy, torch.tensor(500), conditions)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("reuse", "full"), [(1, 6), (2, 3), (3, 2), (4, 2), (99, 1)])
@torch.inference_mode()
def test_the_inner_blocks_run_at_every_nth_step(reuse, full):
    unet = network()
    keeping = KeepingDenoiser(NetworkDenoiser(unet, None), reuse=reuse)
    noisy, conditions = inputs()
    inner = []
    hook = unet.mid_block.register_forward_hook(lambda *_: inner.append(1))
    answers = [keeping(noisy, torch.tensor(t), conditions) for t in (900, 700, 500, 300, 200, 1)]
    hook.remove()
    assert len(inner) == full == keeping.full
    assert keeping.partial == 6 - full
    plain = NetworkDenoiser(unet, None)(noisy, torch.tensor(700), conditions)
    error = (answers[1] - plain).abs().mean() / plain.abs().mean()
    assert (error < 1e-9) == (reuse == 1)
    # The outer blocks do see the new timestep and the new noise.
    assert (answers[1] - answers[0]).abs().mean() > 1e-4


@torch.inference_mode()
def test_windows_and_branches_keep_their_own_features():
    """At an unchanged input every window and branch must find its own features again."""
    unet = network()
    noisy, conditions = inputs(2, 24, 8)
    windows, timestep = Windows(size=12, overlap=4, multiple=4), torch.tensor(500)
    guidance = PUBLISHED.model_copy(update={"interval": (0.4, 0.9)})

    def build(reuse):
        kept = KeepingDenoiser(NetworkDenoiser(unet, None), reuse=reuse)
        return kept, WindowedDenoiser(GuidedDenoiser(kept, guidance), windows)

    keeping, reused = build(9)
    wanted = build(1)[1](noisy, timestep, conditions)
    reused(noisy, timestep, conditions)
    calls = keeping.full
    assert calls == len(windows.along(24)) > 1
    keeping._clock.timestep = None
    torch.testing.assert_close(reused(noisy, timestep, conditions), wanted, rtol=1e-9, atol=1e-9)
    assert (keeping.full, keeping.partial) == (calls, calls)
    # Outside the interval there is one branch, whose features are new.
    reused(noisy, torch.tensor(100), conditions)
    assert (keeping.full, keeping.partial) == (2 * calls, calls)


@torch.inference_mode()
def test_features_from_before_the_interval_are_too_old_behind_it():
    unet = network()
    noisy, conditions = inputs()
    keeping = KeepingDenoiser(NetworkDenoiser(unet, None), reuse=2)
    guided = GuidedDenoiser(keeping, PUBLISHED.model_copy(update={"interval": (0.2, 0.8)}))
    full = []
    for timestep in (999, 900, 700, 600, 400, 100, 50):
        before = keeping.full
        guided(noisy, torch.tensor(timestep), conditions)
        full.append(keeping.full > before)
    # The fourth is due only by its place; 100 is the first behind the interval.
    assert full == [True, False, True, False, True, True, True]


@torch.inference_mode()
def test_the_rows_of_docs_speed_md():
    """Of 400 evaluations, `balanced` makes 17 whole ones and 13 of the outer blocks."""
    unet = network()
    noisy, conditions = inputs(1)
    card = ModelCard(name="x", channels=4, guidance=PUBLISHED)
    choice = choose(card, "balanced")
    scheduler = make_scheduler(choice.solver, architecture("sd15").scheduler)
    scheduler.set_timesteps(choice.steps)
    keeping = KeepingDenoiser(NetworkDenoiser(unet, None), reuse=choice.reuse)
    guided = GuidedDenoiser(keeping, choice.guidance)
    inner, outer = [], []
    hooks = [
        part.register_forward_hook(lambda _, a, __, rows=rows: rows.append(len(a[0])))
        for part, rows in ((unet.mid_block, inner), (unet.conv_out, outer))
    ]
    for timestep in scheduler.timesteps:
        guided(noisy, timestep, conditions)
    for hook in hooks:
        hook.remove()
    assert (sum(inner), sum(outer)) == (17, 30)
    assert guided.evaluations == 30


@torch.inference_mode()
def test_more_reuse_is_less_work_and_a_little_less_exact(model):
    noisy, conditions = some_conditions(model)
    config = model.scheduler.config

    def run(reuse):
        kept = KeepingDenoiser(model.denoiser, reuse=reuse)
        generators = [torch.Generator().manual_seed(k) for k in range(len(noisy))]
        options = {"config": config, "solver": "dpmpp", "steps": 12, "generators": generators}
        return solve(kept, noisy, conditions, **options), kept.full

    (exact, most), (two, fewer), (six, fewest) = run(1), run(2), run(6)
    assert (most, fewer, fewest) == (12, 6, 2)
    spread = exact.std()
    assert 0 < (two - exact).abs().mean() / spread < 0.5
    assert (two - exact).abs().mean() < (six - exact).abs().mean()


def test_a_network_that_is_built_otherwise_is_refused():
    unet = network(
        {
            **WIDE,
            "down_block_types": ["AttnDownBlock2D", *WIDE["down_block_types"][1:]],
            "up_block_types": [*WIDE["up_block_types"][:2], "AttnUpBlock2D"],
        }
    )
    with pytest.raises(ModelError, match="cannot be reused"):
        KeepingDenoiser(NetworkDenoiser(unet, None), reuse=2)
    noisy, conditions = inputs()
    keeping = KeepingDenoiser(NetworkDenoiser(unet, None))
    with torch.inference_mode():
        got = keeping(noisy, torch.tensor(5), conditions)
        wanted = NetworkDenoiser(unet, None)(noisy, torch.tensor(5), conditions)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


# ---- number formats -------------------------------------------------------------------


def test_another_precision_leaves_the_given_model_alone(model):
    translator = Translator(model, TranslateSettings(precision="bfloat16"))
    assert translator.model.dtype == torch.bfloat16
    assert model.dtype == torch.float32
    assert in_precision(model, "float32") is model
    back = in_precision(translator.model, "float32")
    assert back.dtype == torch.float32


def test_half_precision_is_near_the_picture_and_not_equal(model, photos, tmp_path):
    full = made(model, photos, tmp_path / "a", solver="dpmpp", steps=4)
    half = made(model, photos, tmp_path / "b", solver="dpmpp", steps=4, precision="bfloat16")
    difference = [abs(full[k].astype(float) - half[k]).mean() for k in full]
    assert 0 < max(difference) < 8


def test_the_machine_decides_the_automatic_precision(monkeypatch):
    device = torch.device("cpu")
    for has, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda has=has: {"amx_bf16": has}, raising=False
        )
        assert find_precision("auto", device) == expected
        assert find_precision("float32", device) == torch.float32


# ---- the same picture, whatever stands beside it --------------------------------------


@pytest.mark.parametrize("name", sorted(SPEEDS))
def test_a_picture_depends_on_its_photograph_and_the_seed_alone(double, photos, tmp_path, name):
    steps = {} if name in ("fast", "one-step") else {"steps": 5}
    options = {"speed": name, "precision": "float32", **steps}
    batch = {} if name == "reference" else {"batch_size": 3}
    together = made(double, photos, tmp_path / "together", **options, **batch)
    alone = {}
    for path in sorted(photos.iterdir(), reverse=True):
        alone |= made(double, path, tmp_path / path.stem, **options, batch_size=1)
    assert apart(together, alone) == 0
    assert len({picture.tobytes() for picture in together.values()}) == len(together)


def test_a_run_that_was_cut_off_ends_as_the_whole_one(double, photos, tmp_path):
    options = {"speed": "balanced", "steps": 5, "precision": "float32", "batch_size": 3}
    whole = made(double, photos, tmp_path / "whole", **options)
    made(double, photos, tmp_path / "cut", **options)
    for name in ("1", "2"):
        (tmp_path / "cut" / f"{name}.json").unlink()
    assert apart(whole, made(double, photos, tmp_path / "cut", **options)) == 0


def test_the_sidecar_says_what_decides(model, photos, tmp_path):
    options = {"speed": "balanced", "steps": 2}
    made(model, photos, tmp_path / "out", **options)
    facts = json.loads((tmp_path / "out" / "0.json").read_text())
    assert facts["speed"] == "balanced"
    assert (facts["solver"], facts["steps"], facts["reuse"]) == ("dpmpp", 2, 2)
    assert facts["precision"] == "auto"
    before = (tmp_path / "out" / "0.png").stat().st_mtime_ns
    # The same settings by flags are the same picture; another reuse is another one.
    plain = {"solver": "dpmpp", "steps": 2, "reuse": 2, "precision": "auto"}
    interval = PUBLISHED.model_copy(update={"interval": SPEEDS["balanced"].interval})
    made(model, photos, tmp_path / "out", guidance=interval, **plain)
    assert (tmp_path / "out" / "0.png").stat().st_mtime_ns == before
    made(model, photos, tmp_path / "out", **options, reuse=1)
    assert (tmp_path / "out" / "0.png").stat().st_mtime_ns > before


def test_every_pair_of_speeds_is_another_computation():
    for first, second in itertools.combinations(SPEEDS.values(), 2):
        assert dataclasses.replace(first, summary="") != dataclasses.replace(second, summary="")


# ---- the command line -----------------------------------------------------------------


@pytest.fixture(scope="module")
def model_folder(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.save(folder)
    card = json.loads((folder / "v2ir.json").read_text())
    card["speeds"].pop("one-step")
    (folder / "v2ir.json").write_text(json.dumps(card))
    return folder


def v2ir(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["v2ir", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


def test_flags_go_before_the_speed(model_folder, photos, tmp_path, monkeypatch, capsys):
    call = ["translate", photos / "0.png", tmp_path, "--model", model_folder, "--device", "cpu"]
    call += ["--captions", write_caption(tmp_path / "captions"), "--without", "segmentation"]
    given = ["--speed", "balanced", "--steps", 2, "--guidance", "3,1.5,1.5", "--reuse", 1]
    assert v2ir(monkeypatch, *call, *given) == 0
    facts = json.loads((tmp_path / "0.json").read_text())
    assert (facts["speed"], facts["solver"], facts["steps"]) == ("balanced", "dpmpp", 2)
    assert facts["reuse"] == 1
    assert facts["guidance"]["text"] == 3.0
    assert facts["guidance"]["interval"] == list(SPEEDS["balanced"].interval)
    assert v2ir(monkeypatch, *call, "--speed", "one-step") == 2
    assert "not trained for the speed one-step" in capsys.readouterr().err
    assert v2ir(monkeypatch, *call, "--speed", "quick") == 2
    assert "unknown speed" in capsys.readouterr().err


def write_caption(folder: Path) -> Path:
    folder.mkdir()
    (folder / "0.txt").write_text("a street")
    return folder


def test_pictures_from_text_at_a_speed(model_folder, tmp_path, monkeypatch, capsys):
    call = ["generate", tmp_path, "-p", "a street", "--model", model_folder, "--device", "cpu"]
    given = ["--speed", "balanced", "--steps", 2, "--width", 64, "--height", 64]
    assert v2ir(monkeypatch, *call, *given) == 0
    (sidecar,) = tmp_path.glob("*.json")
    facts = json.loads(sidecar.read_text())
    assert (facts["speed"], facts["steps"], facts["reuse"]) == ("balanced", 2, 2)
    before = sidecar.stat().st_mtime_ns
    assert v2ir(monkeypatch, *call, *given) == 0
    assert sidecar.stat().st_mtime_ns == before
    assert v2ir(monkeypatch, *call, *given, "--precision", "half") == 2
    assert "unknown precision" in capsys.readouterr().err
