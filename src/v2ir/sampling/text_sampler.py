"""The text sampler: one model with its settings, from a text to infrared pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from v2ir.errors import InputError
from v2ir.images import from_tensor
from v2ir.model import Conditions, Model
from v2ir.sampling.guidance import check_guidance
from v2ir.sampling.noise import draw_noise, image_generator
from v2ir.sampling.plan import Plan, find_plan, wide
from v2ir.sampling.prompts import Prompt
from v2ir.sampling.solvers import FROM_ZEROS, solve
from v2ir.sampling.speeds import Precision, choose, guidance_of
from v2ir.sampling.translator import TranslateSettings, windows_for

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
        negative_prompt: Text that guidance leads away from, in place of the empty one.
        batch_size: Pictures that run through the network together; by default 1 on a CPU
            and 8 elsewhere.
        speed: Name of a row of `SPEEDS`; it sets what is not given elsewhere.
        reuse: The network's inner features are computed at every n-th step.
        precision: Number format of the denoising network.
    """

    width: int | None = None
    height: int | None = None
    style: str | None = None
    seed: int = 0
    steps: int | None = None
    solver: str | None = None
    guidance: float | None = None
    negative_prompt: str | None = None
    batch_size: int | None = None
    speed: str | None = None
    reuse: int | None = None
    precision: Precision | None = None


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
        negative_prompt: Text that guidance leads away from, or None for the empty one.
        batch_size: Pictures that run through the network together.
        speed: Name of the speed that was asked for, or None.
        plan: How pictures are computed at that speed.
        windows: The largest piece that a network is given at once.

    Raises:
        UnknownNameError: If the style, the speed, the solver or the precision is unknown.
        InputError: If the model does not know text, a size does not fit it, a number is
            out of range, the speed leaves no room for chance, or a negative prompt would have
            no effect.
    """

    def __init__(self, model: Model, settings: GenerateSettings | None = None) -> None:
        settings = settings or GenerateSettings()
        card = model.card
        self._style_number = model.style_number(settings.style)
        self.style = card.styles[self._style_number - 1] if self._style_number else None
        default = nearest_side(card.resolution, card.multiple)
        self.width = default if settings.width is None else settings.width
        self.height = default if settings.height is None else settings.height
        self.seed = settings.seed
        self.speed = settings.speed
        self.plan = _drawing_plan(model, settings)
        self.model = self.plan.fitted(model)
        self.steps, self.solver = self.plan.steps, self.plan.solver
        self.guidance = self.plan.guidance
        self.negative_prompt = (settings.negative_prompt or "").strip() or None
        self.batch_size = self.plan.batch_for(model.device)
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
        check_guidance(self.model.card, self.guidance)
        self.plan.check()
        if not np.isfinite(self.guidance.text):
            raise InputError("the guidance scale must be a number", got=str(self.guidance.text))
        if self.negative_prompt is not None:
            self._check_negative()
        for what, side in (("width", self.width), ("height", self.height)):
            nearest = nearest_side(side, card.multiple)
            if side != nearest:
                raise InputError(
                    f"the {what} does not fit the model {card.name}",
                    got=f"{side} px",
                    do=f"sides are multiples of {card.multiple} px; the nearest is {nearest}",
                )

    def _check_negative(self) -> None:
        card = self.model.card
        if card.guidance_range is not None:
            raise InputError(
                f"the model {card.name} has guidance folded in and takes no negative prompt",
                got=str(self.negative_prompt),
                do="give the model that it was distilled from",
            )
        if self.guidance.text <= 1:
            raise InputError(
                "a negative prompt has no effect without guidance",
                got=f"the guidance scale {self.guidance.text:g}",
                do="give a --guidance above 1",
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
        card = self.model.card
        generators = [self._generator(prompt, number) for prompt, number in batch]
        size = (card.channels, self.height // card.factor, self.width // card.factor)
        latents = solve(
            self.plan.denoiser(self.model, self.windows),
            draw_noise(generators, *size).to(self.model.device, wide(self.model.dtype)),
            self._conditions([prompt for prompt, _ in batch]),
            config=self.model.scheduler.config,
            solver=self.solver,
            steps=self.steps,
            generators=generators,
        )
        return list(from_tensor(self.windows.decode(self.model.decode, latents, card.factor)))

    def _generator(self, prompt: Prompt, number: int) -> torch.Generator:
        return image_generator(self.seed, f"prompt:{prompt.hash}:{number}")

    def _conditions(self, prompts: Sequence[Prompt]) -> Conditions:
        number = torch.full((len(prompts),), self._style_number, device=self.model.device)
        return Conditions(
            text=self.model.embed([prompt.text for prompt in prompts]),
            style=number,
            null_text=self._null_text(),
        )

    def _null_text(self) -> torch.Tensor:
        """Return what guidance leads away from, (1, L, D)."""
        if self.negative_prompt is None:
            return self.model.embed_prompts([""])
        return self.model.embed([self.negative_prompt])

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


def _drawing_plan(model: Model, settings: GenerateSettings) -> Plan:
    """Return the plan, with a solver that draws unless the user names another."""
    card, solver, steps = model.card, settings.solver, settings.steps
    chosen = choose(card, settings.speed)
    if chosen.solver in FROM_ZEROS and solver != chosen.solver:
        if settings.speed is not None and solver is None:
            raise InputError(
                f"the speed {settings.speed} of the model {card.name} leaves no room for chance",
                got=f"the solver {chosen.solver}, which gives the mean of all scenes",
                do="give --speed balanced, or no speed",
            )
        solver = solver or DRAWING_SOLVER
        steps = DRAWING_STEPS if steps is None else steps
    scale = card.guidance.text if settings.guidance is None else settings.guidance
    return find_plan(
        card,
        TranslateSettings(
            speed=settings.speed,
            solver=solver,
            steps=steps,
            guidance=guidance_of(chosen).model_copy(update={"text": scale}),
            batch_size=settings.batch_size,
            reuse=settings.reuse,
            precision=settings.precision,
        ),
    )
