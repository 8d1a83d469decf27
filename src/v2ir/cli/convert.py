"""The verb `v2ir convert`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, cast

import typer
from rich.table import Table
from rich.text import Text

from v2ir.cli.console import console
from v2ir.errors import UnknownNameError

if TYPE_CHECKING:
    from v2ir.hub import Contents, ReadSettings
    from v2ir.hub.contents import Weights

_WEIGHTS = ("averaged", "plain")


def command(
    source: Path = typer.Argument(
        ..., metavar="SRC", help="A .ckpt or .safetensors file, a diffusers or a model folder."
    ),
    destination: Path = typer.Argument(
        ..., metavar="DST", help="A new folder, or a file NAME.ckpt or NAME.safetensors."
    ),
    to: str | None = typer.Option(
        None,
        metavar="LAYOUT",
        help="Write a model (folder), diffusers (folder) or compvis (file); chosen by the names "
        "if not given: a model folder becomes a diffusers folder, others a model folder.",
    ),
    weights: str | None = typer.Option(
        None, help="UNet weights to read: averaged (if there are any, the default) or plain."
    ),
    channels: int | None = typer.Option(
        None, help="Input channels, 4, 8 or 12; new ones start at zero. 4 become 12 by default."
    ),
    heads: int = typer.Option(8, min=1, help="Attention heads of a UNet whose file is silent."),
    text_heads: int | None = typer.Option(
        None, min=1, help="The same for the text encoder; heads of 64 channels if not given."
    ),
    tokenizer: str | None = typer.Option(
        None, help="Folder or hub name; beside SRC, or openai/clip-vit-large-patch14."
    ),
    allow: list[str] = typer.Option(
        [], metavar="PATTERN", help="Keys that may be missing, extra or misshapen; repeatable."
    ),
    name: str | None = typer.Option(None, help="Name of the model; that of SRC if not given."),
    licence: str | None = typer.Option(None, help="Terms of the weights, for the card."),
    dtype: str | None = typer.Option(
        None, help="Write float32, float16 or bfloat16; as in SRC if not given."
    ),
    overwrite: bool = typer.Option(False, help="Replace DST if it is there."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what SRC holds; write nothing."),
) -> None:
    """Convert checkpoints of DiffV2IR, InstructPix2Pix and Stable Diffusion 1.x, both ways.

    Every key that is missing, unexpected or misshapen is listed and is an error, unless
    --allow names it. A pickle is opened as data only: nothing in it is run.

    Example: v2ir convert DiffV2IR.ckpt models/diffv2ir --tokenizer models/clip/tokenizer
    """
    from v2ir.hub import ReadSettings

    reading = ReadSettings(
        _known_weights(weights), channels, heads, text_heads, tokenizer, tuple(allow), name, licence
    )
    if dry_run:
        return _plan(source, destination, to, reading)
    return _convert(source, destination, reading, to, dtype, overwrite)


def _known_weights(weights: str | None) -> Weights | None:
    if weights is not None and weights not in _WEIGHTS:
        raise UnknownNameError.of("kind of weights", weights, _WEIGHTS)
    return cast("Weights | None", weights)


def _plan(source: Path, destination: Path, to: str | None, reading: ReadSettings) -> None:
    """Print what would be read and written; keys that do not fit are an error here, too."""
    from v2ir.hub import choose_layout, inspect_checkpoint

    layout = choose_layout(source, destination, to)
    contents = inspect_checkpoint(source, reading)
    _show(contents, reading)
    console.print(f"would write: {destination} ({layout})", highlight=False, markup=False)
    contents.refuse(reading.allow)


def _convert(
    source: Path,
    destination: Path,
    reading: ReadSettings,
    to: str | None,
    dtype: str | None,
    overwrite: bool,
) -> None:
    from transformers.utils import logging as transformers_logging

    from v2ir.hub import ConvertSettings, convert

    # The libraries would announce every default that an older configuration does not name.
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    read = convert(source, destination, ConvertSettings(reading, to, dtype, overwrite))
    if read is None:
        console.print(f"{destination} is there already; --overwrite replaces it", markup=False)
        return
    _show(read, reading)
    console.print(f"written: {destination}", highlight=False, markup=False)


def _show(contents: Contents, reading: ReadSettings) -> None:
    """Print what was read, and what does not fit and whether that is allowed."""
    from v2ir.hub.assembly import DEFAULT_TOKENIZER, KINDS, wanted_latents

    there, wanted = contents.num_latents, wanted_latents(contents, reading)
    channels = contents.architecture.unet["out_channels"]
    wider = f", widened to {wanted * channels} with zeros" if wanted > there else ""
    facts = {
        "read": f"{contents.source} ({contents.layout} layout, {contents.weights} weights)",
        "kind": f"{KINDS[there]}: {there * channels} input channels{wider}",
    }
    for part, tensors in contents.tensors.items():
        number = sum(tensor.numel() for tensor in tensors.values())
        kinds = ", ".join(sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()}))
        facts[part] = f"{len(tensors)} tensors, {number:,} parameters, {kinds}"
    facts["passed over"] = f"{contents.passed_over} known keys (buffers, the other weights)"
    facts["tokenizer"] = str(reading.tokenizer or contents.tokenizer or DEFAULT_TOKENIZER)
    table = Table.grid(padding=(0, 2))
    for fact, value in facts.items():
        table.add_row(fact, Text(value, overflow="fold"))
    console.print(table, highlight=False, markup=False)
    for problem in contents.problems:
        verdict = "allowed" if problem.is_allowed(reading.allow) else "ERROR"
        console.print(f"  {verdict} {problem}", markup=False, highlight=False, soft_wrap=True)
