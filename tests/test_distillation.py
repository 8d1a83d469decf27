"""Distillation: a student that starts as its teacher, and comes nearer to it in few steps."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, LatentConsistencyModelPipeline, LCMScheduler
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from training_pieces import make_objective, ready_to_train
from training_pieces import pooled as means
from v2ir.errors import InputError, ModelError
from v2ir.images import to_tensor
from v2ir.model import (
    CONDITION_NAMES,
    Conditions,
    Guidance,
    GuidanceRange,
    NetworkDenoiser,
    NoiseSchedule,
    add_guidance_embedding,
    architecture,
    build_model,
    embed_scales,
    load_model,
    takes_scales,
)
from v2ir.model.networks import build_scheduler, encode_mode
from v2ir.model.small_decoder import SmallDecoder
from v2ir.sampling import GuidedDenoiser, TranslateSettings, Translator, solve
from v2ir.training import Recipe, Stage, TrainSettings, train
from v2ir.training.objectives import Draw
from v2ir.training.objectives.consistency import (
    boundary_scalings,
    ddim_step,
    pseudo_huber,
)
from v2ir.training.objectives.objective import read_part
from v2ir.training.objectives.teacher import guided_prediction
from v2ir.training.scenes import training_scenes

RANGE = GuidanceRange(text=(1.0, 4.0), visible=(1.0, 2.0), segmentation=(1.0, 2.0))
SMALL = {"crop": 32, "variants": 2, "batch_size": 4, "drop_style": 0.0, "guidance_range": RANGE}


@pytest.fixture
def data(make_pairs):
    return ready_to_train(make_pairs(6, width=48, height=40))


def tiny_model(seed=0, schedule=None, **facts):
    """Build a tiny model whose conditions have an effect from the start."""
    shape = architecture("tiny")
    if schedule:
        shape = shape.model_copy(update={"scheduler": schedule})
    values = {
        "resolution": 32,
        "multiple": 16,
        "solver": "ddim",
        "steps": 8,
        "guidance": Guidance(text=3.0, visible=1.5, segmentation=1.5),
        "latent_mean": (0.0,) * 4,
        "latent_std": (1.0,) * 4,
        **facts,
    }
    model = build_model(shape, name="teacher", seed=seed, styles=("street",), **values)
    with torch.no_grad():
        model.unet.class_embedding.weight.normal_(generator=torch.Generator().manual_seed(1))
        model.unet.conv_in.weight[:, 4:] *= 3
    return model


def some_conditions(model, number=3, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    return Conditions(
        visible=draw(number, 4, 4, 4),
        segmentation=draw(number, 4, 4, 4),
        text=draw(number, model.card.text_length, 16),
        style=torch.ones(number, dtype=torch.long),
        null_text=draw(1, model.card.text_length, 16),
    )


def saved_teacher(data, folder, push=0.0):
    """Save a tiny model whose latents of the data have unit variance; load it again.

    With a `push` its answer to noise is one thing and the end of its path another: with a
    constant answer c of v, one step ends at -c and four of 22.5 degrees at -1.36 c.
    """
    model = tiny_model()
    with torch.no_grad():
        model.unet.conv_out.bias += push
    pictures = [read_part(item, "infrared")[:32, :32] for item in training_scenes(data)]
    latents = model.encode_target(torch.stack([to_tensor(p) for p in pictures]))
    channels = latents.transpose(0, 1).flatten(1)
    facts = {"latent_mean": channels.mean(dim=1), "latent_std": channels.std(dim=1)}
    update = {name: tuple(value.tolist()) for name, value in facts.items()}
    model.card = model.card.model_copy(update=update)
    model.save(folder)
    return load_model(folder)


def real_conditions(model, data):
    """Return the conditions of four scenes."""
    items = training_scenes(data)[:4]
    parts = [
        torch.stack([to_tensor(read_part(item, part)[:32, :32]) for item in items])
        for part in ("visible", "segmentation")
    ]
    captions = [item.captions[0] for item in items]
    style = torch.ones(4, dtype=torch.long)
    return model.conditions(visible=parts[0], segmentation=parts[1], captions=captions, style=style)


def objective_of(name, model, data, pooled=True, **changes):
    def encode(images):
        return means(images) if pooled else encode_mode(model.autoencoder, images)

    stage = Stage(**{"name": "s", "objective": name, "steps": 1, **SMALL, **changes})
    made, scenes = make_objective(data, model, stage, encode)
    return made, made.batch(scenes[:4], [Draw(i, np.random.default_rng(i)) for i in range(4)])


# The embedding.


def test_a_widened_network_answers_exactly_as_before():
    model, noisy = tiny_model(), torch.randn(3, 4, 4, 4)
    told = some_conditions(model)
    widened = add_guidance_embedding(model.unet)
    assert takes_scales(widened) and not takes_scales(model.unet)
    timesteps = torch.tensor([0, 500, 999])
    scales = torch.tensor([[7.5, 1.5, 1.5], [1.0, 1.0, 1.0], [3.0, 2.0, 1.0]])
    with torch.no_grad():
        old = NetworkDenoiser(model.unet, None)(noisy, timesteps, told)
        for with_scales in (told, dataclasses.replace(told, scales=scales)):
            new = NetworkDenoiser(widened, None)(noisy, timesteps, with_scales)
            assert torch.equal(old, new)
        widened.time_embedding.cond_proj.weight.normal_()
        moved = NetworkDenoiser(widened, None)(noisy, timesteps, with_scales)
    # Scales of 1, the second image's, are no guidance whatever the weights are.
    assert torch.equal(moved[1], old[1])
    assert not torch.allclose(moved[0], old[0])
    assert not torch.allclose(moved[2], old[2])


def test_a_network_cannot_be_told_what_it_does_not_know():
    model = tiny_model()
    told = dataclasses.replace(some_conditions(model), scales=torch.ones(3, 3))
    with pytest.raises(ValueError, match="cannot be told"):
        NetworkDenoiser(model.unet, None)(torch.randn(3, 4, 4, 4), torch.tensor(5), told)
    single = copy.deepcopy(model.unet)
    single.register_to_config(time_cond_proj_dim=256)
    with pytest.raises(ModelError, match="three guidance scales"):
        add_guidance_embedding(single)


@hypothesis_settings(max_examples=20)
@given(st.lists(st.floats(1.0, 12.0), min_size=3, max_size=3))
def test_the_embedding_is_the_published_one_of_each_scale(scales):
    published = LatentConsistencyModelPipeline.get_guidance_scale_embedding
    expected = [
        published(None, torch.tensor([s]), 32) - published(None, torch.tensor([1.0]), 32)
        for s in scales
    ]
    made = embed_scales(torch.tensor([scales]), 96)
    torch.testing.assert_close(made, torch.cat(expected, dim=1), rtol=0, atol=5e-3)


def test_a_folder_keeps_the_embedding_and_its_range(tmp_path):
    model = tiny_model()
    model.unet = add_guidance_embedding(model.unet, 16)
    with torch.no_grad():
        model.unet.time_embedding.cond_proj.weight.normal_()
    model.card = model.card.model_copy(update={"guidance_range": RANGE})
    model.save(tmp_path / "m")
    again = load_model(tmp_path / "m")
    assert again.card.guidance_range == RANGE
    told = dataclasses.replace(some_conditions(model), scales=torch.full((3, 3), 2.0))
    noisy = torch.randn(3, 4, 4, 4)
    with torch.no_grad():
        made = [m.denoiser(noisy, torch.tensor(700), told) for m in (model, again)]
    assert torch.equal(*made)
    values = json.loads((tmp_path / "m" / "v2ir.json").read_text())
    (tmp_path / "m" / "v2ir.json").write_text(json.dumps({**values, "guidance_range": None}))
    with pytest.raises(ModelError, match="folded guidance"):
        load_model(tmp_path / "m")


# The teacher.


@pytest.mark.parametrize("nesting", ["paper", "released"])
@pytest.mark.parametrize("gone", [(), ("text",), ("segmentation", "visible")])
def test_every_image_is_guided_by_its_own_scales(nesting, gone):
    model = tiny_model()
    told = some_conditions(model).without(*gone)
    noisy, timesteps = torch.randn(3, 4, 4, 4), torch.tensor([20, 600, 999])
    scales = torch.tensor([[7.5, 1.5, 1.5], [1.0, 1.0, 1.0], [3.0, 2.0, 1.2]])
    denoiser = NetworkDenoiser(model.unet, None)
    with torch.no_grad():
        made = guided_prediction(denoiser, noisy, timesteps, told, scales, nesting)
        for place, row in enumerate(scales.tolist()):
            guidance = Guidance(**dict(zip(CONDITION_NAMES, row, strict=True)), nesting=nesting)
            alone = GuidedDenoiser(denoiser, guidance)(noisy, timesteps[place], told)
            torch.testing.assert_close(made[place], alone[place], rtol=1e-4, atol=1e-5)


def test_evaluations_without_weight_are_left_out():
    rows = []

    def denoiser(noisy, timesteps, conditions):
        rows.append(len(noisy))
        return noisy

    told, noisy = some_conditions(tiny_model()), torch.randn(3, 4, 4, 4)
    for scales, expected in (([1, 1, 1], 3), ([2, 1, 1], 6), ([2, 1.5, 1.5], 9), ([3, 2, 1.5], 12)):
        wanted = torch.tensor([scales] * 3, dtype=torch.float32)
        made = guided_prediction(denoiser, noisy, torch.tensor([1, 2, 3]), told, wanted, "paper")
        torch.testing.assert_close(made, noisy)
        assert rows.pop() == expected


# Folding guidance in.


def test_the_student_has_nothing_to_learn_at_scales_of_one(data):
    ones = GuidanceRange(text=(1, 1), visible=(1, 1), segmentation=(1, 1))
    plain = Guidance(text=1.0, visible=1.0, segmentation=1.0)
    made, batch = objective_of(
        "guidance_distillation", tiny_model(guidance=plain), data, guidance_range=ones
    )
    assert made.loss(batch).item() == 0.0
    model = tiny_model()
    made, batch = objective_of("guidance_distillation", model, data)
    assert made.loss(batch).item() > 1e-6
    assert batch.scales.shape == (4, 3)
    assert (batch.scales[:, 0] <= 4).all() and (batch.scales >= 1).all()
    assert len(batch.scales.unique()) == 12


def test_a_teacher_with_folded_guidance_is_its_student_at_every_scale(data):
    model = tiny_model()
    model.unet = add_guidance_embedding(model.unet, 16)
    with torch.no_grad():
        model.unet.time_embedding.cond_proj.weight.normal_()
    model.card = model.card.model_copy(update={"guidance_range": RANGE})
    made, batch = objective_of("guidance_distillation", model, data)
    assert made.loss(batch).item() == 0.0


def test_adapters_train_the_embedding_too(data):
    made, batch = objective_of("guidance_distillation", tiny_model(), data, lora_rank=2)
    made.loss(batch).backward()
    assert made.modules["guidance"].weight.grad.abs().sum() > 0
    trained = {name for name, p in made.model.unet.named_parameters() if p.requires_grad}
    assert trained and all("lora" in name or "cond_proj" in name for name in trained)
    made.finish([])
    assert takes_scales(made.model.unet)
    assert not [name for name, _ in made.model.unet.named_parameters() if "lora" in name]


def test_what_cannot_be_taught_is_refused(data):
    with pytest.raises(InputError, match="denoiser alone"):
        objective_of("guidance_distillation", tiny_model(), data, trains=("unet", "text_encoder"))
    with pytest.raises(InputError, match=r"default guidance.*text 7\.5, taught 1 to 4"):
        objective_of("consistency", tiny_model(guidance=Guidance()), data)
    model = tiny_model()
    model.unet = add_guidance_embedding(model.unet)
    model.card = model.card.model_copy(update={"guidance_range": RANGE})
    wider = RANGE.model_copy(update={"text": (1.0, 9.0)})
    with pytest.raises(InputError, match=r"text 1 to 9, taught 1 to 4"):
        objective_of("consistency", model, data, guidance_range=wider)


# Consistency.


def test_the_boundary_is_that_of_the_solver():
    scheduler = LCMScheduler()
    timesteps = torch.arange(0, 1000, 7)
    skip, out = boundary_scalings(timesteps, torch.zeros(1, dtype=torch.float64))
    for t, a, b in zip(timesteps.tolist(), skip.tolist(), out.tolist(), strict=True):
        expected = scheduler.get_scalings_for_boundary_condition_discrete(t)
        assert (a, b) == pytest.approx(expected, rel=1e-12)
    assert (skip[0], out[0]) == (1.0, 0.0)


def test_at_the_smallest_timestep_the_answer_is_the_latent_itself(data):
    made, _ = objective_of("consistency", tiny_model(), data)
    noisy = torch.randn(3, 4, 4, 4)
    answer = made.answer(made.model.unet, noisy, torch.zeros(3).long(), some_conditions(made.model))
    assert torch.equal(answer, noisy)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", ["sd15", "mini"])
def test_a_step_along_the_path_is_that_of_ddim(name, kind):
    if kind == "epsilon" and name == "mini":
        pytest.skip("a noise tells nothing where there is no signal")
    config = {**architecture(name).scheduler, "prediction_type": kind}
    ours = NoiseSchedule(build_scheduler(config).alphas_cumprod, kind)
    reference = DDIMScheduler(**{**config, "set_alpha_to_one": False, "steps_offset": 0})
    reference.set_timesteps(50)
    noisy, prediction = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    for late in (999, 499, 39):
        expected = reference.step(prediction, late, noisy).prev_sample
        start = torch.full((2,), late)
        made = ddim_step(ours, noisy, prediction, start, start - 20)
        torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)


@hypothesis_settings(max_examples=20)
@given(st.floats(1e-4, 1.0))
def test_the_loss_lies_between_squares_and_lines(width):
    d = torch.linspace(-3, 3, 31, dtype=torch.float64)
    assert pseudo_huber(d, d, width) == 0
    each = torch.stack([pseudo_huber(x[None], 0 * x[None], width) for x in d])
    assert (each <= d.abs() + 1e-12).all()
    assert (each <= d.square() / (2 * width) + 1e-12).all()
    assert (each >= d.abs() - width - 1e-12).all()


def test_without_a_width_the_loss_is_the_squared_error():
    a, b = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(pseudo_huber(a, b, 0.0), F.mse_loss(a, b))


MEAN, DEVIATION = -0.7, 0.4


def consistent_denoiser(schedule):
    """Return predictions that lead to the end of a Gaussian's path, which is known."""

    def predict(noisy, timestep, conditions):
        squared = float(schedule.alphas_cumprod[int(timestep)])
        alpha, sigma = squared**0.5, (1 - squared) ** 0.5
        spread = (alpha**2 * DEVIATION**2 + sigma**2) ** 0.5
        clean = MEAN + DEVIATION / spread * (noisy - alpha * MEAN)
        return (alpha * noisy - clean) / sigma

    return predict


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_jumps_reach_the_gaussian_in_any_number_of_steps(steps):
    scheduler = build_scheduler(architecture("mini").scheduler)
    schedule = NoiseSchedule(scheduler.alphas_cumprod, "v_prediction")
    generators = [torch.Generator().manual_seed(place) for place in range(4)]
    noise = torch.stack([torch.randn(1, 64, 64, generator=g) for g in generators])
    samples = solve(
        consistent_denoiser(schedule),
        noise,
        Conditions(),
        config=scheduler.config,
        solver="lcm",
        steps=steps,
        generators=generators,
    )
    assert samples.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert samples.std().item() == pytest.approx(DEVIATION, rel=0.03)


def test_the_loss_is_that_of_the_published_way(data):
    model = tiny_model()
    made, batch = objective_of("consistency", model, data, huber=0.0)
    conditions = made.conditions(batch)
    noisy = made.schedule.add_noise(batch.clean, batch.noise, batch.timesteps)
    jump = LCMScheduler.from_config(model.scheduler.config)
    path = DDIMScheduler.from_config(model.scheduler.config, set_alpha_to_one=False)
    path.set_timesteps(50)
    losses = []
    with torch.no_grad():
        for place, late in enumerate(batch.timesteps.tolist()):
            own = slice(place, place + 1)
            row = batch.scales[place].tolist()
            guidance = Guidance(**dict(zip(CONDITION_NAMES, row, strict=True)))
            guided = GuidedDenoiser(made.teacher.denoiser, guidance)
            told = one_image(conditions, own, batch.scales)
            clear = dataclasses.replace(told, scales=None)
            early, x = max(late - 20, 0), noisy[own]
            start = torch.tensor(late)
            nearer = path.step(guided(x, start, clear), late, x).prev_sample
            ends = []
            for t, at in ((late, x), (early, nearer)):
                prediction = NetworkDenoiser(model.unet, None)(at, torch.tensor(t), told)
                alpha = jump.alphas_cumprod[t] ** 0.5
                clean = alpha * at - (1 - alpha**2) ** 0.5 * prediction
                skip, out = jump.get_scalings_for_boundary_condition_discrete(t)
                ends.append(skip * at + out * clean)
            losses.append(F.mse_loss(*ends))
        loss = made.loss(batch)
    torch.testing.assert_close(loss, torch.stack(losses).mean(), rtol=1e-3, atol=1e-6)


def one_image(conditions, own, scales):
    """Return the conditions of one image of a batch, which is not guided as a batch is."""
    parts = {
        name: getattr(conditions, name)[own]
        for name in ("visible", "segmentation", "text", "style")
        if getattr(conditions, name) is not None
    }
    return dataclasses.replace(conditions, **parts, scales=scales[own])


def test_the_target_follows_the_student_without_gradients(data):
    made, batch = objective_of("consistency", tiny_model(), data, target_decay=0.75)
    made.loss(batch).backward()
    first = next(made.model.unet.parameters())
    before = first.detach().clone()
    with torch.no_grad():
        first.add_(1.0)
    made.loss(batch)
    target = next(made.target.parameters())
    torch.testing.assert_close(target, before + 0.25)
    assert all(p.grad is None for p in made.target.parameters())
    assert all(p.grad is None for p in made.teacher.denoiser.unet.parameters())
    assert first.grad.abs().sum() > 0


def test_stops_lie_on_the_solvers_timesteps(data):
    made, _ = objective_of("consistency", tiny_model(), data)
    draws = [Draw(i, np.random.default_rng(i)) for i in range(400)]
    scheduler = LCMScheduler()
    scheduler.set_timesteps(50)
    assert set(made._timesteps(draws).tolist()) == set(scheduler.timesteps.tolist())


# The whole way.


def distilled_recipe(steps, **changes):
    common = {**SMALL, "learning_rate": 5e-4, "checkpoint_every": 4, "average_decay": 0.8}
    return Recipe(
        name="d",
        architecture="tiny",
        stages=(
            Stage(name="guidance", objective="guidance_distillation", steps=steps, **common),
            Stage(
                name="consistency", objective="consistency", steps=steps, **{**common, **changes}
            ),
        ),
    )


def in_steps(model, denoiser, solver, steps, noise, told):
    generators = [torch.Generator().manual_seed(i) for i in range(len(noise))]
    with torch.no_grad():
        return solve(
            denoiser, noise, told, config=model.scheduler.config, solver=solver, steps=steps,
            generators=generators,
        )  # fmt: skip


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@torch.no_grad()
def disagreement(teacher, data, student):
    """Return how far a student's answers at neighbours on a teacher's path are apart."""
    copied = dataclasses.replace(teacher, unet=copy.deepcopy(teacher.unet))
    made, batch = objective_of("consistency", copied, data, pooled=False, target_decay=0.0)
    made.model.unet.load_state_dict(student.unet.state_dict())
    return made.loss(batch).item()


def test_a_distilled_model_comes_nearer_to_its_teacher(data, tmp_path):
    teacher = saved_teacher(data, tmp_path / "teacher")
    settings = TrainSettings(data, tmp_path / "run", (), str(tmp_path / "teacher"))
    student = load_model(train(distilled_recipe(30, noise_shift=3.0), settings))
    folded = load_model(tmp_path / "run" / "models" / "guidance")
    told = real_conditions(teacher, data)
    noise = torch.randn(4, 4, 4, 4, generator=torch.Generator().manual_seed(5))

    guided = GuidedDenoiser(teacher.denoiser, teacher.card.guidance)
    wanted = in_steps(teacher, guided, "ddim", 8, noise, told)

    told_scales = GuidedDenoiser(folded.denoiser, teacher.card.guidance)
    made = in_steps(folded, told_scales, "ddim", 8, noise, told)
    assert told_scales.evaluations == 4 * 8
    # One evaluation a step of the teacher is the one without guidance.
    alone = GuidedDenoiser(teacher.denoiser, Guidance(text=1.0, visible=1.0, segmentation=1.0))
    unguided = F.mse_loss(in_steps(teacher, alone, "ddim", 8, noise, told), wanted).item()
    assert F.mse_loss(made, wanted).item() < 0.9 * unguided
    before, after = disagreement(folded, data, folded), disagreement(folded, data, student)
    assert after < before


def test_a_distilled_model_is_told_how_to_run(data, tmp_path):
    made, _ = objective_of("consistency", tiny_model(), data)
    made.finish([])
    made.model.save(tmp_path / "student")
    student = load_model(tmp_path / "student")
    assert (student.card.solver, student.card.steps) == ("lcm", 4)
    assert {name: c.steps for name, c in student.card.speeds.items()} == {"fast": 4, "one-step": 1}
    assert student.card.guidance == Guidance(text=3.0, visible=1.5, segmentation=1.5)
    assert student.card.guidance_range == RANGE
    translator = Translator(student)
    assert (translator.solver, translator.steps) == ("lcm", 4)
    assert translator.translate_pixels(np.zeros((40, 48, 3), np.uint8)).shape == (40, 48)
    with pytest.raises(InputError, match=r"text 9, taught 1 to 4"):
        Translator(student, TranslateSettings(guidance=Guidance(text=9.0)))
    other = Guidance(text=2.0, visible=1.5, segmentation=1.2, nesting="released")
    with pytest.raises(InputError, match="nesting"):
        Translator(student, TranslateSettings(guidance=other))
    tied = other.model_copy(update={"segmentation": 1.5})
    assert Translator(student, TranslateSettings(guidance=tied)).guidance == tied


@pytest.mark.parametrize("changes", [{}, {"target_decay": 0.0, "lora_rank": 2}])
def test_a_continued_stage_ends_with_the_same_weights(data, tmp_path, changes):
    saved_teacher(data, tmp_path / "teacher")
    recipe = distilled_recipe(8, **changes)
    ends = []
    for name in ("whole", "broken"):
        run = tmp_path / name
        settings = TrainSettings(data, run, (), str(tmp_path / "teacher"))
        if name == "broken":
            with pytest.raises(KeyboardInterrupt):
                train(recipe, settings, interrupting("consistency", 6))
            assert not (run / "models" / "consistency").exists()
        ends.append(load_model(train(recipe, settings)))
    assert same(ends[0].unet, ends[1].unet)
    assert not same(ends[0].unet, load_model(tmp_path / "whole" / "models" / "guidance").unet)


def interrupting(stage, step):
    """Return progress functions that stop a stage at a step."""

    def for_stage(name):
        def progress(done, total):
            if name == stage and total == 8 and done == step:
                raise KeyboardInterrupt

        return progress

    return for_stage


def test_one_step_comes_nearer_to_the_middle_of_the_teachers_pictures(data, tmp_path):
    teacher = saved_teacher(data, tmp_path / "teacher", push=3.0)
    stage = Stage(
        name="one_step", objective="one_step", steps=30, learning_rate=1e-3, average_decay=0.8,
        teacher_steps=4, end_to_end=1.0, **SMALL,
    )  # fmt: skip
    recipe = Recipe(name="d", architecture="tiny", stages=(stage,))
    settings = TrainSettings(data, tmp_path / "run", (), str(tmp_path / "teacher"))
    student = load_model(train(recipe, settings))
    told = real_conditions(teacher, data)
    guided = GuidedDenoiser(teacher.denoiser, teacher.card.guidance)
    noises = torch.randn(8, 4, 4, 4, 4, generator=torch.Generator().manual_seed(5))
    many = torch.stack([in_steps(teacher, guided, "ddim", 4, noise, told) for noise in noises])

    def distance(model, denoiser):
        made = in_steps(model, denoiser, "mean", 1, torch.zeros(4, 4, 4, 4), told)
        return F.l1_loss(made, many.mean(dim=0)).item()

    plain = GuidedDenoiser(student.denoiser, student.card.guidance)
    assert distance(student, plain) < 0.8 * distance(teacher, guided)
    assert plain.evaluations == 4
    assert (student.card.solver, student.card.steps) == ("mean", 1)
    assert student.card.guidance.text == 1.0


def test_a_small_decoder_learns_the_autoencoders_pictures(data, tmp_path):
    teacher = saved_teacher(data, tmp_path / "teacher")
    stage = Stage(
        name="decoder", objective="decoder_distillation", scenes="infrared", conditions=(),
        trains=("decoder",), crop=32, batch_size=2, steps=30, learning_rate=3e-3,
        average_decay=0.5, structure=0.1, adversarial=0.05, features=1.0, checkpoint_every=10,
        decoder_widths=(8, 8, 8, 8), decoder_blocks=(1, 1, 1, 1),
    )  # fmt: skip
    recipe = Recipe(name="d", architecture="tiny", stages=(stage,))
    settings = TrainSettings(data, tmp_path / "run", (), str(tmp_path / "teacher"))
    student = load_model(train(recipe, settings))
    assert student.decoder.config == {"latents": 4, "widths": [8] * 4, "blocks": [1] * 4}
    assert same(student.autoencoder, teacher.autoencoder)
    assert same(student.unet, teacher.unet)
    latents = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    made, wanted = student.decode(latents), teacher.decode(latents)
    assert made.shape == wanted.shape == (2, 3, 32, 32)
    assert torch.equal(made[:, 0], made[:, 1])
    untrained = SmallDecoder(4, (8,) * 4, (1,) * 4)
    grey = wanted.mean(dim=1, keepdim=True)
    with torch.no_grad():
        before = F.l1_loss(untrained(latents), grey).item()
    assert F.l1_loss(made[:, :1], grey).item() < 0.7 * before
    assert Translator(student).translate_pixels(np.zeros((40, 48, 3), np.uint8)).shape == (40, 48)
    student.decoder = SmallDecoder(4, (8, 8), (1, 1))
    student.save(tmp_path / "wrong")
    with pytest.raises(ModelError, match="factor"):
        load_model(tmp_path / "wrong")
    with pytest.raises(ModelError, match="as many widths"):
        SmallDecoder(4, (8, 8), (1,))


def test_there_must_be_a_model_to_distil(data, tmp_path):
    with pytest.raises(InputError, match="--from MODEL"):
        train(distilled_recipe(2), TrainSettings(data, tmp_path / "run"))
