"""Boxes in Pascal VOC's form: a folder with one XML file an image, as LLVIP has them."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from v2ir.errors import DataError
from v2ir.evaluation.boxes import Box, BoxFile
from v2ir.files import hash_file


def is_voc(folder: Path) -> bool:
    """Return whether a folder holds XML files."""
    return folder.is_dir() and next(folder.rglob("*.xml"), None) is not None


def read_voc(folder: Path) -> BoxFile:
    """Read `NAME.xml` files with `object/name` and `object/bndbox/{xmin,ymin,xmax,ymax}`.

    Pixels of VOC are counted from 1 and both corners belong to the box, so that a box from
    1 to 10 covers the first ten pixels: its edges are 0 and 10 here. A file without
    objects says that its image has none.

    Raises:
        DataError: If there is no such file or one cannot be read.
    """
    found, keys = {}, []
    for path in sorted(folder.rglob("*.xml")):
        found[path.relative_to(folder).with_suffix("").as_posix()] = _boxes(path)
        keys.append(hash_file(path)[:4])
    if not found:
        raise DataError(f"{folder} holds no boxes", do="give NAME.xml files in VOC form")
    return BoxFile(folder.name, "".join(keys)[:64], found)


def _boxes(path: Path) -> tuple[Box, ...]:
    try:
        root = ElementTree.parse(path).getroot()
        return tuple(_box(thing) for thing in root.iter("object"))
    except (ElementTree.ParseError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is not a VOC file",
            got=f"{type(error).__name__}: {error}",
            do="each object needs a name and a bndbox of xmin, ymin, xmax and ymax",
        ) from error


def _box(thing: ElementTree.Element) -> Box:
    label = thing.findtext("name")
    edges = [float(thing.findtext(f"bndbox/{key}") or "") for key in _EDGES]
    left, top, right, bottom = edges[0] - 1, edges[1] - 1, edges[2], edges[3]
    if not label or right <= left or bottom <= top:
        raise ValueError(f"object {label!r} with the edges {edges}")
    return Box(label.strip(), left, top, right, bottom)


_EDGES = ("xmin", "ymin", "xmax", "ymax")
