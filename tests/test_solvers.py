"""On Gaussian data the best denoiser is known in closed form, so every solver has an answer."""

from __future__ import annotations

import pytest
import torch

from v2ir.errors import InputError, UnknownNameError
from v2ir.model import Conditions, NoiseSchedule, architecture
from v2ir.model.networks import build_scheduler
from v2ir.sampling.solvers import SOLVERS, make_scheduler, solve

MEAN, DEVIATION, NUMBER = -0.7, 0.4, 4096
# First-order stochastic solvers err by the length of a step: they get more of them.
STEPS = {"euler_ancestral": 500}
SCHEDULES = {"published": "sd15", "zero-snr": "mini"}


def gaussian_denoiser(schedule: NoiseSchedule):
    """Return the optimal denoiser for data N(MEAN, DEVIATION^2), element by element."""

    def predict(noisy, timestep, conditions):
        place = float(timestep)
        low = int(place)
        high = min(low + 1, schedule.num_timesteps - 1)
        squared = schedule.alphas_cumprod
        # Solvers may stop between two timesteps; diffusers interpolates sigma there.
        ratio = ((1 - squared) / squared.clamp_min(2**-24)).sqrt()
        sigma_over_alpha = ratio[low] + (place - low) * (ratio[high] - ratio[low])
        alpha = (1 + sigma_over_alpha**2) ** -0.5
        sigma = (1 - alpha**2).clamp_min(0) ** 0.5
        noisy = noisy.double()
        variance = alpha**2 * DEVIATION**2 + sigma**2
        clean = MEAN + alpha * DEVIATION**2 / variance * (noisy - alpha * MEAN)
        noise = (noisy - alpha * clean) / sigma.clamp_min(1e-8)
        if schedule.prediction_type == "epsilon":
            return noise
        return alpha * noise - sigma * clean

    return predict


@pytest.mark.parametrize("schedule_name", SCHEDULES)
# Consistency sampling asks for the end of the path, not for the best guess: see
# test_distillation.py for its exact answer.
@pytest.mark.parametrize("solver", sorted(SOLVERS.keys() - {"lcm"}))
def test_solver_reaches_the_gaussian(solver, schedule_name):
    scheduler = build_scheduler(architecture(SCHEDULES[schedule_name]).scheduler)
    schedule = NoiseSchedule(scheduler.alphas_cumprod, scheduler.config.prediction_type)
    generators = [torch.Generator().manual_seed(index) for index in range(4)]
    noise = torch.stack(
        [torch.randn(1, NUMBER // 64, 64, generator=g, dtype=torch.float64) for g in generators]
    )
    with torch.no_grad():
        samples = solve(
            gaussian_denoiser(schedule),
            noise,
            Conditions(),
            config=scheduler.config,
            solver=solver,
            steps=STEPS.get(solver, 100),
            generators=generators,
        )
    assert samples.mean().item() == pytest.approx(MEAN, abs=0.03)
    assert samples.std().item() == pytest.approx(DEVIATION, rel=0.06)


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_image_does_not_depend_on_its_batch(solver):
    scheduler = build_scheduler(architecture("mini").scheduler)
    schedule = NoiseSchedule(scheduler.alphas_cumprod, scheduler.config.prediction_type)

    def run(seeds):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise = torch.stack([torch.randn(2, 4, 4, generator=g) for g in generators])
        return solve(
            gaussian_denoiser(schedule),
            noise,
            Conditions(),
            config=scheduler.config,
            solver=solver,
            steps=5,
            generators=generators,
        )

    together = run([3, 1, 2])
    for place, seed in enumerate([3, 1, 2]):
        torch.testing.assert_close(together[place], run([seed])[0])


def test_ancestral_euler_uses_the_published_timesteps():
    scheduler = make_scheduler("euler_ancestral", architecture("sd15").scheduler)
    scheduler.set_timesteps(100)
    expected = torch.linspace(999, 0, 100, dtype=torch.float64)
    torch.testing.assert_close(scheduler.timesteps.double(), expected, rtol=0, atol=1e-3)
    assert len(scheduler.sigmas) == 101
    assert scheduler.sigmas[-1] == 0


def test_wrong_use_is_refused():
    scheduler = build_scheduler(architecture("mini").scheduler)
    common = {"config": scheduler.config, "generators": [torch.Generator()]}
    noise = torch.zeros(1, 1, 2, 2)
    with pytest.raises(UnknownNameError, match="dpmpp"):
        solve(None, noise, Conditions(), solver="dpmp", steps=3, **common)
    with pytest.raises(InputError, match="at least one step"):
        solve(None, noise, Conditions(), solver="ddim", steps=0, **common)
    with pytest.raises(InputError, match="at most 50 steps"):
        solve(None, noise, Conditions(), solver="lcm", steps=51, **common)
    with pytest.raises(InputError, match="generator"):
        solve(None, noise.repeat(2, 1, 1, 1), Conditions(), solver="ddim", steps=1, **common)


@pytest.mark.parametrize("schedule_name", SCHEDULES)
def test_one_step_from_zeros_is_the_expectation(schedule_name):
    scheduler = build_scheduler(architecture(SCHEDULES[schedule_name]).scheduler)
    schedule = NoiseSchedule(scheduler.alphas_cumprod, scheduler.config.prediction_type)
    generators = [torch.Generator().manual_seed(index) for index in range(2)]
    noise = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    found = solve(
        gaussian_denoiser(schedule), noise, Conditions(), config=scheduler.config,
        solver="mean", steps=1, generators=generators,
    )  # fmt: skip
    assert found.std() < 1e-9
    assert found.mean().item() == pytest.approx(MEAN, abs=5e-3)


@pytest.mark.parametrize("solver", ["euler", "ddim", "dpmpp", "unipc", "mean"])
@pytest.mark.parametrize("schedule_name", SCHEDULES)
def test_fast_solvers_start_at_the_last_timestep(solver, schedule_name):
    config = build_scheduler(architecture(SCHEDULES[schedule_name]).scheduler).config
    scheduler = make_scheduler(solver, config)
    scheduler.set_timesteps(4)
    assert scheduler.timesteps[0] == 999
