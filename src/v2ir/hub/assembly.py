"""From a checkpoint's contents to a model: networks filled, input widened, card written."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import Any

import torch

from v2ir.errors import InputError, ModelError
from v2ir.hub.contents import (
    DEFAULT_TOKENIZER,
    PARTS,
    WORD_PIECE_TOKENIZER,
    Contents,
    PartName,
    ReadSettings,
    make_network,
)
from v2ir.model.card import Guidance, ModelCard
from v2ir.model.conditions import ConditionName
from v2ir.model.folder import Model
from v2ir.model.networks import Architecture
from v2ir.model.text import WORD_PIECES
from v2ir.model.widening import widen_input
from v2ir.seeding import own_seed

_LOGGER = logging.getLogger(__name__)

CONDITIONS: dict[int, tuple[ConditionName, ...]] = {
    1: ("text",),
    2: ("text", "visible"),
    3: ("text", "visible", "segmentation"),
}
"""What a model is told, by the number of latents that its UNet takes."""

ANNOTATORS = {"captioner": "blip-base", "segmenter": "sam-huge"}
"""What captioned and segmented the images that DiffV2IR learned from."""

KINDS = {1: "Stable Diffusion", 2: "InstructPix2Pix", 3: "DiffV2IR"}
"""The published model of each number of latents."""


def assemble(contents: Contents, settings: ReadSettings) -> Model:
    """Build the model that a checkpoint holds.

    A key that is missing or misshapen and allowed by name keeps the weights of a new
    network, drawn with seed 0.

    Raises:
        ModelError: If keys do not fit, or the tokenizer cannot be had or does not fit.
        InputError: If the channels asked for are not possible.
    """
    contents.refuse(settings.allow)
    wanted = wanted_latents(contents, settings)
    encoder = contents.architecture.text_encoder_class
    default = WORD_PIECE_TOKENIZER if encoder in WORD_PIECES else DEFAULT_TOKENIZER
    tokenizer = load_tokenizer(settings.tokenizer or contents.tokenizer or default)
    _check_vocabulary(tokenizer, contents.architecture)
    networks = {part: _fill(part, contents) for part in PARTS}
    unet = networks["unet"]
    if wanted > contents.num_latents:
        unet = widen_input(unet, wanted * unet.config.out_channels).eval()
    return Model(
        card=make_card(contents, settings, wanted),
        unet=unet,
        autoencoder=networks["autoencoder"],
        text_encoder=networks["text_encoder"],
        tokenizer=tokenizer,
        scheduler=_make_scheduler(contents.architecture),
    )


def wanted_latents(contents: Contents, settings: ReadSettings) -> int:
    """Return the number of latents that the converted UNet shall take.

    Raises:
        InputError: If the channels asked for are not possible.
    """
    there, channels = contents.num_latents, contents.architecture.unet["out_channels"]
    if settings.channels is None:
        widens = there == 1 and contents.card is None and not contents.is_infrared
        return 3 if widens else there
    number, rest = divmod(settings.channels, channels)
    if rest or number not in CONDITIONS or number < there:
        possible = [str(count * channels) for count in CONDITIONS if count >= there]
        raise InputError(
            "the UNet cannot be given that number of input channels",
            got=f"{settings.channels}; the checkpoint has {there * channels}",
            do=f"ask for {', '.join(possible)}",
        )
    return number


def _fill(part: PartName, contents: Contents) -> Any:
    """Build one network and put the checkpoint's tensors into it."""
    with own_seed():
        if part == "unet" and not contents.gaps[part]:
            # Nothing of a new UNet would stay, so 860 million numbers need not be drawn.
            with torch.device("meta"):
                network = make_network(part, contents.architecture)
        else:
            network = make_network(part, contents.architecture)
    missing, unknown = network.load_state_dict(
        dict(contents.tensors[part]), strict=False, assign=True
    )
    if set(missing) != set(contents.gaps[part]) or unknown:
        raise ModelError(f"the {part} was not filled", got=f"{missing[:5]}, {unknown[:5]}")
    if missing:
        _LOGGER.warning("%d tensors of the %s stay as new: %s", len(missing), part, missing)
        network = network.to(next(iter(contents.tensors[part].values())).dtype)
    return network.eval()


def _make_scheduler(architecture: Architecture) -> Any:
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    known = inspect.signature(DDPMScheduler.__init__).parameters
    given = {key: value for key, value in architecture.scheduler.items() if key in known}
    # Solvers' own entries are left out; a solver's folder may not say that nothing is clipped.
    return DDPMScheduler(**{"clip_sample": False, **given})


def load_tokenizer(name: str | Path) -> Any:
    """Load a tokenizer from a folder, from a model's folder, or by its hub name.

    Raises:
        ModelError: If there is none of that name here, and the hub cannot be reached.
    """
    from transformers import AutoTokenizer

    path = Path(name) / "tokenizer" if (Path(name) / "tokenizer").is_dir() else Path(name)
    try:
        return AutoTokenizer.from_pretrained(path if path.is_dir() else str(name))
    # What the loader raises differs with the kind of failure and with its version.
    except Exception as error:
        raise ModelError(
            f"the tokenizer {name} cannot be loaded",
            got=(str(error) or type(error).__name__).splitlines()[0],
            do="a checkpoint file carries no tokenizer: connect to the hub, or give a folder with "
            "CLIP's vocab.json and merges.txt (any Stable Diffusion 1.x folder has it in "
            "tokenizer/), or for word pieces BERT's vocab.txt, with --tokenizer FOLDER",
        ) from error


def _check_vocabulary(tokenizer: Any, architecture: Architecture) -> None:
    size = architecture.text_encoder["vocab_size"]
    if len(tokenizer) > size:
        raise ModelError(
            "the tokenizer does not belong to the text encoder",
            got=f"{len(tokenizer)} pieces for a vocabulary of {size}",
            do="give the tokenizer that the model was trained with, with --tokenizer",
        )


def make_card(contents: Contents, settings: ReadSettings, latents: int) -> ModelCard:
    """Return the card: the checkpoint's own, or the published facts of its kind.

    Source: DiffV2IR's released code for prompts, guidance, solver, steps and annotators.
    """
    changes: dict[str, Any] = {"name": settings.name, "licence": settings.licence}
    changes = {key: value for key, value in changes.items() if value is not None}
    if contents.card is not None:
        if latents != contents.num_latents:
            changes["conditions"] = CONDITIONS[latents]
        return contents.card.model_copy(update=changes)
    architecture = contents.architecture
    infrared = _infrared_facts(architecture) if contents.is_infrared else {}
    return ModelCard(
        **{
            "name": Path(contents.source).stem,
            "conditions": CONDITIONS[latents],
            "channels": architecture.unet["out_channels"],
            "factor": architecture.factor,
            "text_length": architecture.text_encoder["max_position_embeddings"],
            "scale_conditions": False,
            "guidance": Guidance(text=7.5, visible=1.5, segmentation=1.5),
            "solver": "euler_ancestral",
            "steps": 100,
            "resolution": 512,
            "multiple": 64,
            **_prompts(latents),
            **infrared,
            **(ANNOTATORS if contents.num_latents == 3 else {}),
            "licence": "not stated in the checkpoint; ask its source",
            "data": _origin(contents, latents),
            **changes,
        }
    )


def _infrared_facts(architecture: Architecture) -> dict[str, Any]:
    """Return what TxT2IR's released code fixes: DDIM with 200 steps, and no guidance."""
    halvings = len(architecture.unet["block_out_channels"]) - 1
    return {
        "guidance": Guidance(text=1.0),
        "solver": "ddim",
        "steps": 200,
        "multiple": architecture.factor * 2**halvings,
    }


def _prompts(latents: int) -> dict[str, str]:
    """Return the prompts: an instruction to translate, or the caption alone."""
    if latents == 1:
        return {"prompt_template": "{caption}", "prompt_without_caption": "an infrared image"}
    return {
        "prompt_template": "turn the visible image of {caption} into infrared",
        "prompt_without_caption": "turn the RGB image into the infrared one",
    }


def _origin(contents: Contents, latents: int) -> str:
    there = contents.num_latents
    kind = "TxT2IR" if contents.is_infrared and there == 1 else KINDS[there]
    text = f"converted from {contents.source}: {kind} in the {contents.layout} layout, "
    text += f"{contents.weights} weights"
    if latents > there:
        text += f"; input widened from {there} to {latents} latents with zeros, not yet trained"
    return text
