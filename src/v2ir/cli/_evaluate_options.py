"""The options of `v2ir evaluate`, each with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_IMAGES, _NETWORKS, _OBJECTS = "Images", "Networks", "Objects"

Predictions = Annotated[
    Path, typer.Argument(metavar="PRED", help="Folder of predicted infrared images (or one image).")
]
Truth = Annotated[
    Path,
    typer.Argument(
        metavar="TRUE", help="Folder of true infrared images (or one), or the data set."
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Indexed data set: gives splits, styles, photographs and training statistics.",
        rich_help_panel=_IMAGES,
    ),
]
Protocol = Annotated[
    str | None,
    typer.Option(
        help="Named protocol: fixes split, counts, size and scores.", rich_help_panel=_IMAGES
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        help="With --data: train, val, test or all; test if not given.", rich_help_panel=_IMAGES
    ),
]
Alignment = Annotated[
    str | None,
    typer.Option(
        help="With --data: only pairs of this alignment, such as strict.", rich_help_panel=_IMAGES
    ),
]
Methods = Annotated[
    list[str],
    typer.Option(
        metavar="NAME=FOLDER",
        help="Another method's images for the same table; repeatable.",
        rich_help_panel=_IMAGES,
    ),
]
Earlier = Annotated[
    list[str],
    typer.Option(
        metavar="NAME=REPORT",
        help="An earlier report's method; refused under another protocol. Repeatable.",
        rich_help_panel=_IMAGES,
    ),
]
Visible = Annotated[
    Path | None,
    typer.Option(
        help="Without --data: folder of photographs, for the baselines.", rich_help_panel=_IMAGES
    ),
]
Reference = Annotated[
    Path | None,
    typer.Option(
        help="Without --data: folder of the training set's infrared images.",
        rich_help_panel=_IMAGES,
    ),
]
Slices = Annotated[
    list[str],
    typer.Option(
        "--slice",
        metavar="NAME=REGEX",
        help="A column of the images whose name holds the expression; repeatable.",
        rich_help_panel=_IMAGES,
    ),
]
Features = Annotated[
    str | None,
    typer.Option(
        help="Compare as sets: efficientnet-lite0, random-convolutions, inception[:FILE], "
        "FILE.onnx or a transformers folder.",
        rich_help_panel=_NETWORKS,
    ),
]
Lpips = Annotated[
    str | None,
    typer.Option(
        help="Measure LPIPS with this backbone: alex, vgg, squeeze.", rich_help_panel=_NETWORKS
    ),
]
Detector = Annotated[
    str | None,
    typer.Option(
        help="Count objects kept, lost and invented: an ONNX file or a transformers detector.",
        rich_help_panel=_OBJECTS,
    ),
]
Boxes = Annotated[
    list[str],
    typer.Option(
        metavar="SIDE=FILE",
        help="Boxes of truth, visible or a method: COCO JSON or a YOLO folder; repeatable.",
        rich_help_panel=_OBJECTS,
    ),
]
Classes = Annotated[
    Path | None,
    typer.Option(help="Class names of an ONNX detector, one a line.", rich_help_panel=_OBJECTS),
]
Against = Annotated[
    str,
    typer.Option(help="Compare objects with: truth or visible.", rich_help_panel=_OBJECTS),
]
Score = Annotated[
    float,
    typer.Option(help="Least confidence of an object that counts.", rich_help_panel=_OBJECTS),
]
NoTruth = Annotated[
    bool,
    typer.Option(
        "--no-truth",
        help="TRUE holds the photographs; only objects are compared.",
        rich_help_panel=_OBJECTS,
    ),
]
Gate = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        help="List images whose kept / (kept + lost + invented) is below; exit 1 for them.",
        rich_help_panel=_OBJECTS,
    ),
]
Quarantine = Annotated[
    Path | None,
    typer.Option(
        help="Move the images below --gate here, with sidecars.", rich_help_panel=_OBJECTS
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(
        help="Write report.html, table.md, summary.json, per_image.csv and pictures here."
    ),
]
Workers = Annotated[int | None, typer.Option(min=1, help="Threads; one a core if not given.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be compared.")]
