"""The verb `v2ir generate`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from v2ir.cli.console import console, list_failures, progress_bar
from v2ir.cli.translate import load
from v2ir.errors import InputError

if TYPE_CHECKING:
    from v2ir.sampling import TextSampler
    from v2ir.sampling.generate import Picture
    from v2ir.sampling.prompts import Prompt

MOST_ROWS, MOST_COLUMNS = 24, 8


def command(
    out: Path = typer.Argument(..., metavar="OUT", help="Folder of the infrared images."),
    prompt: list[str] = typer.Option([], "--prompt", "-p", help="A text (repeat)."),
    prompts: str | None = typer.Option(
        None, metavar="FILE|-", help="Texts, one a line, or .jsonl; `-` reads standard input."
    ),
    number: int = typer.Option(1, "--number", "-n", help="Pictures of each prompt."),
    model: str = typer.Option("txt2ir-mini", help="Bundled model, model folder, or hub name."),
    style: str | None = typer.Option(None, help="Camera (see `v2ir models MODEL`), or `none`."),
    width: int | None = typer.Option(None, help="Width in pixels; the model's resolution."),
    height: int | None = typer.Option(None, help="Height in pixels; the model's resolution."),
    seed: int = typer.Option(0, help="Seed of the noise."),
    speed: str | None = typer.Option(
        None, help="reference, exact, balanced, ...; what follows goes before it."
    ),
    steps: int | None = typer.Option(None, help="Solver steps."),
    solver: str | None = typer.Option(None, help="Solver, such as ddim or dpmpp."),
    guidance: float | None = typer.Option(None, help="Scale that follows the text; 1 is none."),
    negative_prompt: str | None = typer.Option(
        None, metavar="TEXT", help="What guidance leads away from; without, the empty text."
    ),
    reuse: int | None = typer.Option(None, help="Compute inner features at every n-th step."),
    precision: str | None = typer.Option(
        None, help="Number format of the network: float32, bfloat16, float16, int8 or auto."
    ),
    batch_size: int | None = typer.Option(
        None, help="Images computed together; 1 on a CPU, 8 elsewhere."
    ),
    grid: Path | None = typer.Option(
        None, metavar="FILE.png", help="Also show the images in one picture, a row a prompt."
    ),
    device: str = typer.Option("auto", help="auto, cpu, cuda, cuda:1, mps, ..."),
    dry_run: bool = typer.Option(False, help="Say what would be made, and write nothing."),
) -> None:
    """Generate infrared images from text, without a visible image.

    An image depends on the seed, its text and its number alone. One that exists already
    with the same settings is kept, so an interrupted run continues with the same command.

    Example: `v2ir generate scenes --prompt "a street at night with two people" --number 4`
    """
    texts = gather_prompts(prompt, prompts)
    if grid is not None and grid.suffix.lower() != ".png":
        raise InputError("--grid takes a name ending in .png", got=str(grid))
    from v2ir.sampling import GenerateSettings, TextSampler, list_pictures

    pictures = list_pictures(texts, number, out)
    settings = GenerateSettings(
        width=width,
        height=height,
        style=style,
        seed=seed,
        steps=steps,
        solver=solver,
        guidance=guidance,
        negative_prompt=negative_prompt,
        batch_size=batch_size,
        speed=speed,
        reuse=reuse,
        precision=precision,  # type: ignore[arg-type]
    )
    sampler = TextSampler(load(model, device), settings)
    if dry_run:
        _list_pending(pictures, sampler)
        return
    _generate(pictures, sampler, out, grid)


def gather_prompts(given: Sequence[str], source: str | None) -> list[Prompt]:
    """Return the prompts of the flags, then those of a file or of standard input.

    On standard input a first line that opens an object means JSON lines.

    Raises:
        InputError: If there are none, or the file is not what it should be.
    """
    from v2ir.sampling.prompts import Prompt, parse_prompts, read_prompts

    found = [Prompt(text.strip()) for text in given if text.strip()]
    if source == "-":
        lines = sys.stdin.read().splitlines()
        first = next((line for line in lines if line.strip()), "")
        json_lines = first.lstrip().startswith("{")
        found += parse_prompts(lines, "standard input", json_lines=json_lines)
    elif source is not None:
        found += read_prompts(Path(source))
    if not found:
        raise InputError(
            "there are no prompts",
            do='give --prompt "a street at night", --prompts FILE, or --prompts - ',
        )
    return found


def _generate(
    pictures: Sequence[Picture], sampler: TextSampler, out: Path, grid: Path | None
) -> None:
    from v2ir.sampling import generate

    with progress_bar("generating") as progress:
        report = generate(pictures, sampler, progress)
    kept = f", {report.kept} kept from before" if report.kept else ""
    console.print(f"{report.made} infrared images made{kept}: {out}", highlight=False)
    if grid is not None:
        _show(pictures, grid)
    list_failures(report.failures)


def _show(pictures: Sequence[Picture], grid: Path) -> None:
    """Draw the pictures that exist; the same pictures again leave the file as it is."""
    from v2ir.files import write_bytes
    from v2ir.images import encode_png, read_infrared, to_uint8
    from v2ir.sampling.grid import draw_grid

    rows: dict[Prompt, list[Picture]] = {}
    for picture in pictures:
        if picture.output.is_file():
            rows.setdefault(picture.prompt, []).append(picture)
    shown = [(prompt.text, row[:MOST_COLUMNS]) for prompt, row in list(rows.items())[:MOST_ROWS]]
    if not shown:
        return
    drawn = draw_grid(
        [(text, [to_uint8(read_infrared(each.output)) for each in row]) for text, row in shown]
    )
    png = encode_png(drawn)
    if not grid.is_file() or grid.read_bytes() != png:
        write_bytes(grid, png)
    number = sum(len(row) for _, row in shown)
    console.print(f"{number} of {len(pictures)} images shown: {grid}", highlight=False)


def _list_pending(pictures: Sequence[Picture], sampler: TextSampler) -> None:
    from v2ir.sampling.generate import is_made

    wanted = [not is_made(picture, sampler) for picture in pictures]
    for picture, make in zip(pictures, wanted, strict=True):
        console.print(
            f"{'make' if make else 'keep'} {picture.output} from: {picture.prompt.text}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    console.print(
        f"would make {sum(wanted)} of {len(pictures)} infrared images, "
        f"{sampler.width}x{sampler.height} px",
        highlight=False,
    )
