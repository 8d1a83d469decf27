"""Objects in images: boxes, their overlap, and the files that hold them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from v2ir.errors import DataError
from v2ir.files import hash_file, read_json


@dataclasses.dataclass(frozen=True)
class Box:
    """One object in an image.

    Attributes:
        label: Name of its class.
        left: Left edge in pixels from the left border.
        top: Upper edge in pixels from the upper border.
        right: Right edge; greater than `left`.
        bottom: Lower edge; greater than `top`.
        score: Confidence in [0, 1]; 1 for a labelled box.
    """

    label: str
    left: float
    top: float
    right: float
    bottom: float
    score: float = 1.0


class BoxSource(Protocol):
    """Whatever tells the objects of an image: a detector, or a file of boxes.

    Attributes:
        name: Name for the report.
        version: Changes when the answers may change.
    """

    name: str
    version: str

    def boxes(self, name: str, image: np.ndarray) -> tuple[Box, ...]:
        """Return the objects of an image, HW or HWC uint8, that has this name."""
        ...


def overlaps(boxes: Sequence[Box], others: Sequence[Box]) -> np.ndarray:
    """Return the intersection over union of each pair, NxM in [0, 1]."""
    first, second = _corners(boxes)[:, None], _corners(others)[None, :]
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., 2:], second[..., 2:])
    shared = np.prod(np.clip(high - low, 0.0, None), axis=2)
    areas = [np.prod(c[..., 2:] - c[..., :2], axis=2) for c in (first, second)]
    union = areas[0] + areas[1] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _corners(boxes: Sequence[Box]) -> np.ndarray:
    rows = [(box.left, box.top, box.right, box.bottom) for box in boxes]
    return np.asarray(rows, dtype=np.float64).reshape(-1, 4)


class BoxFile:
    """Boxes that a file names: a `BoxSource` that never looks at the image."""

    def __init__(self, name: str, version: str, by_name: Mapping[str, tuple[Box, ...]]) -> None:
        self.name, self.version, self.by_name = name, version, by_name

    def boxes(self, name: str, image: np.ndarray) -> tuple[Box, ...]:
        """Return the boxes of the image of this name; none where the file names none."""
        return self.by_name.get(name, ())


SizeOf = Callable[[str], tuple[int, int] | None]
"""Takes the name of an image, gives (width, height) in pixels, or None if there is none."""


def read_boxes(path: Path, size_of: SizeOf) -> BoxFile:
    """Read boxes from a COCO JSON file or a folder of YOLO text files.

    A COCO file is either a data set (`images`, `annotations`, `categories`) or a list of
    results (`image_id`, `category_id`, `bbox`, `score`) whose image ids are the images'
    names. A YOLO folder has `NAME.txt` with lines `class cx cy w h [score]`, relative to
    the image, and may have `classes.txt` with one class name a line.

    Args:
        path: The file or the folder.
        size_of: Sizes of the images, for relative boxes.

    Raises:
        DataError: If it is neither, or a line cannot be read.
    """
    if path.is_dir():
        return _read_yolo(path, size_of)
    return BoxFile(path.name, hash_file(path)[:16] if path.is_file() else "", _read_coco(path))


def _read_coco(path: Path) -> dict[str, tuple[Box, ...]]:
    content = read_json(path)
    try:
        if isinstance(content, list):
            rows, images, labels = content, {}, {}
        else:
            rows = content["annotations"]
            images = {image["id"]: image["file_name"] for image in content["images"]}
            labels = {kind["id"]: str(kind["name"]) for kind in content["categories"]}
        found: dict[str, list[Box]] = {_stem(name): [] for name in images.values()}
        for row in rows:
            name = _stem(str(images.get(row["image_id"], row["image_id"])))
            found.setdefault(name, []).append(_coco_box(row, labels))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is not a COCO file",
            got=f"{type(error).__name__}: {error}",
            do="give images, annotations and categories, or a list of results",
        ) from error
    return {name: tuple(boxes) for name, boxes in found.items()}


def _coco_box(row: Mapping[str, Any], labels: Mapping[Any, str]) -> Box:
    left, top, width, height = map(float, row["bbox"])
    label = labels.get(row["category_id"], str(row["category_id"]))
    return Box(label, left, top, left + width, top + height, float(row.get("score", 1.0)))


def _stem(name: str) -> str:
    path = PurePosixPath(name)
    return path.with_suffix("").as_posix() if path.suffix else name


def _read_yolo(folder: Path, size_of: SizeOf) -> BoxFile:
    classes = folder / "classes.txt"
    labels = classes.read_text(encoding="utf-8").split("\n") if classes.is_file() else []
    found, keys = {}, []
    for path in sorted(folder.rglob("*.txt")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        size = size_of(name)
        if path != classes and size is not None:
            found[name] = _yolo_boxes(path, size, labels)
            keys.append(hash_file(path)[:4])
    if not found:
        raise DataError(
            f"{folder} holds no boxes of these images",
            do="give NAME.txt files in YOLO form, or a COCO JSON file",
        )
    return BoxFile(folder.name, "".join(keys)[:64], found)


def _yolo_boxes(path: Path, size: tuple[int, int], labels: Sequence[str]) -> tuple[Box, ...]:
    boxes = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            kind, *rest = line.split()
            x, y, w, h, *score = map(float, rest)
            label = labels[int(kind)] if int(kind) < len(labels) else kind
        except ValueError as error:
            raise DataError(f"{path}:{number} is not a YOLO line", got=line.strip()) from error
        corners = ((x - w / 2) * size[0], (y - h / 2) * size[1])
        ends = ((x + w / 2) * size[0], (y + h / 2) * size[1])
        boxes.append(Box(label, *corners, *ends, *score[:1]))
    return tuple(boxes)
