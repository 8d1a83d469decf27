"""What a foreign checkpoint holds: configurations, tensors by our names, and what is wrong."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from v2ir.errors import ModelError
from v2ir.model.card import ModelCard
from v2ir.model.networks import Architecture
from v2ir.model.text import TEXT_ENCODERS, text_encoder_class

PartName = Literal["unet", "autoencoder", "text_encoder"]
PARTS: tuple[PartName, ...] = ("unet", "autoencoder", "text_encoder")
Weights = Literal["averaged", "plain"]
DEFAULT_TOKENIZER = "openai/clip-vit-large-patch14"
WORD_PIECE_TOKENIZER = "google-bert/bert-base-uncased"


@dataclasses.dataclass(frozen=True)
class ReadSettings:
    """How a checkpoint is read.

    Attributes:
        weights: `averaged` or `plain` UNet weights; None takes the averaged ones if the
            checkpoint has any.
        channels: Input channels that the UNet shall have; more than the checkpoint's are
            added with zero weights. None gives 12 (three latents) to a text-to-image
            model and leaves others as they are.
        heads: Attention heads of the UNet where the checkpoint does not say.
        text_heads: Attention heads of the text encoder where the checkpoint does not
            say; None takes heads of 64 channels.
        tokenizer: Folder or hub name of the tokenizer; None takes the one beside the
            checkpoint, or else CLIP's.
        allow: Patterns of the names of keys that may be missing, unexpected or misshapen.
        name: Name of the model; None takes the checkpoint's.
        licence: Terms of the weights, which a checkpoint does not say.
    """

    weights: Weights | None = None
    channels: int | None = None
    heads: int = 8
    text_heads: int | None = None
    tokenizer: str | None = None
    allow: tuple[str, ...] = ()
    name: str | None = None
    licence: str | None = None


@dataclasses.dataclass(frozen=True)
class Problem:
    """A key of a checkpoint that does not fit.

    Attributes:
        kind: What is wrong with it.
        key: Its name in the checkpoint.
        detail: The shapes, where they differ.
    """

    kind: Literal["missing", "unexpected", "misshapen"]
    key: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.key}{f' ({self.detail})' if self.detail else ''}"

    def is_allowed(self, patterns: Sequence[str]) -> bool:
        """Whether a pattern such as `first_stage_model.*` names the key."""
        return any(fnmatch.fnmatchcase(self.key, pattern) for pattern in patterns)


@dataclasses.dataclass(frozen=True)
class Contents:
    """A checkpoint of any layout, translated to our names but not yet built.

    Attributes:
        layout: The layout it was read from.
        source: Name of the file or folder.
        weights: Which UNet weights were taken.
        architecture: Configurations of the parts.
        tensors: For each part its tensors by the network's own names.
        gaps: For each part the names of its tensors that the checkpoint does not give.
        problems: Keys that do not fit.
        passed_over: Number of keys that are known and hold no weight wanted here.
        card: The model card, where the checkpoint carries one.
        tokenizer: Folder of the tokenizer, where there is one beside the checkpoint.
    """

    layout: str
    source: str
    weights: Weights
    architecture: Architecture
    tensors: Mapping[PartName, Mapping[str, Tensor]]
    gaps: Mapping[PartName, Collection[str]]
    problems: tuple[Problem, ...]
    passed_over: int = 0
    card: ModelCard | None = None
    tokenizer: Path | None = None

    @property
    def num_latents(self) -> int:
        """Latents that the UNet takes: 1 the noisy one, 2 and the visible, 3 and the map.

        Raises:
            ModelError: If the input channels are not one, two or three latents.
        """
        unet = self.architecture.unet
        number, rest = divmod(unet["in_channels"], unet["out_channels"])
        if rest or number not in {1, 2, 3}:
            raise ModelError(
                "the UNet's input channels are not one, two or three latents",
                got=f"{unet['in_channels']} channels for {unet['out_channels']} of a latent",
                do="only text-to-image models, InstructPix2Pix's and DiffV2IR's can be read",
            )
        return number

    @property
    def is_infrared(self) -> bool:
        """Whether the autoencoder knows one channel alone, as TxT2IR's does."""
        return bool(self.architecture.autoencoder.get("in_channels") == 1)

    def refuse(self, allow: Sequence[str]) -> None:
        """Refuse a checkpoint with keys that do not fit and are not allowed by name.

        Raises:
            ModelError: If there are any; the message lists every one.
        """
        bad = [problem for problem in self.problems if not problem.is_allowed(allow)]
        if bad:
            raise ModelError(
                f"{len(bad)} keys of {self.source} do not fit",
                got="\n  " + "\n  ".join(map(str, bad)) + "\n",
                do="get the complete checkpoint, or allow keys by name with --allow PATTERN",
            )


def make_network(part: PartName, architecture: Architecture) -> Any:
    """Build one network of an architecture with new weights."""
    from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    if part == "unet":
        return UNet2DConditionModel.from_config(architecture.unet)
    if part == "text_encoder":
        name = architecture.text_encoder_class
        encoder = text_encoder_class(name)
        config = encoder.config_class(**architecture.text_encoder)
        return encoder(config, **TEXT_ENCODERS[name])
    kinds = {"AutoencoderKL": AutoencoderKL, "AutoencoderDC": AutoencoderDC}
    if architecture.autoencoder_class not in kinds:
        raise ModelError(
            "the autoencoder cannot be read",
            got=architecture.autoencoder_class,
            do=f"known: {', '.join(kinds)}",
        )
    return kinds[architecture.autoencoder_class].from_config(architecture.autoencoder)


def expected_shapes(part: PartName, architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a network's tensors, without building its weights.

    Raises:
        ModelError: If there is no network of these sizes.
    """
    try:
        with torch.device("meta"):
            network = make_network(part, architecture)
    # Each library refuses impossible sizes in its own way.
    except (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"there is no {part} of the checkpoint's sizes",
            got=(str(error) or type(error).__name__).splitlines()[0],
            do="check that the file is a whole checkpoint of the family of Stable Diffusion 1.x",
        ) from error
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def gather(
    wanted: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, Tensor],
    name_of: Callable[[str], str | None],
    is_pointwise: Callable[[str], bool] = lambda _: False,
) -> tuple[dict[str, Tensor], list[Problem], set[str]]:
    """Find a network's tensors in a checkpoint.

    Args:
        wanted: Shapes by the network's own names.
        tensors: The checkpoint's tensors.
        name_of: Gives the checkpoint's name for one of the network's.
        is_pointwise: Whether the checkpoint keeps this matrix as a 1x1 convolution.

    Returns:
        The tensors by the network's names, what does not fit, and the names used up.
    """
    found: dict[str, Tensor] = {}
    problems: list[Problem] = []
    used: set[str] = set()
    for name, shape in wanted.items():
        key = name_of(name)
        if key is None or key not in tensors:
            problems.append(Problem("missing", key or f"(no name for {name})"))
            continue
        used.add(key)
        tensor = tensors[key]
        there = (*shape, 1, 1) if is_pointwise(name) else shape
        if tuple(tensor.shape) != there:
            detail = f"got {tuple(tensor.shape)}, wanted {there}"
            problems.append(Problem("misshapen", key, detail))
            continue
        found[name] = tensor.reshape(shape)
    return found, problems, used


def unexpected(keys: Collection[str], used: Collection[str]) -> list[Problem]:
    """Return a problem for every key of a checkpoint that nothing has used up."""
    return [Problem("unexpected", key) for key in sorted(set(keys) - set(used))]
