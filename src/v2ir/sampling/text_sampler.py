"""The text sampler: one model with its settings, from a text to infrared pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from v2ir.errors import InputError, UnknownNameError
from v2ir.images import from_tensor
from v2ir.model import Conditions, Guidance, Model
from v2ir.sampling.guidance import GuidedDenoiser, check_guidance
from v2ir.sampling.noise import draw_noise, image_generator
from v2ir.sampling.prompts import Prompt
from v2ir.sampling.solvers import FROM_ZEROS, SOLVERS, solve
from v2ir.sampling.translator import windows_for
from v2ir.sampling.windows import WindowedDenoiser

LONGEST_SIDE = 16384
# A solver that starts from zeros gives the mean of all scenes, and every seed the same one.
DRAWING_SOLVER, DRAWING_STEPS = "dpmpp", 20


@dataclasses.dataclass(frozen=True)
class GenerateSettings:
    """What the user may choose; None takes the model's default.

    A model whose default solver leaves no room for chance, such as `mean`, is sampled with
    `dpmpp` in 20 steps instead, unless the user asks for its solver.

    Attributes:
        width: Width of the pictures in pixels; None is the model's resolution.
        height: Height of the pictures in pixels; None is the model's resolution.
        style: Camera style, or `none`.
        seed: Seed of the noise.
        steps: Number of solver steps.
        solver: Name of a row of `SOLVERS`.
        guidance: Scale of the text: 1 is none, more follows the text more closely.
        batch_size: Pictures that run through the network together; by default 1 on a CPU
            and 8 elsewhere.
    """

    width: int | None = None
    height: int | None = None
    style: str | None = None
    seed: int = 0
    steps: int | None = None
    solver: str | None = None
    guidance: float | None = None
    batch_size: int | None = None


class TextSampler:
    """Generates infrared pictures from text with a model under fixed settings.

    A model that knows a visible image and a map as well is given null in their place.

    Attributes:
        model: The model.
        width: Width of the pictures in pixels.
        height: Height of the pictures in pixels.
        style: Name of the camera style, or None for no style.
        seed: Seed of the noise.
        steps: Number of solver steps.
        solver: Name of the solver.
        guidance: Guidance with the text's scale.
        batch_size: Pictures that run through the network together.
        windows: The largest piece that a network is given at once.

    Raises:
        UnknownNameError: If the style or the solver is unknown.
        InputError: If the model does not know text, a size does not fit it, or a number
            is out of range.
    """

    def __init__(self, model: Model, settings: GenerateSettings | None = None) -> None:
        settings = settings or GenerateSettings()
        card = model.card
        self.model = model
        self._style_number = model.style_number(settings.style)
        self.style = card.styles[self._style_number - 1] if self._style_number else None
        default = nearest_side(card.resolution, card.multiple)
        self.width = default if settings.width is None else settings.width
        self.height = default if settings.height is None else settings.height
        self.seed = settings.seed
        draws = card.solver not in FROM_ZEROS
        self.solver = settings.solver or (card.solver if draws else DRAWING_SOLVER)
        takes_over = self.solver == card.solver or draws
        default_steps = card.steps if takes_over else DRAWING_STEPS
        self.steps = default_steps if settings.steps is None else settings.steps
        scale = card.guidance.text if settings.guidance is None else settings.guidance
        self.guidance: Guidance = card.guidance.model_copy(update={"text": scale})
        usual = 1 if model.device.type == "cpu" else 8
        self.batch_size = usual if settings.batch_size is None else settings.batch_size
        self.windows = windows_for(card.resolution, card.factor, card.multiple)
        self._check()

    def _check(self) -> None:
        card = self.model.card
        if "text" not in card.conditions:
            raise InputError(
                f"the model {card.name} was not trained with text",
                got=f"conditions {', '.join(card.conditions) or 'none'}",
                do="give a model that knows text, such as mini",
            )
        if self.solver not in SOLVERS:
            raise UnknownNameError.of("solver", self.solver, SOLVERS)
        check_guidance(self.model.card, self.guidance)
        for what, value in (("steps", self.steps), ("batch size", self.batch_size)):
            if value < 1:
                raise InputError(f"the {what} must be positive", got=str(value))
        if not np.isfinite(self.guidance.text):
            raise InputError("the guidance scale must be a number", got=str(self.guidance.text))
        for what, side in (("width", self.width), ("height", self.height)):
            nearest = nearest_side(side, card.multiple)
            if side != nearest:
                raise InputError(
                    f"the {what} does not fit the model {card.name}",
                    got=f"{side} px",
                    do=f"sides are multiples of {card.multiple} px; the nearest is {nearest}",
                )

    @torch.inference_mode()
    def run(self, batch: Sequence[tuple[Prompt, int]]) -> list[np.ndarray]:
        """Generate pictures together.

        Args:
            batch: For each picture its prompt and its number among the prompt's pictures.

        Returns:
            Infrared pictures, HW float32 in [0, 1]. Each depends on the settings, its
            prompt's text and its number alone.
        """
        card, device = self.model.card, self.model.device
        generators = [self._generator(prompt, number) for prompt, number in batch]
        size = (card.channels, self.height // card.factor, self.width // card.factor)
        latents = solve(
            self._denoiser(),
            draw_noise(generators, *size).to(device, self.model.dtype),
            self._conditions([prompt for prompt, _ in batch]),
            config=self.model.scheduler.config,
            solver=self.solver,
            steps=self.steps,
            generators=generators,
        )
        return list(from_tensor(self.windows.decode(self.model.decode, latents, card.factor)))

    def _generator(self, prompt: Prompt, number: int) -> torch.Generator:
        return image_generator(self.seed, f"prompt:{prompt.hash}:{number}")

    def _denoiser(self) -> WindowedDenoiser:
        steps = self.model.schedule.num_timesteps
        guided = GuidedDenoiser(self.model.denoiser, self.guidance, steps)
        return WindowedDenoiser(guided, self.windows)

    def _conditions(self, prompts: Sequence[Prompt]) -> Conditions:
        number = torch.full((len(prompts),), self._style_number, device=self.model.device)
        return Conditions(
            text=self.model.embed([prompt.text for prompt in prompts]),
            style=number,
            null_text=self.model.embed_prompts([""]),
        )

    def is_cut(self, prompt: Prompt) -> bool:
        """Whether the prompt has more tokens than the model reads; the rest has no effect."""
        text = self.model.card.prompt(prompt.text)
        return (
            len(self.model.tokenizer(text, verbose=False).input_ids) > self.model.card.text_length
        )


def nearest_side(pixels: int, multiple: int) -> int:
    """Return the nearest side that a model can make, a positive multiple of `multiple`."""
    most = LONGEST_SIDE // multiple * multiple
    return min(max(multiple, round(pixels / multiple) * multiple), most)
