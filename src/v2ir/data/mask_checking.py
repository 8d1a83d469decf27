"""What is wrong with the thermal masks of a data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from v2ir.data.inspection import Inspection
from v2ir.data.scenes import scene_name
from v2ir.errors import ImageReadError
from v2ir.files import image_paths
from v2ir.images import read_map
from v2ir.records import Finding

FOLDER = "mask"
READ_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
_JPEG_SUFFIXES = frozenset({".jpg", ".jpeg"})
_HALF = 127
_ALL_HOT = 0.98
_NOISE_REACH = 32
_LEAST_NOISE = 0.005
_NOISE_TO_DOUBT = 3.0


@dataclasses.dataclass(frozen=True)
class SeenMask:
    """A thermal mask as it is on disk.

    Attributes:
        where: Path relative to the data set.
        is_jpeg: Whether its grey values are cut at one half when it is read.
        size: (width, height) in pixels.
        hot: Mean heat, 0..1, as training reads the file.
        noise: Share of the pixels near 0 or 255 without being it.
        doubt: Share of the pixels in between.
    """

    where: str
    is_jpeg: bool
    size: tuple[int, int]
    hot: float
    noise: float
    doubt: float

    @property
    def is_noisy(self) -> bool:
        """Whether the grey values are those of a compression and no soft mask.

        A soft mask passes through all greys alike, which puts a quarter of them near the
        ends; a JPEG's ringing stays there.
        """
        return self.noise >= _LEAST_NOISE and self.noise > _NOISE_TO_DOUBT * self.doubt


def see_mask(root: Path, path: Path) -> SeenMask:
    """Measure a mask.

    Raises:
        ImageReadError: If it is no whole image.
    """
    pixels = read_map(path)
    if pixels.ndim == 3:
        pixels = pixels.max(axis=-1)
    is_jpeg = path.suffix.lower() in _JPEG_SUFFIXES
    low = (pixels > 0) & (pixels < _NOISE_REACH)
    high = (pixels < 255) & (pixels > 255 - _NOISE_REACH)
    between = (pixels >= _NOISE_REACH) & (pixels <= 255 - _NOISE_REACH)
    heat = (pixels > _HALF) if is_jpeg else pixels / 255.0
    return SeenMask(
        where=path.relative_to(root).as_posix(),
        is_jpeg=is_jpeg,
        size=(pixels.shape[1], pixels.shape[0]),
        hot=float(np.mean(heat)),
        noise=float(np.mean(low | high)),
        doubt=float(np.mean(between)),
    )


def masks(inspection: Inspection) -> Iterator[Finding]:
    """Find thermal masks that are unreadable, empty, all hot, misshapen, noisy or not used."""
    sizes = {
        item.scene.name: item.infrared.size if item.infrared else None for item in inspection.scenes
    }
    folder = inspection.root / FOLDER
    strangers: list[str] = []
    jpegs: list[str] = []
    for path in image_paths(folder) if folder.is_dir() else []:
        name = scene_name(PurePosixPath(path.relative_to(folder).as_posix()))
        where = path.relative_to(inspection.root).as_posix()
        if path.suffix.lower() not in READ_SUFFIXES or name not in sizes:
            strangers.append(where)
            continue
        try:
            seen = see_mask(inspection.root, path)
        except ImageReadError as error:
            what = f"{error.what}: {error.got}"
            yield Finding("unreadable", (where,), what, "remove it, and make or take it again")
            continue
        if seen.is_jpeg:
            jpegs.append(where)
        yield from _of_mask(seen, sizes[name])
    yield from _of_all(strangers, jpegs)


def _of_mask(seen: SeenMask, wanted: tuple[int, int] | None) -> Iterator[Finding]:
    where = (seen.where,)
    if wanted is not None and seen.size != wanted:
        yield Finding(
            "size",
            where,
            f"{seen.where} is {seen.size[0]}x{seen.size[1]}, its infrared image "
            f"{wanted[0]}x{wanted[1]}",
            "make it again at the infrared image's size: `v2ir annotate --thermal-mask METHOD`",
        )
    if seen.hot == 0 or seen.hot > _ALL_HOT:
        shown = "all cold" if seen.hot == 0 else f"hot in {seen.hot:.0%} of its pixels"
        yield Finding(
            "empty mask",
            where,
            f"{seen.where} is {shown} and tells no heat from cold",
            "right for a scene without anything warm; else make it by another method",
            severity="warning",
        )
    elif seen.is_noisy and not seen.is_jpeg:
        yield Finding(
            "noisy mask",
            where,
            f"{seen.where} is lossless but has the grey values of a JPEG in {seen.noise:.1%} of "
            "its pixels, which count as a little heat",
            "cut it at one half and save it again",
            severity="warning",
        )


def _of_all(strangers: list[str], jpegs: list[str]) -> Iterator[Finding]:
    if strangers:
        yield Finding(
            "unused mask",
            tuple(strangers),
            f"{len(strangers)} files in {FOLDER}/ are no masks of a scene, such as {strangers[0]}; "
            "nothing reads them",
            "take them with `v2ir annotate --thermal-masks FOLDER`, which knows NAME_mask.jpg too",
            severity="warning",
        )
    if jpegs:
        yield Finding(
            "jpeg mask",
            tuple(jpegs),
            f"{len(jpegs)} masks are JPEGs, such as {jpegs[0]}: they are cut at one half, so "
            "that no noise of the compression is hot",
            "nothing; `v2ir annotate --thermal-masks FOLDER` turns them into lossless ones",
            severity="note",
        )
