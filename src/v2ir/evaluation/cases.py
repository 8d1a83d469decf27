"""Which images belong together, and how they are read: the plan of a comparison."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from v2ir.errors import InputError
from v2ir.evaluation import BASELINES
from v2ir.evaluation.baselines import luma_levels
from v2ir.evaluation.context import SCENES_FILE, Context, named_images
from v2ir.evaluation.grey import Grey
from v2ir.evaluation.nearest import NEAREST, Gallery
from v2ir.evaluation.protocols import Protocol
from v2ir.evaluation.protocols.choosing import unnamed_protocol
from v2ir.evaluation.statistics import Reference, TrainingStatistics
from v2ir.images import read_infrared, read_infrared_levels, read_visible

PREDICTION = "prediction"
TRUTH = "truth"


@dataclasses.dataclass(frozen=True)
class Case:
    """One image to compare.

    Attributes:
        name: Path of the image below its folder, without the extension.
        style: Name of the camera's look, if it is known.
        truth: The true infrared image.
        predictions: The image of each method, in the order of `Plan.methods`.
        visible: The photograph, if it is known.
        map: The segmentation map, if there is one.
        group: Scene group; the name itself where none is known.
    """

    name: str
    style: str | None
    truth: Path
    predictions: tuple[Path, ...]
    visible: Path | None
    map: Path | None = None
    group: str = ""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What will be compared, decided from the names of the files alone.

    Attributes:
        methods: Names of the compared methods; the first is the one to be judged.
        cases: Images that every method has.
        failures: (name, reason) of images that cannot take part.
        extra: Predictions that have no truth; they are left out.
        context: What is known about the images.
        protocol: What the numbers are measured under.
    """

    methods: tuple[str, ...]
    cases: tuple[Case, ...]
    failures: tuple[tuple[str, str], ...]
    extra: tuple[str, ...]
    context: Context
    protocol: Protocol


@dataclasses.dataclass(frozen=True)
class Knowledge:
    """What the training set tells, from which the baselines are made.

    Attributes:
        reference: Grey levels of the training images; without it there are no baselines.
        gallery: Photographs of the training images; without it none is looked up.
    """

    reference: Reference | None = None
    gallery: Gallery | None = None

    def baselines(self, context: Context) -> tuple[str, ...]:
        """Return the names of the baselines that can be made."""
        if self.reference is None or not context.has_baselines:
            return ()
        return (*BASELINES, NEAREST) if self.gallery else tuple(BASELINES)

    def statistics(self, style: str | None) -> TrainingStatistics | None:
        """Return the grey levels of the training images of a style."""
        return self.reference.of(style) if self.reference else None


def plan_comparison(
    predictions: Path | Mapping[str, Path],
    truth: Path,
    context: Context | None = None,
    protocol: Protocol | None = None,
) -> Plan:
    """Match predictions with the truth by stem; nothing is decoded.

    An image takes part when every method has it, so that all rows of a table are means
    over the same images.

    Args:
        predictions: Folder (or one file) with predicted images, or several by name.
        truth: Folder with the true images, one file, or the data set of `context`.
        context: What is known about the images.
        protocol: What to measure under; None makes one of the selected names.

    Raises:
        InputError: If a folder is missing or no image takes part.
    """
    context = context or Context()
    folders = {PREDICTION: predictions} if isinstance(predictions, Path) else dict(predictions)
    _check_names(folders)
    truths, failures = _truths(truth, context)
    images: dict[str, dict[str, Path]] = {}
    for method, folder in folders.items():
        images[method], taken = named_images(folder)
        if folder.is_file() and truth.is_file():
            images[method] = dict.fromkeys(truths, folder)
        failures += taken
    names = sorted(truths if context.selected is None else context.selected)
    cases, missing = _cases(names, truths, images, context)
    if not cases:
        raise InputError(
            f"no image of {', '.join(map(str, folders.values()))} has a partner in {truth}",
            got=f"{len(names)} true images, {sum(map(len, images.values()))} predictions",
            do="images belong together when their paths are equal up to the extension",
        )
    # A prediction whose truth exists but is not selected is nobody's mistake.
    extra = sorted({name for found in images.values() for name in found} - set(truths))
    return Plan(
        methods=tuple(folders),
        cases=cases,
        failures=(*failures, *missing),
        extra=tuple(extra),
        context=context,
        protocol=protocol or unnamed_protocol(context, names),
    )


def _check_names(folders: Mapping[str, Path]) -> None:
    clash = sorted(set(folders) & {*BASELINES, NEAREST, TRUTH})
    if clash or not folders:
        raise InputError(
            "a method needs a name of its own",
            got=", ".join(clash) or "no method",
            do=f"choose other names than: {', '.join((*BASELINES, NEAREST, TRUTH))}",
        )


def _truths(truth: Path, context: Context) -> tuple[dict[str, Path], list[tuple[str, str]]]:
    """List the true images: those that the data set names, or those of a folder."""
    if context.truth and (truth / SCENES_FILE).is_file():
        return dict(context.truth), []
    return named_images(truth)


def _cases(
    names: Iterable[str],
    truths: Mapping[str, Path],
    images: Mapping[str, Mapping[str, Path]],
    context: Context,
) -> tuple[tuple[Case, ...], list[tuple[str, str]]]:
    cases, missing = [], []
    for name in names:
        absent = [method for method, found in images.items() if name not in found]
        photograph = context.visible.get(name)
        if name not in truths:
            missing.append((name, "selected from the data set, but there is no true image"))
        elif absent:
            missing.append((name, f"no image of: {', '.join(absent)}"))
        elif photograph is None and context.has_baselines:
            missing.append((name, "no photograph to make the baselines from"))
        else:
            paths = tuple(found[name] for found in images.values())
            style, group = context.styles.get(name), context.groups.get(name, name)
            map_path = context.maps.get(name)
            cases.append(Case(name, style, truths[name], paths, photograph, map_path, group))
    return tuple(cases), missing


def read_truth(plan: Plan, case: Case) -> np.ndarray:
    """Return the true image as the protocol wants it, HW float32 in [0, 1]."""
    return read_grey(plan, case.truth).image


def read_grey(plan: Plan, path: Path) -> Grey:
    """Return an infrared image as the protocol wants it, as levels where it is of 8 bits.

    Raises:
        ImageReadError: If the file cannot be read.
    """
    if plan.protocol.resize is None:
        return Grey(read_infrared_levels(path))
    return Grey(plan.protocol.prepared(read_infrared(path)))


def read_photograph(plan: Plan, case: Case) -> np.ndarray | None:
    """Return the photograph as the protocol wants it, HWC uint8; None if there is none."""
    return plan.protocol.prepared(read_visible(case.visible)) if case.visible else None


def images_of(
    plan: Plan,
    case: Case,
    knowledge: Knowledge,
    shape: tuple[int, ...],
    photograph: np.ndarray | None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (method, HW float image): the predictions, then the baselines, one at a time.

    Args:
        plan: The plan.
        case: One of its cases.
        knowledge: What the baselines are made from.
        shape: (height, width) of the truth in pixels.
        photograph: The photograph, from `read_photograph`.

    Raises:
        ImageReadError: If an image cannot be read.
        InputError: If an image has another size than the truth.
    """
    visible = None if photograph is None else Grey(luma_levels(photograph))
    for method, image in greys_of(plan, case, knowledge, shape, visible):
        yield method, image.image


def greys_of(
    plan: Plan, case: Case, knowledge: Knowledge, shape: tuple[int, ...], visible: Grey | None
) -> Iterator[tuple[str, Grey]]:
    """Yield what `images_of` yields as `Grey`; `visible` is the photograph's luma.

    Raises:
        ImageReadError: If an image cannot be read.
        InputError: If an image has another size than the truth.
    """
    for method, path in zip(plan.methods, case.predictions, strict=True):
        yield method, _of_size(method, read_grey(plan, path), shape)
    statistics = knowledge.statistics(case.style)
    if statistics is None or visible is None or case.visible is None:
        return
    for name, baseline in BASELINES.items():
        pixels = baseline.function(visible.levels, statistics)
        # The photograph itself is measured once, whatever name it goes by.
        image = visible if pixels is visible.levels else Grey(pixels)
        yield name, _of_size(name, image, shape)
    if knowledge.gallery:
        yield NEAREST, Grey(knowledge.gallery.image(case.visible, case.style, shape))


def _of_size(method: str, image: Grey, shape: tuple[int, ...]) -> Grey:
    found = image.pixels.shape
    if found != shape:
        raise InputError(
            f"{method} has another size than the truth",
            got=f"{found[1]}x{found[0]} against {shape[1]}x{shape[0]} px",
            do="translate at the photograph's own size; nothing is resized here",
        )
    return image
