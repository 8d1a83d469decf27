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


SOLVERS: dict[str, SchedulerFactory] = {
    "euler_ancestral": _euler_ancestral,
    "euler": _euler,
    "ddim": _ddim,
    "dpmpp": _dpm("dpmsolver++"),
    "dpmpp_sde": _dpm("sde-dpmsolver++"),
    "unipc": _unipc,
}
"""`euler_ancestral` with 100 steps is DiffV2IR's published sampler."""


def make_scheduler(solver: str, config: Mapping[str, Any]) -> Any:
    """Return the diffusers scheduler of a solver for a model's noise schedule.

    Raises:
        UnknownNameError: If there is no solver of that name.
    """
    if solver not in SOLVERS:
        raise UnknownNameError.of("solver", solver, SOLVERS)
    return SOLVERS[solver](dict(config))


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
        InputError: If `steps` is not positive or the generators do not match the batch.
    """
    if steps < 1:
        raise InputError("a solver needs at least one step", got=str(steps))
    if len(generators) != len(noise):
        raise InputError("give one generator an image", got=f"{len(generators)} for {len(noise)}")
    scheduler = make_scheduler(solver, config)
    scheduler.set_timesteps(steps, device=noise.device)
    draws = "generator" in inspect.signature(scheduler.step).parameters
    extra = {"generator": list(generators)} if draws else {}
    latents = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(latents, timestep)
        prediction = denoiser(scaled.to(noise.dtype), timestep, conditions)
        latents = scheduler.step(prediction, timestep, latents, **extra).prev_sample
    return latents
