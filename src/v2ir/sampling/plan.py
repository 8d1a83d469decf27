"""The plan: a speed with the user's own settings and the model's, ready to denoise."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Protocol

import torch

from v2ir.errors import InputError, UnknownNameError
from v2ir.model import Guidance, Model
from v2ir.model.card import ModelCard
from v2ir.sampling.guidance import GuidedDenoiser
from v2ir.sampling.int8 import with_int8_denoiser
from v2ir.sampling.lean import lean
from v2ir.sampling.network import KeepingDenoiser
from v2ir.sampling.packed import with_packed_denoiser
from v2ir.sampling.solvers import SOLVERS
from v2ir.sampling.speeds import (
    Precision,
    Speed,
    check_precision,
    choose,
    find_precision,
    find_speed,
    guidance_of,
)
from v2ir.sampling.windows import WindowedDenoiser

if TYPE_CHECKING:
    from v2ir.sampling.windows import Windows


class Asked(Protocol):
    """What the user said; None leaves it to the speed and the model."""

    @property
    def speed(self) -> str | None: ...  # noqa: D102

    @property
    def solver(self) -> str | None: ...  # noqa: D102

    @property
    def steps(self) -> int | None: ...  # noqa: D102

    @property
    def guidance(self) -> Guidance | None: ...  # noqa: D102

    @property
    def batch_size(self) -> int | None: ...  # noqa: D102

    @property
    def reuse(self) -> int | None: ...  # noqa: D102

    @property
    def precision(self) -> Precision | None: ...  # noqa: D102


@dataclasses.dataclass(frozen=True)
class Plan:
    """How images are computed.

    Attributes:
        speed: The speed's settings.
        solver: Name of the solver.
        steps: Number of its steps.
        guidance: Scales, nesting and interval.
        reuse: The network's inner features are computed at every n-th step.
        precision: Number format of the denoising network, as asked for; `auto` stays
            `auto` here.
        batch_size: Images that run through the network together; None is 1 on a CPU and
            8 elsewhere.
        without: What the model leaves out at this speed.
    """

    speed: Speed
    solver: str
    steps: int
    guidance: Guidance
    reuse: int
    precision: Precision
    batch_size: int | None
    without: tuple[str, ...]

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            UnknownNameError: If the solver or the precision is unknown.
            InputError: If a number is not positive.
        """
        if self.solver not in SOLVERS:
            raise UnknownNameError.of("solver", self.solver, SOLVERS)
        check_precision(self.precision)
        numbers = {"steps": self.steps, "batch size": self.batch_size, "reuse": self.reuse}
        for what, value in numbers.items():
            if value is not None and value < 1:
                raise InputError(f"the {what} must be positive", got=str(value))

    def batch_for(self, device: torch.device) -> int:
        """Return the number of images that run together on a device."""
        usual = 1 if device.type == "cpu" else 8
        return usual if self.batch_size is None else self.batch_size

    def fitted(self, model: Model) -> Model:
        """Return the model in the form that this plan computes with.

        Raises:
            UnknownNameError: If there is no such number format.
        """
        model = in_precision(model, self.precision)
        return with_packed_denoiser(lean(model)) if self.speed.lean else model

    def denoiser(self, model: Model, windows: Windows) -> WindowedDenoiser:
        """Return a fresh denoiser for one call of `solve`.

        Args:
            model: The model, in the plan's precision.
            windows: The largest piece that its network is given at once.
        """
        half = model.dtype == torch.float16 and model.device.type == "cuda"
        # What the kernels of all three want.
        last = half or model.dtype == torch.bfloat16 or self.precision == "int8"
        wanted = self.speed.channels_last
        network = KeepingDenoiser(
            model.denoiser,
            keeping=self.speed.keeping,
            reuse=self.reuse,
            channels_last=last if wanted is None else wanted,
        )
        guided = GuidedDenoiser(
            network,
            self.guidance,
            model.schedule.num_timesteps,
            cancelling=self.speed.cancelling,
        )
        return WindowedDenoiser(guided, windows)


def find_plan(card: ModelCard, asked: Asked) -> Plan:
    """Return what the user asked for, completed by the speed and the model.

    Raises:
        UnknownNameError: If the speed is unknown.
        InputError: If the model was not trained for the speed.
    """
    speed, choice = find_speed(asked.speed), choose(card, asked.speed)
    return Plan(
        speed=speed,
        solver=asked.solver or choice.solver,
        steps=choice.steps if asked.steps is None else asked.steps,
        guidance=asked.guidance or guidance_of(choice),
        reuse=choice.reuse if asked.reuse is None else asked.reuse,
        precision=asked.precision or speed.precision,
        batch_size=speed.batch_size if asked.batch_size is None else asked.batch_size,
        without=choice.without,
    )


def in_precision(model: Model, precision: Precision) -> Model:
    """Return the model with its denoising network in another number format.

    The given model keeps its own; a copy of the network is made where the format differs.
    A network of float64 is not narrowed to float32.

    Raises:
        UnknownNameError: If there is no such format.
        InputError: If the device does not compute in it.
    """
    dtype, whole = find_precision(precision, model.device), precision == "int8"
    if dtype != model.dtype and (whole or (dtype, model.dtype) != (torch.float32, torch.float64)):
        network = torch.nn.Module.to(copy.deepcopy(model.unet), dtype)
        model = dataclasses.replace(model, unet=network)
    return with_int8_denoiser(model) if whole else model


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the format of the solver's numbers: float32, or the network's if that is wider."""
    return torch.promote_types(dtype, torch.float32)
