"""The speeds: named sets of settings between the published procedure and one step."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from v2ir.errors import InputError, UnknownNameError
from v2ir.model.card import Guidance, ModelCard, SpeedChoice

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bfloat16", "float16", "int8", "auto"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "float16", "int8", "auto")


@dataclasses.dataclass(frozen=True)
class Speed:
    """How an image is computed. The first group changes the picture, the second does not.

    Attributes:
        summary: What it is, in one line.
        solver: Name of a row of `SOLVERS`; None takes the model's own.
        steps: Number of solver steps; None takes the model's own.
        interval: Part of the timesteps in which guidance acts; None takes the model's own.
        reuse: The network's inner features are computed anew at every n-th step and kept
            in between; 1 keeps nothing. See `v2ir.sampling.network`.
        precision: Number format of the denoising network. `auto` is bfloat16 where the
            device computes it faster than float32, and float32 elsewhere.
        trained: Whether only a model that was trained for so few steps can do it.
        cancelling: Whether evaluations of weight zero are left out. Without, guidance
            always costs four evaluations a step.
        keeping: Whether prompts' embeddings and the conditions' part of the first layer
            are computed once and kept.
        ahead: Whether images are read, annotated and written beside the network. Without,
            one image is done after the other.
        batch_size: Images that run through the network together; None is 1 on a CPU and
            8 elsewhere.
        channels_last: Whether images lie in memory with the channels last; None is so for
            bfloat16, for integers, and for float16 on a CUDA device.
        lean: Whether the parts around the denoiser are computed in their lean form; see
            `v2ir.sampling.lean`.
    """

    summary: str
    solver: str | None = None
    steps: int | None = None
    interval: tuple[float, float] | None = None
    reuse: int = 1
    precision: Precision = "float32"
    trained: bool = False
    cancelling: bool = True
    keeping: bool = True
    ahead: bool = True
    batch_size: int | None = None
    channels_last: bool | None = None
    lean: bool = True


OWN = Speed("the model's own solver and steps, computed as in `exact`")
"""The speed where none is asked for."""

SPEEDS: dict[str, Speed] = {
    "reference": Speed(
        "the published procedure: 100 steps, four evaluations each, one image at a time",
        solver="euler_ancestral",
        steps=100,
        interval=(0.0, 1.0),
        cancelling=False,
        keeping=False,
        ahead=False,
        batch_size=1,
        channels_last=False,
        lean=False,
    ),
    "exact": Speed(
        "the same picture for less work",
        solver="euler_ancestral",
        steps=100,
        interval=(0.0, 1.0),
    ),
    "balanced": Speed(
        "a modern solver, guidance in the middle of the way, inner features used twice",
        solver="dpmpp",
        steps=12,
        interval=(0.1, 0.9),
        reuse=2,
        precision="auto",
    ),
    "fast": Speed(
        "four steps of a model that was trained for it",
        steps=4,
        precision="auto",
        trained=True,
    ),
    "one-step": Speed(
        "one step of a model that was trained for it",
        steps=1,
        precision="auto",
        trained=True,
    ),
}
"""What a model's card says under `speeds` goes before solver, steps, guidance and reuse here."""


def find_speed(name: str | None) -> Speed:
    """Return the speed of a name; None is the model's own solver and steps.

    Raises:
        UnknownNameError: If there is none of that name.
    """
    if name is None:
        return OWN
    if name not in SPEEDS:
        raise UnknownNameError.of("speed", name, SPEEDS)
    return SPEEDS[name]


def choose(card: ModelCard, name: str | None) -> SpeedChoice:
    """Return solver, steps, guidance and reuse of a model at a speed.

    The model's own choice for the speed goes first, then the speed's, then the model's
    defaults. A speed that needs training is also met by a model whose own number of steps
    is as small.

    Raises:
        UnknownNameError: If there is no such speed.
        InputError: If the model was not trained for it.
    """
    speed = find_speed(name)
    own = card.speeds.get(name or "")
    if own is not None:
        return own.model_copy(update={"guidance": own.guidance or card.guidance})
    if speed.trained:
        _check_trained(card, speed, name or "")
        return SpeedChoice(solver=card.solver, steps=card.steps, guidance=card.guidance)
    guidance = card.guidance
    if speed.interval is not None:
        guidance = guidance.model_copy(update={"interval": speed.interval})
    return SpeedChoice(
        solver=speed.solver or card.solver,
        steps=speed.steps or card.steps,
        guidance=guidance,
        reuse=speed.reuse,
    )


def _check_trained(card: ModelCard, speed: Speed, name: str) -> None:
    if card.steps > (speed.steps or 0):
        raise InputError(
            f"the model {card.name} was not trained for the speed {name}",
            got=f"a model of {card.steps} steps of {card.solver}",
            do="distil it with `v2ir train`, or take --speed balanced, or give --steps alone",
        )


def guidance_of(choice: SpeedChoice) -> Guidance:
    """Return the guidance of what `choose` gave."""
    assert choice.guidance is not None, "choose fills it in"
    return choice.guidance


def check_precision(name: str) -> None:
    """Refuse a number format that there is not.

    Raises:
        UnknownNameError: If there is none of that name.
    """
    if name not in PRECISIONS:
        raise UnknownNameError.of("precision", name, PRECISIONS)


def find_precision(wanted: Precision, device: torch.device) -> torch.dtype:
    """Return the number format that is meant on a device; beside integers it is float32.

    `auto` decides by what the processor states, not by a measurement, so that the same
    machine always makes the same picture.

    Raises:
        UnknownNameError: If there is no such format.
    """
    import torch

    check_precision(wanted)
    if wanted != "auto":
        return {
            "float32": torch.float32,
            "bfloat16": torch.bfloat16,
            "float16": torch.float16,
            "int8": torch.float32,
        }[wanted]
    if device.type == "cuda":
        quick = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        quick = device.type == "cpu" and _has_matrix_unit()
    return torch.bfloat16 if quick else torch.float32


def _has_matrix_unit() -> bool:
    """Whether the processor multiplies bfloat16 matrices in hardware.

    Vector instructions alone are quicker than float32, too (docs/speed.md), by less, and a picture
    in bfloat16 depends a little on its batch.
    """
    import torch

    ask = getattr(torch.cpu, "get_capabilities", None)  # absent before torch 2.10
    return bool(ask is not None and ask().get("amx_bf16"))
