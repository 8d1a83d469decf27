"""Classes of whole images: a list, a folder a class, or a field of the scenes."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import difflib
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from v2ir.errors import DataError, UnknownNameError
from v2ir.files import IMAGE_SUFFIXES
from v2ir.proof.scenes import ProofScene

COLUMNS = ("name", "label")
FIELDS: dict[str, Callable[[ProofScene], str | None]] = {"style": lambda scene: scene.style}
"""Fields of a scene that can be seen in its image and occur in more than one split."""
_BOX_WORDS = 5


@dataclasses.dataclass(frozen=True)
class ImageClasses:
    """Labels that tell one class of each image.

    Attributes:
        name: Name for the report.
        by_name: Class by name of scene.
    """

    name: str
    by_name: Mapping[str, str]
    kind = "classification"
    least_score = None

    @property
    def version(self) -> str:
        """Changes when a class does."""
        text = json.dumps(sorted(self.by_name.items()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def tell(self, scene: ProofScene) -> ProofScene:
        """Return the scene with its class.

        Raises:
            DataError: If the labels do not name it.
        """
        if scene.name not in self.by_name:
            raise DataError("left out: the labels do not name it")
        return dataclasses.replace(scene, label=self.by_name[scene.name])


def read_class_list(path: Path, names: Collection[str]) -> ImageClasses:
    """Read a CSV file with a header that has the columns `name` and `label`.

    Args:
        path: The file; its other columns are passed over, and so are names of other images.
        names: Names of the scenes, with which the file's may have an extension more.

    Raises:
        DataError: If it cannot be read, a row is incomplete, an image has two classes, or
            no row names a scene.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream)
            header = [column.strip() for column in rows.fieldnames or ()]
            _require_columns(path, header)
            rows.fieldnames = header
            pairs = [(rows.line_num, row["name"] or "", row["label"] or "") for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read", got=str(error), do="give a CSV file in UTF-8"
        ) from error
    for number, name, label in pairs:
        if not name.strip() or not label.strip():
            raise DataError(
                f"{path}:{number} is incomplete",
                got=f"name {name!r}, label {label!r}",
                do="give each row a name and a class, or remove it",
            )
    found = ((_scene_name(name.strip(), names), label.strip()) for _, name, label in pairs)
    return ImageClasses(path.name, _one_class_each(path, found, names))


def _require_columns(path: Path, header: Sequence[str]) -> None:
    if not set(COLUMNS) <= set(header):
        raise DataError(
            f"{path} has no header with the columns {' and '.join(COLUMNS)}",
            got=f"first line: {','.join(header) or 'nothing'}",
            do=f"begin the file with the line: {','.join(COLUMNS)}",
        )


def _scene_name(text: str, names: Collection[str]) -> str:
    path = PurePosixPath(text)
    is_file = path.suffix.lower() in IMAGE_SUFFIXES and text not in names
    return path.with_suffix("").as_posix() if is_file else text


def is_class_folder(folder: Path, names: Collection[str]) -> bool:
    """Return whether a folder holds `CLASS/NAME.*` for scenes, and no boxes of them."""
    if not folder.is_dir():
        return False
    members = list(_members(folder))
    if any(f"{label}/{name}" in names for _, label, name in members):
        return False  # its subfolders belong to the names: files of boxes
    told = [path for path, _, name in members if name in names]
    return bool(told) and not any(_holds_boxes(path) for path in told)


def _members(folder: Path) -> Iterable[tuple[Path, str, str]]:
    """Yield (path, class, name) of every file in a subfolder; hidden ones are passed over."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).with_suffix("").parts
        if len(parts) > 1 and path.is_file() and not any(p.startswith(".") for p in parts):
            yield path, parts[0], "/".join(parts[1:])


def _holds_boxes(path: Path) -> bool:
    """Return whether a text begins like YOLO's boxes: a class and four numbers."""
    if path.suffix.lower() != ".txt":
        return False
    words = path.read_text(encoding="utf-8", errors="replace").split()[:_BOX_WORDS]
    with contextlib.suppress(ValueError):
        return len([float(word) for word in words[1:]]) == _BOX_WORDS - 1
    return False


def read_class_folder(folder: Path, names: Collection[str]) -> ImageClasses:
    """Read `CLASS/NAME.jpg`, `CLASS/NAME.txt` or any other file; only its path counts.

    Args:
        folder: Folder with one subfolder a class, as ImageNet has them.
        names: Names of the scenes.

    Raises:
        DataError: If an image is in two classes.
    """
    pairs = ((name, label) for _, label, name in _members(folder))
    return ImageClasses(folder.name, _one_class_each(folder, pairs, names))


def classes_of_field(field: str, scenes: Sequence[ProofScene]) -> ImageClasses:
    """Take a field of the data set's own scenes for their class.

    Raises:
        UnknownNameError: If the field is none of `FIELDS`.
        DataError: If no scene states it.
    """
    if field not in FIELDS:
        raise UnknownNameError.of("field of scenes to learn", field, FIELDS)
    stated = {scene.name: FIELDS[field](scene) for scene in scenes}
    found = {name: value for name, value in stated.items() if value}
    if not found:
        raise DataError(
            f"no scene of the data set states its {field}",
            do="give it when indexing, or labels of your own as a CSV file",
        )
    return ImageClasses(f"scenes:{field}", found)


def _one_class_each(
    place: Path, pairs: Iterable[tuple[str, str]], names: Collection[str]
) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, label in pairs:
        if found.setdefault(name, label) != label:
            raise DataError(
                f"{place} gives the image {name} two classes",
                got=f"{found[name]} and {label}",
                do="leave it one; for several things in an image give boxes",
            )
    if found.keys().isdisjoint(names):
        first = min(found, default="")
        near = difflib.get_close_matches(first, names, n=1, cutoff=0.0)
        raise DataError(
            f"{place} names no scene of the data set",
            got=f"{first!r}" if first else "no row",
            do=f"give names as the data set has them, such as {', '.join(near)}",
        )
    return found
