"""What all captioners with weights share: their name, version, options and drawing."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args

import numpy as np

from v2ir.annotation.drawing import NucleusDraw, Sampling, image_generators
from v2ir.annotation.spec import convert_options
from v2ir.annotation.weights import find_weights, fingerprint, short_name
from v2ir.errors import InputError

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True)
class Wording:
    """How words are chosen.

    Attributes:
        sampling: `greedy` takes the likeliest word; `nucleus` draws, as DiffV2IR does.
        top_p: Share of the probability that words are drawn from, in (0, 1].
        min_tokens: Fewest tokens of a caption.
        max_tokens: Most tokens of a caption.
        number: Captions of each image; more than one need `nucleus`.
        seed: Seed of the draws; each image has draws of its own.
    """

    sampling: Sampling = "greedy"
    top_p: float = 0.9
    min_tokens: int = 5
    max_tokens: int = 20
    number: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sampling not in get_args(Sampling):
            raise InputError("unknown sampling", got=self.sampling, do="take greedy or nucleus")
        if not 0.0 < self.top_p <= 1.0:
            raise InputError("top_p must be above 0 and at most 1", got=str(self.top_p))
        if not 0 <= self.min_tokens <= self.max_tokens or self.max_tokens < 1:
            raise InputError(
                "min_tokens must be at most max_tokens, and that at least 1",
                got=f"{self.min_tokens}, {self.max_tokens}",
            )
        if self.number < 1 or (self.number > 1 and self.sampling == "greedy"):
            raise InputError(
                "several captions of an image must be drawn",
                got=f"number={self.number}, sampling={self.sampling}",
                do="add sampling=nucleus",
            )

    def __str__(self) -> str:
        tokens = f"{self.min_tokens}-{self.max_tokens} tokens"
        if self.sampling == "greedy":
            return f"greedy {tokens}"
        return f"nucleus {self.top_p:g} {tokens} number {self.number} seed {self.seed}"

    def arguments(self, images: Sequence[np.ndarray]) -> dict[str, Any]:
        """Return the arguments of `generate` for `number` rows of each image in turn."""
        limits = {"min_new_tokens": self.min_tokens, "max_new_tokens": self.max_tokens}
        chosen: dict[str, Any] = {"do_sample": False, "num_beams": 1, **limits}
        if self.sampling == "nucleus":
            generators = [
                generator
                for image in images
                for generator in image_generators(image, self.number, self.seed)
            ]
            chosen["logits_processor"] = [NucleusDraw(generators, self.top_p)]
        return chosen


WORDING_OPTIONS: dict[str, Callable[[str], Any]] = {
    "sampling": str,
    "top_p": float,
    "min_tokens": int,
    "max_tokens": int,
    "number": int,
    "seed": int,
}


class NetworkAnnotator(abc.ABC):
    """An annotator whose weights are found and loaded on first use.

    Attributes:
        family: Name of the adapter.
        algorithm: Version of the adapter's own code.
        weights: Hub name or folder.
        device: Where the network runs.
    """

    family: str
    algorithm: str

    def __init__(self, weights: str, device: str = "cpu") -> None:
        self.weights = weights
        self.device = device
        self._parts: Any = None

    @cached_property
    def folder(self) -> Path:
        """Folder of the weights.

        Raises:
            ModelError: If they are not available.
        """
        return find_weights(self.weights)

    @property
    def name(self) -> str:
        """Family and weights, as in `blip:Salesforce/blip-image-captioning-base`."""
        return f"{self.family}:{short_name(self.weights)}"

    @cached_property
    def version(self) -> str:
        """Version of the code, what the weights are, and the options that matter."""
        return f"{self.algorithm} {fingerprint(self.folder)} {self.settings()}"

    @abc.abstractmethod
    def settings(self) -> str:
        """Return the options that change results, as text."""

    @abc.abstractmethod
    def load(self) -> Any:
        """Load the network onto the device."""

    @property
    def parts(self) -> Any:
        """The loaded network with what belongs to it."""
        if self._parts is None:
            from transformers.utils import logging as transformers_logging

            transformers_logging.disable_progress_bar()  # the command line has its own
            self._parts = self.load()
        return self._parts

    def release(self) -> None:
        """Forget the network, so that the next one has the memory of the device."""
        self._parts = None
        if self.device != "cpu":
            import gc

            import torch

            gc.collect()
            torch.accelerator.memory.empty_cache()


class OptionsMixin:
    """Construction from the texts of a specification."""

    family: str
    options: dict[str, Callable[[str], Any]]

    @classmethod
    def from_options(cls, weights: str, options: dict[str, str], device: str) -> Self:
        """Build the annotator from options as they are written."""
        values = convert_options(options, cls.options, cls.family)
        return cls(weights, device=device, **values)  # type: ignore[call-arg]


def on_device(inputs: Any, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Move the tensors of a batch; numbers with a fraction get the network's format."""
    return {
        key: value.to(device, dtype) if value.is_floating_point() else value.to(device)
        for key, value in inputs.items()
        if hasattr(value, "is_floating_point")
    }
