"""What is wrong with a data set, and what to do about it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from v2ir.data.alignment import TOLERANCE, WIDTH
from v2ir.data.fingerprints import joined, near_pairs
from v2ir.data.inspection import Inspection, SeenFile, SeenScene, inspect
from v2ir.data.mask_checking import masks
from v2ir.errors import ImageReadError, UnknownNameError
from v2ir.images import image_size, read_thumbnail
from v2ir.records import Finding, Progress, Scene, no_progress

_WHITE, _BLACK = 0.98, 0.02
_MAP_SIDE = 64


def check(
    root: Path, *, skip: Iterable[str] = (), progress: Progress = no_progress
) -> list[Finding]:
    """Look for everything that would spoil a training or an evaluation.

    Args:
        root: Folder of an indexed data set.
        skip: Names of `CHECKS` to leave out.
        progress: Told after each scene.

    Returns:
        The findings, the gravest first.

    Raises:
        DataError: If the data set has no index.
        UnknownNameError: If a name in `skip` is not one of `CHECKS`.
    """
    left_out = set(skip)
    for name in left_out - CHECKS.keys():
        raise UnknownNameError.of("check", name, CHECKS)
    inspection = inspect(root, alignment="alignment" not in left_out, progress=progress)
    found = [
        finding
        for name, look in CHECKS.items()
        if name not in left_out
        for finding in look(inspection)
    ]
    grave = {"error": 0, "warning": 1, "note": 2}
    return sorted(found, key=lambda finding: grave[finding.severity])


def unreadable(inspection: Inspection) -> Iterator[Finding]:
    """Find files that are gone or that are not whole images."""
    for seen in (*_files(inspection), *inspection.unindexed):
        if seen.is_missing:
            yield Finding(
                "missing",
                (seen.path,),
                f"{seen.path} {seen.failure}",
                "bring it back, or run `v2ir index` again to take it out of the index",
            )
        elif seen.failure:
            yield Finding(
                "unreadable",
                (seen.path,),
                f"{seen.path} {seen.failure}",
                "copy or export it again, or remove it; then run `v2ir index`",
            )


def stale(inspection: Inspection) -> Iterator[Finding]:
    """Find files that changed since the index was made, or that it does not know."""
    for item in inspection.scenes:
        indexed = (item.scene.visible_hash, item.scene.infrared_hash)
        for seen, known in zip((item.visible, item.infrared), indexed, strict=True):
            if seen and seen.hash and known and seen.hash != known:
                yield Finding(
                    "stale",
                    (seen.path,),
                    f"{seen.path} has changed since it was indexed",
                    "run `v2ir index` and `v2ir annotate` again",
                )
    strangers = tuple(seen.path for seen in inspection.unindexed if not seen.failure)
    if strangers:
        yield Finding(
            "unindexed",
            strangers,
            f"{len(strangers)} images are not in the index, such as {strangers[0]}",
            "run `v2ir index` again",
            severity="warning",
        )


def sizes(inspection: Inspection) -> Iterator[Finding]:
    """Find pairs whose images differ in size."""
    for item in inspection.scenes:
        if item.visible and item.infrared and item.visible.size and item.infrared.size:
            one, other = item.visible.size, item.infrared.size
            if one != other:
                yield Finding(
                    "size",
                    (item.visible.path, item.infrared.path),
                    f"{item.scene.name}: visible {one[0]}x{one[1]}, infrared {other[0]}x{other[1]}",
                    "register the pair (calibration or a homography) and store both at one size",
                )


def one_sided(inspection: Inspection) -> Iterator[Finding]:
    """Find scenes without a partner where there are others with one."""
    scenes = [item.scene for item in inspection.scenes]
    alone = {
        "visible": tuple(s.name for s in scenes if s.infrared is None),
        "infrared": tuple(s.name for s in scenes if s.visible is None),
    }
    if all(alone.values()):
        severity, hint = "warning", "where these are pairs, give both files the same stem"
    elif any(scene.is_pair for scene in scenes):
        severity, hint = "note", "nothing, if they are meant to be alone"
    else:
        return
    for kind, names in alone.items():
        if names:
            yield Finding(
                "one-sided",
                names,
                f"{len(names)} scenes have only their {kind} image",
                hint,
                severity=severity,  # type: ignore[arg-type]
            )


def duplicates(inspection: Inspection) -> Iterator[Finding]:
    """Find files with the same bytes under several names."""
    owners: dict[str, list[tuple[SeenFile, Scene]]] = defaultdict(list)
    for item in inspection.scenes:
        for seen in item.files:
            if seen.hash:
                owners[seen.hash].append((seen, item.scene))
    for same in owners.values():
        if len(same) < 2:
            continue
        paths = tuple(seen.path for seen, _ in same)
        if len({scene.name for _, scene in same}) < len(same):
            what = f"{' and '.join(paths[:2])} are the same file on both sides of a pair"
            yield Finding("duplicate", paths, what, "replace the one that is of the wrong kind")
            continue
        splits = sorted({scene.split for _, scene in same})
        yield Finding(
            "duplicate",
            paths,
            f"{len(same)} files have the same bytes: {', '.join(paths[:3])}"
            + (f", in {' and '.join(splits)}" if len(splits) > 1 else ""),
            "keep one of them and run `v2ir index` again",
            severity="error" if len(splits) > 1 else "warning",
        )


def leakage(inspection: Inspection) -> Iterator[Finding]:
    """Find near-duplicates that are in different splits, and groups that are torn."""
    scenes = [item.scene for item in inspection.scenes]
    parts = np.array([scene.split for scene in scenes])
    for side in ("visible", "infrared"):
        files = [getattr(item, side) for item in inspection.scenes]
        across = [
            block[parts[block[:, 0]] != parts[block[:, 1]]]
            for block in near_pairs([seen and seen.print for seen in files])
        ]
        pairs = np.concatenate([*across, np.empty((0, 3), dtype=np.int64)])
        yield from _leaks(pairs, scenes, side)
    groups: dict[str, set[str]] = defaultdict(set)
    for scene in scenes:
        groups[scene.group].add(scene.split)
    for group, splits in groups.items():
        if len(splits) > 1:
            yield Finding(
                "leakage",
                tuple(scene.name for scene in scenes if scene.group == group),
                f"the scene group {group} is in {' and '.join(sorted(splits))}",
                "run `v2ir index --redraw`",
            )


def _leaks(pairs: np.ndarray, scenes: Sequence[Scene], side: str) -> Iterator[Finding]:
    """Report each cluster of near-duplicates by its closest pair."""
    lowest = joined(len(scenes), [pairs])
    for cluster in np.unique(lowest[pairs[:, 0]]):
        members = pairs[lowest[pairs[:, 0]] == cluster]
        one, other, bits = members[members[:, 2].argmin()]
        first, second = scenes[one], scenes[other]
        names = tuple(scenes[i].name for i in np.unique(members[:, :2]))
        yield Finding(
            "leakage",
            names,
            f"{len(names)} look-alikes ({side}) across splits, the closest {first.name} "
            f"({first.split}) and {second.name} ({second.split}): {bits} of 256 bits differ",
            "give them one group in the table of --groups and the same split, or run "
            "`v2ir index --redraw --split-by cluster`",
        )


def alignment(inspection: Inspection) -> Iterator[Finding]:
    """Find pairs whose edges lie on each other only after a shift, or not at all."""
    for item in inspection.scenes:
        found = item.alignment
        if found is None or item.visible is None or item.infrared is None:
            continue
        where = (item.visible.path, item.infrared.path)
        if found.verdict == "shifted":
            scale = (item.visible.size or (WIDTH, WIDTH))[0] / WIDTH
            yield Finding(
                "misaligned",
                where,
                f"{item.scene.name}: infrared lies {found.right * scale:+.0f} px right and "
                f"{found.down * scale:+.0f} px down of visible (strength {found.strength:.1f}, "
                f"{found.near_zero:.1f} within {TOLERANCE * scale:.0f} px of no shift)",
                "shift one image back and crop both, or leave the pair out",
            )
        elif found.verdict == "doubtful":
            yield Finding(
                "doubtful",
                where,
                f"{item.scene.name}: no common edges (strength {found.near_zero:.1f}); "
                "another scene, or too dark or too smooth to tell",
                "look at both; leave the pair out if they do not belong together",
                severity="warning",
            )


def blank(inspection: Inspection) -> Iterator[Finding]:
    """Find images that are almost uniform."""
    for seen in _files(inspection):
        if seen.print and not seen.print.is_telling:
            yield Finding(
                "blank",
                (seen.path,),
                f"{seen.path} is almost uniform (deviation {255 * seen.print.contrast:.1f} of 255)",
                "look at it; leave it out if the camera was covered or not ready",
                severity="warning",
            )


def maps(inspection: Inspection) -> Iterator[Finding]:
    """Find segmentation maps that are all white or black, of a wrong size, or unreadable."""
    by_name = {item.scene.name: item for item in inspection.scenes}
    for name, path in inspection.listing.files.get("seg", {}).items():
        where = path.relative_to(inspection.root).as_posix()
        try:
            tone, size = read_thumbnail(path, _MAP_SIDE, _MAP_SIDE), image_size(path)
        except ImageReadError as error:
            yield Finding(
                "unreadable",
                (where,),
                f"{error.what}: {error.got}",
                "make it again: `v2ir annotate`",
            )
            continue
        if tone.min() > _WHITE or tone.max() < _BLACK:
            colour = "white" if tone.min() > _WHITE else "black"
            yield Finding(
                "empty map",
                (where,),
                f"{where} is all {colour} and carries no structure",
                "remove it and run `v2ir annotate`, or check the segmenter that made it",
                severity="warning",
            )
        item = by_name.get(name)
        if item is not None and size != (wanted := _size_of(item)) and wanted is not None:
            yield Finding(
                "size",
                (where,),
                f"{where} is {size[0]}x{size[1]}, its scene {wanted[0]}x{wanted[1]}",
                "make it again at the scene's size: `v2ir annotate`",
            )


def _size_of(item: SeenScene) -> tuple[int, int] | None:
    return next((seen.size for seen in item.files if seen.size), None)


def _files(inspection: Inspection) -> Iterator[SeenFile]:
    for item in inspection.scenes:
        yield from item.files


CHECKS: dict[str, Callable[[Inspection], Iterator[Finding]]] = {
    "unreadable": unreadable,
    "stale": stale,
    "sizes": sizes,
    "leakage": leakage,
    "duplicates": duplicates,
    "alignment": alignment,
    "one-sided": one_sided,
    "blank": blank,
    "maps": maps,
    "masks": masks,
}
