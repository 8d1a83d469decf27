"""The captions and maps of a translation: the user's, else what the model asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from v2ir.annotators import has_weights
from v2ir.cli.console import console, progress_bar
from v2ir.errors import InputError, MissingExtraError, ModelError, UnknownNameError

if TYPE_CHECKING:
    from v2ir.annotators import Captioner, Segmenter
    from v2ir.sampling import Annotators, Translator
    from v2ir.sampling.translate import SceneStyles

A = TypeVar("A", "Captioner", "Segmenter")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the user said about captions and maps.

    Attributes:
        captioner: Captioner instead of the model's own.
        segmenter: Segmenter instead of the model's own.
        captions: File or folder of own captions.
        maps: Folder of own maps.
    """

    captioner: str | None = None
    segmenter: str | None = None
    captions: Path | None = None
    maps: Path | None = None


@dataclasses.dataclass(frozen=True)
class Sources:
    """Annotators, and which of them the user asked for by name.

    Attributes:
        annotators: Sources of captions and maps.
        asked: `captioner`, `segmenter`: without these the user does not want to go on.
    """

    annotators: Annotators
    asked: frozenset[str] = frozenset()


def make_sources(
    translator: Translator,
    wanted: Wanted | None = None,
    *,
    device: str = "cpu",
    keep: Path | None = None,
) -> Sources:
    """Build the sources of captions and maps: the user's, else those the model names.

    An annotator that the model names and that is not available is left out with a note;
    the null condition takes its place.

    Raises:
        InputError: If the user asks for one whose condition has no effect here.
        UnknownNameError: If an annotator that the user asks for is unknown.
        ModelError: If its weights are not available.
    """
    from v2ir.annotation import make_captioner, make_segmenter
    from v2ir.sampling import Annotators, find_maps, read_captions
    from v2ir.sampling.kept import KeptAnnotations

    card, wanted = translator.model.card, wanted or Wanted()
    _refuse_idle("captions", wanted.captioner or wanted.captions, translator.takes_captions)
    _refuse_idle("maps", wanted.segmenter or wanted.maps, translator.takes_maps)
    _refuse_masks(wanted.maps)
    words = (wanted.captioner or card.captioner) if translator.takes_captions else None
    regions = (wanted.segmenter or card.segmenter) if translator.takes_maps else None
    annotators = Annotators(
        captioner=_available(make_captioner, words, device, asked=bool(wanted.captioner)),
        segmenter=_available(make_segmenter, regions, device, asked=bool(wanted.segmenter)),
        captions=read_captions(wanted.captions) if wanted.captions else {},
        maps=find_maps(wanted.maps) if wanted.maps else {},
        keep=KeptAnnotations(keep) if keep else None,
    )
    names = ("captioner", "segmenter")
    return Sources(annotators, frozenset(name for name in names if getattr(wanted, name)))


def _available(make: Callable[..., A], name: str | None, device: str, *, asked: bool) -> A | None:
    if name is None:
        return None
    try:
        annotator = make(name, device=device)
        if has_weights(annotator):
            _ = annotator.version  # looks for the weights
    except (ModelError, MissingExtraError, UnknownNameError) as error:
        if asked:
            raise
        note_missing(name, error)
        return None
    return annotator


def note_missing(name: str, error: Exception) -> None:
    """Say that an annotator is not available and what happens without it."""
    console.print(
        f"note: {name} is not available, its condition is left out: {error}",
        style="yellow",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _refuse_idle(what: str, asked: object, has_effect: bool) -> None:
    if asked and not has_effect:
        raise InputError(
            f"{what} have no effect here",
            got=str(asked),
            do="the model does not take them, or --without or --speed leaves them out; drop one",
        )


def _refuse_masks(maps: Path | None) -> None:
    if maps is not None and maps.is_dir() and any(maps.glob("*/0.png")):
        raise InputError(
            f"{maps} holds single masks, not maps",
            got="folders with 0.png",
            do="merge them with `v2ir annotate DATA --segmentations FOLDER`, and give DATA/seg",
        )


def kept_folder(source: Path, out: Path) -> Path:
    """Return the folder beside the outputs where captions and maps are kept."""
    from v2ir.sampling.kept import KEPT_FOLDER

    single = source.is_file() and out.suffix.lower() == ".png"
    return (out.parent if single else out) / KEPT_FOLDER


def annotate_ahead(
    source: Path,
    out: Path,
    translator: Translator,
    sources: Sources,
    scenes: SceneStyles | None,
) -> Sources:
    """Run the annotators that have weights, one after the other, over what is to be made.

    Those without weights keep up with the denoiser and run beside it.

    Returns:
        The sources without an annotator that turned out not to be available.
    """
    from v2ir.sampling import pending
    from v2ir.sampling.ahead import caption_ahead, segment_ahead

    for what, run in (("captioner", caption_ahead), ("segmenter", segment_ahead)):
        annotator = getattr(sources.annotators, what)
        if annotator is None or not has_weights(annotator):
            continue
        found = pending(source, out, translator, sources.annotators, scenes)
        jobs = [job for job, wanted in found if wanted]
        try:
            with progress_bar(what) as progress:
                run(jobs, translator, sources.annotators, progress=progress)
        except (ModelError, MissingExtraError) as error:
            if what in sources.asked:
                raise
            note_missing(annotator.name, error)
            nothing: dict[str, Any] = {what: None}
            left = dataclasses.replace(sources.annotators, **nothing)
            sources = dataclasses.replace(sources, annotators=left)
    return sources
