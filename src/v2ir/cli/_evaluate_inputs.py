"""What the options of `v2ir evaluate` mean: records for the functions behind it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from v2ir.cli.console import progress_bar
from v2ir.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from v2ir.evaluation.cases import Knowledge, Plan
    from v2ir.evaluation.context import Context
    from v2ir.evaluation.objects import Detection
    from v2ir.evaluation.protocols import Protocol

STATISTICS_FILE = "training_statistics.json"


@dataclasses.dataclass(frozen=True)
class Known:
    """The options that say what is known about the images.

    Attributes:
        data: Indexed data set.
        split: Split of it.
        alignment: Alignment of its pairs.
        visible: Folder of photographs, without a data set.
        reference: Folder of training images, without a data set.
    """

    data: Path | None
    split: str | None
    alignment: str | None
    visible: Path | None
    reference: Path | None


@dataclasses.dataclass(frozen=True)
class Detecting:
    """The options that say where objects come from.

    Attributes:
        detector: Detector for every image.
        boxes: SIDE=FILE of boxes from elsewhere.
        classes: File with the class names of an ONNX detector.
        against: Side to compare objects with.
        score: Least confidence.
        has_truth: Whether there are true infrared images.
    """

    detector: str | None
    boxes: Sequence[str]
    classes: Path | None
    against: str
    score: float
    has_truth: bool


def context_of(known: Known, truth: Path, protocol: Protocol | None) -> Context:
    """Say what is known about the images."""
    from v2ir.evaluation import context
    from v2ir.evaluation.protocols.choosing import context_of_protocol

    data = known.data
    if data is None and (truth / context.SCENES_FILE).is_file():
        data = truth
    if protocol is not None:
        return context_of_protocol(protocol, _data_of(protocol, known, data))
    if data is not None:
        if known.visible or known.reference:
            raise InputError("--data already gives what --visible and --reference give")
        selection = context.Selection(known.split or "test", known.alignment)
        return context.context_of_data(data, selection)
    if known.split or known.alignment:
        raise InputError("--split and --alignment select from a data set", do="add --data FOLDER")
    if known.visible and known.reference:
        return context.context_of_folders(known.visible, known.reference)
    if known.visible or known.reference:
        raise InputError("the baselines need --visible and --reference", do="give both or --data")
    return context.Context()


def _data_of(protocol: Protocol, known: Known, data: Path | None) -> Path:
    if known.split or known.alignment or known.visible or known.reference:
        raise InputError(
            f"the protocol {protocol.name} fixes what is compared",
            do="leave --split, --alignment, --visible and --reference out",
        )
    if data is None:
        raise InputError(f"the protocol {protocol.name} needs the data set", do="add --data FOLDER")
    return data


def named(texts: Iterable[str], option: str, taken: Iterable[str] = ()) -> dict[str, str]:
    """Split each NAME=VALUE of an option; names must differ, and not be `taken`."""
    found: dict[str, str] = {}
    refused = set(taken)
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value) or name in found or name in refused:
            raise InputError(
                f"{option} takes NAME=VALUE with a name of its own",
                got=text,
                do=f"for instance {option} pix2pix=outputs/pix2pix"
                + (f"; taken: {', '.join(sorted(refused))}" if refused else ""),
            )
        found[name] = value
    return found


def named_folders(methods: Sequence[str]) -> dict[str, Path]:
    """Split each NAME=FOLDER of --methods."""
    from v2ir.evaluation.cases import PREDICTION

    try:
        found = named(methods, "--methods", [PREDICTION])
    except InputError as error:
        raise InputError(
            "a method is NAME=FOLDER with a name of its own",
            got=error.got,
            do=f"for instance --methods pix2pix=outputs/pix2pix; {PREDICTION!r} is taken",
        ) from error
    return {name: Path(value) for name, value in found.items()}


def knowledge_of(context: Context, report: Path | None) -> tuple[Knowledge, list[tuple[str, str]]]:
    """Take the training statistics from the report of an earlier run, or count them."""
    from v2ir.evaluation import nearest, statistics
    from v2ir.evaluation.cases import Knowledge
    from v2ir.evaluation.report import json_bytes, write_if_changed

    if not context.has_baselines:
        return Knowledge(), []
    path = report / STATISTICS_FILE if report else None
    reference = statistics.cached_reference(path, context.training) if path else None
    unread: list[tuple[str, str]] = []
    if reference is None:
        with progress_bar("training statistics") as progress:
            reference, unread = statistics.measure_reference(context.training, progress)
        # With unread images the result is not what its key promises, so it is not kept.
        if path and not unread:
            write_if_changed(path, json_bytes(reference.to_json(), indent=None))
    if not any(image.visible for image in context.training):
        return Knowledge(reference), unread
    with progress_bar("training photographs") as progress:
        gallery, dark = nearest.build_gallery(context.training, progress)
    return Knowledge(reference, gallery), [*unread, *dark]


def detection_of(options: Detecting, plan: Plan) -> Detection | None:
    """Open the detector and the files of boxes; None where neither is given."""
    from v2ir.evaluation.cases import TRUTH
    from v2ir.evaluation.detectors import load_box_source
    from v2ir.evaluation.faithfulness import MatchRule
    from v2ir.evaluation.objects import AGAINST, Detection
    from v2ir.images import image_size

    if options.detector is None and not options.boxes:
        return None
    against = options.against if options.has_truth else "visible"
    if against not in AGAINST:
        raise UnknownNameError.of("side to compare objects with", against, AGAINST)
    truths = {case.name: case.truth for case in plan.cases}

    def size_of(name: str) -> tuple[int, int] | None:
        return image_size(truths[name]) if name in truths else None

    sides = named(options.boxes, "--boxes")
    for side in sides:
        if side not in {TRUTH, "visible", *plan.methods}:
            raise UnknownNameError.of("side of --boxes", side, (TRUTH, "visible", *plan.methods))
    return Detection(
        detector=load_box_source(options.detector, size_of, options.classes)
        if options.detector
        else None,
        own={side: load_box_source(file, size_of) for side, file in sides.items()},
        rule=MatchRule(score=options.score),
        against=against,
    )
