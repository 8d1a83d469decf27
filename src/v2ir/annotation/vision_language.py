"""Any vision-language model of transformers as a captioner, asked for what matters to heat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from v2ir.annotation.network import (
    WORDING_OPTIONS,
    NetworkAnnotator,
    OptionsMixin,
    Wording,
    on_device,
)
from v2ir.annotation.structure import SceneDescription, check_template, parse_description, render
from v2ir.annotation.weights import cannot_load, read_config
from v2ir.annotators import Described
from v2ir.errors import InputError

HEAT_PROMPT = (
    "Describe this photograph in one sentence for somebody who has to draw its thermal "
    "image. Name the place, the objects and what they are made of, the weather, the light "
    "and the time of day, and which people, animals, engines and lamps are warm."
)
FIELDS_PROMPT = (
    "Describe this photograph for somebody who has to draw its thermal image. Answer with "
    'one JSON object and nothing else: {"scene": "the place in a few words", "weather": '
    '"...", "time_of_day": "...", "light": "...", "objects": [{"name": "...", "material": '
    '"...", "heat": "cold, sunlit, warm body, engine running or lit"}]}'
)
_STYLE = " style "
# Florence-2 follows task words alone.
_TASKS = {"florence2": "<MORE_DETAILED_CAPTION>"}


def _is_true(text: str) -> bool:
    if text.lower() not in {"true", "false", "1", "0", "yes", "no"}:
        raise ValueError("give true or false")
    return text.lower() in {"true", "1", "yes"}


class VisionLanguageCaptioner(OptionsMixin, NetworkAnnotator):
    """`AutoModelForImageTextToText` of transformers with a prompt.

    Args:
        weights: Hub name or folder.
        device: Where the network runs.
        prompt: What the model is asked; by default for what matters to heat.
        structured: Whether to ask for fields. An answer without them is kept as it is,
            with a note.
        style: Wording of the fields: a name of `structure.STYLES` or a template.
        wording: Fields of `Wording`.

    Raises:
        InputError: If the options contradict each other.
    """

    family = "vlm"
    algorithm = "1"
    options = {**WORDING_OPTIONS, "prompt": str, "structured": _is_true, "style": str}  # noqa: RUF012

    def __init__(
        self,
        weights: str,
        device: str = "cpu",
        *,
        prompt: str = "",
        structured: bool = False,
        style: str = "plain",
        **wording: Any,
    ) -> None:
        super().__init__(weights, device)
        check_template(style)
        if style != "plain" and not structured:
            raise InputError("style words the fields", do="add structured=true")
        most = 400 if structured else 80
        self.wording = Wording(**{"min_tokens": 1, "max_tokens": most, **wording})
        self.structured = structured
        self.style = style
        self.given_prompt = prompt

    @property
    def prompt(self) -> str:
        """What the model is asked."""
        default = FIELDS_PROMPT if self.structured else HEAT_PROMPT
        task = _TASKS.get(read_config(self.folder).get("model_type", ""))
        return self.given_prompt or task or default

    def settings(self) -> str:
        """Return how words are chosen and what is asked."""
        asked = f"{self.wording} prompt {self.prompt!r}"
        return f"{asked}{_STYLE}{self.style!r}" if self.structured else asked

    def load(self) -> Any:
        """Load network and processor.

        Raises:
            ModelError: If the folder holds no such model.
            MissingExtraError: If its processor needs a package that is not installed.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        # On a card the checkpoint's own number format halves the memory.
        dtype = "float32" if self.device == "cpu" else "auto"
        try:
            network = AutoModelForImageTextToText.from_pretrained(self.folder, dtype=dtype)
            processor = AutoProcessor.from_pretrained(self.folder)
        except (OSError, ValueError, ImportError, RuntimeError, TypeError) as error:
            raise cannot_load(self.name, error) from error
        if not hasattr(processor, "tokenizer"):
            raise cannot_load(self.name, ValueError("it has no processor for text and images"))
        if not network.config.is_encoder_decoder:
            # Answers continue the prompt, so prompts must end at the same place.
            processor.tokenizer.padding_side = "left"
        return network.eval().to(self.device), processor

    def caption(self, images: Sequence[np.ndarray]) -> list[str]:
        """Return the first caption of each image, HWC uint8 RGB."""
        return [described.captions[0] for described in self.describe(images)]

    def describe(self, images: Sequence[np.ndarray]) -> list[Described]:
        """Return the captions of each image, HWC uint8 RGB of any size."""
        answers = self._answers(images)
        number = self.wording.number
        rows = [answers[start : start + number] for start in range(0, len(answers), number)]
        return [self._described(row) for row in rows]

    def reword(self, structure: dict[str, Any], version: str) -> Described | None:
        """Word the fields of an earlier result, if `version` differs in the wording alone."""
        others = (text.partition(_STYLE)[0] for text in (version, self.version))
        if not self.structured or self.wording.number > 1 or len(set(others)) > 1:
            return None
        words = render(SceneDescription.model_validate(structure), self.style)
        return Described((words,), structure)

    def _described(self, answers: Sequence[str]) -> Described:
        if not self.structured:
            return Described(tuple(answers))
        parsed = [parse_description(answer) for answer in answers]
        texts = tuple(
            render(found, self.style) if found else answer
            for found, answer in zip(parsed, answers, strict=True)
        )
        first = next((found for found in parsed if found), None)
        missing = sum(found is None for found in parsed)
        note = f"{missing} of {len(answers)} answers had no fields" if missing else ""
        return Described(texts, first.model_dump() if first else None, note)

    def _answers(self, images: Sequence[np.ndarray]) -> list[str]:
        import torch
        from PIL import Image

        network, processor = self.parts
        number = self.wording.number
        pictures = [[Image.fromarray(image)] for image in images for _ in range(number)]
        asked = [self._asked(processor)] * len(pictures)
        inputs = processor(text=asked, images=pictures, padding=True, return_tensors="pt")
        with torch.inference_mode():
            tokens = network.generate(
                **on_device(inputs, self.device, network.dtype), **self.wording.arguments(images)
            )
        if not network.config.is_encoder_decoder:
            tokens = tokens[:, inputs["input_ids"].shape[1] :]
        texts = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _asked(self, processor: Any) -> str:
        """Return the prompt in the form that the model learned."""
        if getattr(processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": self.prompt}]
            return str(
                processor.apply_chat_template(
                    [{"role": "user", "content": content}],
                    add_generation_prompt=True,
                    tokenize=False,
                )
            )
        if self.prompt.startswith("<") or not hasattr(processor, "image_token"):
            return self.prompt
        return f"{processor.image_token}\n{self.prompt}"
