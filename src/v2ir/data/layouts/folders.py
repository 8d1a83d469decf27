"""The layout of v2ir and of DiffV2IR: `rgb/`, `ir/`, `seg/`, `mask/`, `seeds.json`."""

from __future__ import annotations

from pathlib import Path

from v2ir.data.layouts.listing import KINDS, Kind, Listing, by_name, no_images
from v2ir.data.scenes import read_seeds


def folders(source: Path) -> Listing:
    """Find the images of a folder with `rgb/` or `ir/`, stems matching, extensions free.

    Raises:
        DataError: If neither folder holds an image, or `seeds.json` cannot be read.
    """
    files: dict[Kind, dict[str, Path]] = {}
    failures: list[tuple[str, str]] = []
    for kind in KINDS:
        if kind != "captions" and (source / kind).is_dir():
            files[kind], taken = by_name(source / kind)
            failures += taken
    if not files.get("rgb") and not files.get("ir"):
        raise no_images(source, "images below rgb/ or ir/")
    if (source / "captions").is_dir():
        texts = sorted((source / "captions").rglob("*.txt"))
        below = source / "captions"
        files["captions"] = {
            text.relative_to(below).with_suffix("").as_posix(): text for text in texts
        }
    seeds = read_seeds(source)
    if seeds is None:
        return Listing(files=files, failures=tuple(failures))
    found = files.get("rgb", {}).keys() | files.get("ir", {}).keys()
    failures += [
        (f"{source / 'seeds.json'}: {name}", "no such image below rgb/ or ir/; remove the entry")
        for name in seeds
        if name not in found
    ]
    return Listing(files=files, order=tuple(seeds), failures=tuple(failures))
