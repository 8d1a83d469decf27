"""The verb `v2ir translate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from v2ir.cli._cluster import cluster_option, translate_there
from v2ir.cli._sources import Wanted, annotate_ahead, kept_folder, make_sources
from v2ir.cli.console import console, list_failures, progress_bar
from v2ir.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from v2ir.model import Guidance, Model
    from v2ir.sampling import Annotators, TranslateReport, TranslateSettings, Translator
    from v2ir.sampling.geometry import Resolution
    from v2ir.sampling.translate import SceneStyles


def command(
    source: Path = typer.Argument(
        ..., metavar="INPUT", help="A photograph, a folder of them, or a data set with rgb/."
    ),
    out: Path = typer.Argument(..., metavar="OUT", help="Folder of the infrared images."),
    model: str = typer.Option("mini", help="Bundled model, model folder, or hub name."),
    style: str | None = typer.Option(
        None, help="Camera to imitate (see `v2ir models MODEL`), `none`, or each `scene`'s own."
    ),
    split: str | None = typer.Option(None, help="Only this split of an indexed data set."),
    seed: int = typer.Option(0, help="Seed of the noise."),
    speed: str | None = typer.Option(
        None, help="reference, exact, balanced, fast or one-step; what follows goes before it."
    ),
    steps: int | None = typer.Option(None, help="Solver steps."),
    solver: str | None = typer.Option(None, help="Solver, such as dpmpp or euler_ancestral."),
    guidance: str | None = typer.Option(
        None, metavar="T,V,S", help="Guidance scales of text, visible image and segmentation."
    ),
    nesting: str | None = typer.Option(None, help="Nesting of the guidance: paper or released."),
    guidance_interval: str | None = typer.Option(
        None, metavar="LOW,HIGH", help="Part of the timesteps, in 0..1, in which guidance acts."
    ),
    reuse: int | None = typer.Option(
        None, metavar="N", help="Compute the network's inner features at every N-th step."
    ),
    precision: str | None = typer.Option(
        None, help="Number format of the network: float32, bfloat16, float16, int8 or auto."
    ),
    batch_size: int | None = typer.Option(
        None, help="Images computed together; 1 on a CPU, 8 elsewhere."
    ),
    resolution: str | None = typer.Option(
        None, metavar="PIXELS|native", help="Short side at which the network works."
    ),
    captions: Path | None = typer.Option(
        None, help="Your captions: folder of NAME.txt, .jsonl, .csv, or COCO .json."
    ),
    maps: Path | None = typer.Option(
        None, "--segmentations", "--maps", help="Your segmentation maps: a folder of NAME.png."
    ),
    captioner: str | None = typer.Option(None, help="Captioner instead of the model's own."),
    segmenter: str | None = typer.Option(None, help="Segmenter instead of the model's own."),
    without: list[str] = typer.Option([], help="Leave out: caption, segmentation, detail."),
    device: str = typer.Option("auto", help="auto, cpu, cuda, cuda:1, mps, ..."),
    cluster: str | None = cluster_option(),
    dry_run: bool = typer.Option(False, help="Say what would be made, and write nothing."),
) -> None:
    """Translate photographs to infrared images of exactly the same size.

    An image that exists already with the same settings is kept, so an interrupted run
    continues with the same command. Captions and maps that the model asks for are made
    first and kept in OUT/.annotations.

    Example: `v2ir translate photos infrared --style roadscene`
    """
    if not source.exists():
        raise InputError(f"{source} does not exist", do="give an image or a folder of images")
    from v2ir.sampling import TranslateSettings
    from v2ir.sampling.speeds import choose, guidance_of

    where = "cpu" if cluster else find_device(device)
    # The annotators go first; until then the card stays free of the denoiser.
    loaded = load(model, "cpu")
    usual = guidance_of(choose(loaded.card, speed))
    settings = TranslateSettings(
        style=None if style == "scene" else style,
        seed=seed,
        speed=speed,
        steps=steps,
        solver=solver,
        guidance=parse_guidance(usual, guidance, nesting, guidance_interval),
        reuse=reuse,
        precision=precision,  # type: ignore[arg-type]
        resolution=parse_resolution(resolution),
        batch_size=batch_size,
        without=tuple(without),  # type: ignore[arg-type]
    )
    scenes = scene_styles(source, split, by_scene=style == "scene")
    wanted = Wanted(captioner, segmenter, captions, maps)
    if cluster and not dry_run:
        from v2ir.cluster import Cluster
        from v2ir.sampling import Translator

        there, here = Cluster(cluster, device), Translator(loaded, settings)
        _show(translate_there(there, model, here, settings, wanted, source, out, scenes), out)
        return
    _run(loaded, settings, wanted, source, out, scenes, where, dry_run=dry_run)


def _run(
    loaded: Model,
    settings: TranslateSettings,
    wanted: Wanted,
    source: Path,
    out: Path,
    scenes: SceneStyles | None,
    device: str,
    *,
    dry_run: bool,
) -> None:
    """Annotate on the device, then translate on it; a dry run lists what would be made."""
    from v2ir.sampling import Translator

    translator = Translator(loaded, settings)
    ahead = translator.plan.speed.ahead
    keep = kept_folder(source, out) if ahead and not dry_run else None
    sources = make_sources(translator, wanted, device=device, keep=keep)
    if ahead and not dry_run:
        sources = annotate_ahead(source, out, translator, sources, scenes)
    translator = Translator(loaded.to(device), settings)
    act = _list_pending if dry_run else _translate
    act(source, out, translator, sources.annotators, scenes)


def scene_styles(source: Path, split: str | None, *, by_scene: bool) -> SceneStyles | None:
    """Return the wanted scenes of a data set with their styles, or None for all images.

    Raises:
        DataError: If the source is no indexed data set.
        UnknownNameError: If there is no such split.
    """
    from v2ir.data import load_scenes
    from v2ir.records import SPLITS

    if split is None and not by_scene:
        return None
    if split is not None and split not in SPLITS:
        raise UnknownNameError.of("split", split, SPLITS)
    wanted = (scene for scene in load_scenes(source) if split in (None, scene.split))
    return {scene.name: scene.style if by_scene else None for scene in wanted}


def _translate(
    source: Path,
    out: Path,
    translator: Translator,
    annotators: Annotators,
    scenes: SceneStyles | None,
) -> None:
    from v2ir.sampling import translate

    with progress_bar("translating") as progress:
        report = translate(source, out, translator, annotators, progress, scenes)
    _show(report, out)


def _show(report: TranslateReport, out: Path) -> None:
    kept = f", {report.kept} kept from before" if report.kept else ""
    console.print(f"{report.made} infrared images made{kept}: {out}", highlight=False)
    list_failures(report.failures)


def _list_pending(
    source: Path,
    out: Path,
    translator: Translator,
    annotators: Annotators,
    scenes: SceneStyles | None,
) -> None:
    from v2ir.sampling import pending

    jobs = list(pending(source, out, translator, annotators, scenes))
    for job, wanted in jobs:
        console.print(
            f"{'make' if wanted else 'keep'} {job.output} from {job.source}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    number = sum(wanted for _, wanted in jobs)
    console.print(f"would make {number} of {len(jobs)} infrared images", highlight=False)


def load(model: str, device: str) -> Model:
    """Load a model onto a device; `auto` is the first accelerator, or the CPU.

    Raises:
        InputError: If there is no such device here.
    """
    from v2ir.model import load_model

    return load_model(model, find_device(device))


def find_device(device: str) -> str:
    """Return the device that is meant; `auto` is the first accelerator, or the CPU.

    Raises:
        InputError: If there is no such device here.
    """
    import torch

    if device == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        device = str(found or "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"the device {device} cannot be used",
            got=str(error).splitlines()[0],
            do="give --device cpu",
        ) from error
    return device


def parse_guidance(
    default: Guidance, scales: str | None, nesting: str | None, interval: str | None
) -> Guidance:
    """Change the model's guidance by what the user gave.

    Raises:
        InputError: If a text does not hold the numbers it should.
        UnknownNameError: If the nesting is unknown.
    """
    from pydantic import ValidationError

    from v2ir.sampling.guidance import ORDERS

    changes: dict[str, object] = {}
    if scales is not None:
        values = _numbers(scales, 3, "--guidance", "7.5,1.5,1.5")
        changes.update(zip(("text", "visible", "segmentation"), values, strict=True))
    if nesting is not None:
        if nesting not in ORDERS:
            raise UnknownNameError.of("nesting", nesting, ORDERS)
        changes["nesting"] = nesting
    if interval is not None:
        changes["interval"] = _numbers(interval, 2, "--guidance-interval", "0.2,0.8")
    try:
        return type(default).model_validate({**default.model_dump(), **changes})
    except ValidationError as error:
        raise InputError("the guidance is not valid", got=error.errors()[0]["msg"]) from error


def _numbers(text: str, count: int, option: str, example: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count:
        raise InputError(
            f"{option} takes {count} numbers", got=repr(text), do=f"give for instance {example}"
        )
    return values


def parse_resolution(text: str | None) -> Resolution | None:
    """Return the resolution in pixels, `native`, or None for the model's own.

    Raises:
        InputError: If it is neither.
    """
    if text is None:
        return None
    if text == "native":
        return "native"
    if not text.isdecimal():
        raise InputError("--resolution takes pixels or `native`", got=repr(text))
    return int(text)
