"""Convert: read any layout, write any layout, whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from v2ir.errors import InputError, OutputError, UnknownNameError, V2IRError
from v2ir.hub.assembly import assemble
from v2ir.hub.contents import Contents, ReadSettings
from v2ir.hub.registry import LAYOUTS
from v2ir.model.folder import Model

_LOGGER = logging.getLogger(__name__)

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
"""Number formats that weights can be written in."""


@dataclasses.dataclass(frozen=True)
class ConvertSettings:
    """What is written, and how the source is read.

    Attributes:
        reading: How the source is read.
        layout: Layout to write; None decides by the destination's name and the source.
        dtype: Number format to write, a key of `DTYPES`; None keeps the source's.
        overwrite: Replace a destination that exists.
    """

    reading: ReadSettings = dataclasses.field(default_factory=ReadSettings)
    layout: str | None = None
    dtype: str | None = None
    overwrite: bool = False


def inspect_checkpoint(source: Path, settings: ReadSettings) -> Contents:
    """Read what a checkpoint holds, and what does not fit, without building a model.

    Raises:
        InputError: If the source cannot be read.
        ModelError: If it is of another kind.
    """
    if source.is_dir():
        return LAYOUTS["diffusers"].read(source, settings)
    return LAYOUTS["compvis"].read(source, settings)


def choose_layout(source: Path, destination: Path, layout: str | None) -> str:
    """Return the layout to write: the one asked for, or the one that the names suggest.

    A name ending in .ckpt or .safetensors is a CompVis file. Anything else is a folder:
    a plain diffusers folder from a model folder, and a model folder from all others.

    Raises:
        UnknownNameError: If there is no layout of that name.
        InputError: If the destination's name does not fit the layout.
    """
    if layout is not None and layout not in LAYOUTS:
        raise UnknownNameError.of("layout", layout, LAYOUTS)
    is_file = destination.suffix in LAYOUTS["compvis"].suffixes
    if layout is None:
        if is_file:
            return "compvis"
        return "diffusers" if LAYOUTS["model"].is_there(source) else "model"
    suffixes = LAYOUTS[layout].suffixes
    if is_file != bool(suffixes):
        wanted = f"ending in {' or '.join(sorted(suffixes))}" if suffixes else "of a folder"
        raise InputError(
            f"{destination} does not fit the layout {layout}", do=f"give a name {wanted}"
        )
    return layout


def is_done(destination: Path, layout: str, *, overwrite: bool) -> bool:
    """Whether the destination is there already and shall stay.

    A destination appears only when it is complete, so one that is there is whole.

    Raises:
        InputError: If something else is there, or has to be replaced by hand.
    """
    if destination.is_dir() and not any(destination.iterdir()):
        return False
    if not destination.exists():
        return False
    if not LAYOUTS[layout].is_there(destination):
        raise InputError(
            f"{destination} exists and is not what would be written there",
            got="a folder" if destination.is_dir() else "a file",
            do="give a new name",
        )
    return not overwrite


def convert(
    source: Path, destination: Path, settings: ConvertSettings | None = None
) -> Contents | None:
    """Convert a checkpoint; return what was read, or None if the destination exists.

    The destination appears when it is complete; a conversion that is interrupted leaves
    nothing but a hidden `.part` neighbour, which the next one removes.

    Raises:
        InputError: If the source cannot be read, or an argument does not fit.
        ModelError: If the source is incomplete or has no form in the layout.
        OutputError: If the disk refuses.
    """
    settings = settings or ConvertSettings()
    layout = choose_layout(source, destination, settings.layout)
    if settings.dtype is not None and settings.dtype not in DTYPES:
        raise UnknownNameError.of("number format", settings.dtype, DTYPES)
    if source.exists() and destination.exists() and source.samefile(destination):
        raise InputError(f"{source} cannot be converted onto itself", do="give a new name")
    if is_done(destination, layout, overwrite=settings.overwrite):
        return None
    contents = inspect_checkpoint(source, settings.reading)
    model = assemble(contents, settings.reading)
    if settings.dtype is not None:
        _change_dtype(model, DTYPES[settings.dtype])
    write_model(model, destination, layout)
    return contents


def _change_dtype(model: Model, dtype: torch.dtype) -> None:
    for part in (model.unet, model.autoencoder, model.text_encoder):
        torch.nn.Module.to(part, dtype)


def write_model(model: Model, destination: Path, layout: str = "model") -> None:
    """Write a model in a layout, whole or not at all.

    Raises:
        UnknownNameError: If there is no layout of that name.
        ModelError: If the model has no form in the layout.
        OutputError: If the disk refuses.
    """
    if layout not in LAYOUTS:
        raise UnknownNameError.of("layout", layout, LAYOUTS)
    write = LAYOUTS[layout].write
    try:
        if LAYOUTS[layout].suffixes:
            write(model, destination)
            return
        with whole_folder(destination) as part:
            write(model, part)
    except V2IRError:
        raise
    # safetensors and torch report a full disk by classes of their own.
    except Exception as error:
        raise OutputError(
            f"{destination} cannot be written",
            got=(str(error) or type(error).__name__).splitlines()[0],
            do="check the free space and the permissions of the folder",
        ) from error


@contextlib.contextmanager
def whole_folder(destination: Path) -> Iterator[Path]:
    """Give a hidden neighbour to write into; it takes the place of `destination` at the end.

    A folder that is there is set aside during the change and removed afterwards.
    """
    part = destination.with_name(f".{destination.name}.part")
    aside = destination.with_name(f".{destination.name}.old")
    if aside.exists() and not destination.exists():
        aside.rename(destination)
    for left in (part, aside):
        shutil.rmtree(left, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        if destination.exists():
            destination.rename(aside)
        part.rename(destination)
    finally:
        if aside.exists() and not destination.exists():
            aside.rename(destination)
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)
