"""What is wrong with the captions and maps of a data set, as findings for `v2ir check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from v2ir.annotation.quality import caption_fault, map_fault
from v2ir.annotation.store import AnnotationStore
from v2ir.data import load_scenes
from v2ir.records import Finding, Progress, Scene, no_progress

_FEW_SCENES = 20
_MOST_SHARED = 0.25


def check_annotations(root: Path, *, progress: Progress = no_progress) -> list[Finding]:
    """Find captions and maps that say nothing; training leaves them out.

    Files that are no images are a matter of `v2ir.data.check`.

    Args:
        root: Folder of an indexed data set.
        progress: Told after each scene.

    Raises:
        DataError: If the data set has no index.
    """
    store = AnnotationStore(root, with_faulty=True)
    scenes = [scene for scene in load_scenes(root) if scene.visible]
    found: list[Finding] = []
    shared: Counter[int] = Counter()
    examples: dict[int, str] = {}
    captioned = 0
    for done, scene in enumerate(scenes, start=1):
        captions = store.captions(scene)
        captioned += bool(captions)
        for text in set(captions):
            key = hash(text.lower())
            shared[key] += 1
            examples.setdefault(key, text)
        found += _of_captions(scene, captions)
        found += _of_map(root, scene, store)
        progress(done, len(scenes))
    for key, number in shared.most_common(1):
        if captioned >= _FEW_SCENES and number > _MOST_SHARED * captioned:
            found.append(_shared(examples[key], number, captioned))
    return found


def _of_captions(scene: Scene, captions: list[str]) -> Iterator[Finding]:
    for text in captions:
        if fault := caption_fault(text):
            yield Finding(
                f"caption: {fault}",
                (scene.name,),
                f"{scene.name}: {text[:80]!r}",
                "nothing is trained on it; make it again with another captioner "
                "(`v2ir annotate --captioner NAME`), or write your own",
                severity="warning",
            )


def _of_map(root: Path, scene: Scene, store: AnnotationStore) -> Iterator[Finding]:
    path = store.segmentation_path(scene)
    fault = map_fault(path) if path else None
    if path and fault and fault != "unreadable":
        where = path.relative_to(root).as_posix()
        yield Finding(
            "empty map",
            (where,),
            f"{where} is {fault} and carries no structure",
            "nothing is trained on it; remove it and run `v2ir annotate`, or check the "
            "segmenter that made it",
            severity="warning",
        )


def _shared(text: str, number: int, captioned: int) -> Finding:
    return Finding(
        "caption: shared",
        (),
        f"{number} of {captioned} captioned scenes have the caption {text[:80]!r}",
        "look whether the captioner sees the images; a caption shared by all tells nothing",
        severity="warning",
    )
