"""Solvers: diffusers' schedulers, driven over any denoiser with one generator an image."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from v2ir.errors import InputError, UnknownNameError
from v2ir.model.conditions import Conditions
from v2ir.model.denoiser import Denoiser

SchedulerFactory = Callable[[Mapping[str, Any]], Any]


def _euler_ancestral(config: Mapping[str, Any]) -> Any:
    """Ancestral Euler on sigmas evenly spaced in timesteps from 999 to 0, then 0."""
    from diffusers.schedulers.scheduling_euler_ancestral_discrete import (
        EulerAncestralDiscreteScheduler,
    )

    spacing = config.get("timestep_spacing", "linspace")
    # DDPM's own default is "leading", which starts below the last timestep.
    spacing = "trailing" if spacing == "trailing" else "linspace"
    return EulerAncestralDiscreteScheduler.from_config({**config, "timestep_spacing": spacing})


def _euler(config: Mapping[str, Any]) -> Any:
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

    return EulerDiscreteScheduler.from_config({**config, "timestep_spacing": "trailing"})


def _ddim(config: Mapping[str, Any]) -> Any:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    return DDIMScheduler.from_config(
        {**config, "timestep_spacing": "trailing", "clip_sample": False, "set_alpha_to_one": True}
    )


def _dpm(algorithm: str) -> SchedulerFactory:
    def build(config: Mapping[str, Any]) -> Any:
        from diffusers.schedulers.scheduling_dpmsolver_multistep import (
            DPMSolverMultistepScheduler,
        )

        return DPMSolverMultistepScheduler.from_config(
            {
                **config,
                "timestep_spacing": "trailing",
                "algorithm_type": algorithm,
                "final_sigmas_type": "zero",
            }
        )

    return build


def _unipc(config: Mapping[str, Any]) -> Any:
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    return UniPCMultistepScheduler.from_config({**config, "timestep_spacing": "trailing"})


def _lcm(config: Mapping[str, Any]) -> Any:
    """Consistency sampling: jump to the end, noise again, jump; at most 50 steps."""
    from diffusers.schedulers.scheduling_lcm import LCMScheduler

    known = {name: value for name, value in config.items() if name != "variance_type"}
    return LCMScheduler.from_config({**known, "clip_sample": False})


SOLVERS: dict[str, SchedulerFactory] = {
    "euler_ancestral": _euler_ancestral,
    "euler": _euler,
    "ddim": _ddim,
    "dpmpp": _dpm("dpmsolver++"),
    "mean": _ddim,
    "dpmpp_sde": _dpm("sde-dpmsolver++"),
    "unipc": _unipc,
    "lcm": _lcm,
}
"""`euler_ancestral` with 100 steps is DiffV2IR's published sampler.

`mean` starts from zeros: its first step is the network's expectation under the conditions,
with no chance in it; noise comes in after it, and further steps are DDIM's. One step of it
is what a model trained by the objective `end_to_end` is best at.

`lcm` is for models distilled by the objective `consistency`, in 1 to 8 steps or so.
Source: Luo et al. 2023, Algorithm 3.
"""
FROM_ZEROS = frozenset({"mean"})


def make_scheduler(solver: str, config: Mapping[str, Any]) -> Any:
    """Return the diffusers scheduler of a solver for a model's noise schedule.

    Raises:
        UnknownNameError: If there is no solver of that name.
    """
    if solver not in SOLVERS:
        raise UnknownNameError.of("solver", solver, SOLVERS)
    # diffusers puts its own defaults back over what is listed under this key.
    plain = {name: value for name, value in config.items() if name != "_use_default_values"}
    return SOLVERS[solver](plain)


def solve(
    denoiser: Denoiser,
    noise: Tensor,
    conditions: Conditions,
    *,
    config: Mapping[str, Any],
    solver: str,
    steps: int,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Turn noise into clean latents by solving the reverse process.

    Args:
        denoiser: The denoiser, guided or not.
        noise: Standard normal noise, (N, c, h, w).
        conditions: Conditions of the N images.
        config: Configuration of the model's scheduler (`model.scheduler.config`).
        solver: Name of a row of `SOLVERS`.
        steps: Number of steps, 1 or more.
        generators: One generator an image, for solvers that draw noise on the way; an
            image's result so never depends on the others of its batch.

    Returns:
        Clean latents, (N, c, h, w).

    Raises:
        UnknownNameError: If the solver is unknown.
        InputError: If `steps` is not positive or more than the solver has, or if the
            generators do not match the batch.
    """
    if steps < 1:
        raise InputError("a solver needs at least one step", got=str(steps))
    if len(generators) != len(noise):
        raise InputError("give one generator an image", got=f"{len(generators)} for {len(noise)}")
    scheduler = make_scheduler(solver, config)
    most = scheduler.config.get("original_inference_steps", steps)
    if steps > most:
        raise InputError(f"the solver {solver} has at most {most} steps", got=str(steps))
    scheduler.set_timesteps(steps, device=noise.device)
    draws = "generator" in inspect.signature(scheduler.step).parameters
    extra = {"generator": list(generators)} if draws else {}
    zeros = solver in FROM_ZEROS
    latents = torch.zeros_like(noise) if zeros else noise * scheduler.init_noise_sigma
    for place, timestep in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(latents, timestep)
        prediction = denoiser(scaled.to(noise.dtype), timestep, conditions)
        stepped = scheduler.step(prediction, timestep, latents, **extra)
        latents = stepped.prev_sample
        if zeros and place == 0 and steps > 1:
            following = scheduler.timesteps[1].expand(len(noise))
            latents = scheduler.add_noise(stepped.pred_original_sample, noise, following)
    return latents
