# ruff: noqa: T201  # a benchmark prints
"""What does keeping captions and maps cost, in time and in memory?

`--share` annotates drawn photographs with a tiny BLIP and a tiny SAM and prints which
part of the processor time went into the store. `--entries N` writes N synthetic lines of
captions and measures looking them up.

Example: python benchmarks/annotate_store.py --share --entries 500000
"""

from __future__ import annotations

import argparse
import functools
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from v2ir.annotation import AnnotationStore, annotate, make_captioner, make_segmenter
from v2ir.data import index
from v2ir.records import Scene


class Clock:
    """Adds up the wall and processor time of the calls that it is put around."""

    def __init__(self) -> None:
        self.wall = self.processor = 0.0
        self._depth = 0

    def around(self, function):
        """Return the function with its time added up; calls inside calls count once."""

        @functools.wraps(function)
        def timed(*arguments, **named):
            start = time.perf_counter(), time.process_time()
            self._depth += 1
            try:
                return function(*arguments, **named)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.wall += time.perf_counter() - start[0]
                    self.processor += time.process_time() - start[1]

        return timed


def measure_share(number: int, batch_size: int, points: int) -> None:
    """Print the store's share of annotating drawn photographs of 640x480."""
    from tiny_annotators import save_blip, save_sam

    clock = Clock()
    for method in ("put_captions", "put_segmentation", "state", "is_fresh", "description"):
        setattr(AnnotationStore, method, clock.around(getattr(AnnotationStore, method)))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        draw_photographs(root / "data" / "rgb", number)
        index(root / "data")
        weights = save_blip(root / "blip"), save_sam(root / "sam")
        captioner = make_captioner(f"blip:{weights[0]}")
        segmenter = make_segmenter(f"sam:{weights[1]},points={points},trust=-99,stability=0.6")
        photograph = np.asarray(Image.open(root / "data" / "rgb" / "0.png"))
        captioner.caption([photograph])
        segmenter.segment([photograph])
        for what, chosen in (
            ("captions", {"captioner": captioner, "segmenter": None}),
            ("maps", {"captioner": None, "segmenter": segmenter}),
        ):
            clock.wall = clock.processor = 0.0
            start = time.perf_counter(), time.process_time()
            annotate(root / "data", batch_size=batch_size, **chosen)
            wall, processor = time.perf_counter() - start[0], time.process_time() - start[1]
            print(
                f"{what:9} {number} images, batch {batch_size}: {wall:.2f} s, "
                f"processor {processor:.2f} s; store {clock.wall:.3f} s "
                f"({100 * clock.wall / wall:.1f} %), processor {clock.processor:.3f} s "
                f"({100 * clock.processor / processor:.1f} %)"
            )


def draw_photographs(folder: Path, number: int) -> None:
    """Write textured 640x480 images."""
    folder.mkdir(parents=True)
    for seed in range(number):
        rng = np.random.default_rng(seed)
        coarse = rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((640, 480)), dtype=np.int16)
        noisy = smooth + rng.normal(0, 6, smooth.shape).astype(np.int16)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{seed}.png")


def measure_entries(number: int) -> None:
    """Print the time and memory of a store of many captions."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        with (root / "captions.jsonl").open("w") as stream:
            for entry in range(number):
                stream.write(
                    f'{{"name": "sequence_{entry // 1000:04d}/frame_{entry:07d}", "captions": '
                    f'["a street at night with bright lamps and some trees, {entry}"], '
                    f'"annotator": "blip:Salesforce/blip-image-captioning-base", "version": '
                    f'"1 0123456789abcdef greedy 5-20 tokens", "image_hash": "{entry:064x}"}}\n'
                )
        size = (root / "captions.jsonl").stat().st_size / 1e6
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        store, start = AnnotationStore(root), time.process_time()
        assert store.caption(scene(0)) is not None
        first = time.process_time() - start
        start, step = time.process_time(), max(1, number // 10_000)
        for entry in range(0, number, step):
            assert str(store.caption(scene(entry))).endswith(f", {entry}")
        each = (time.process_time() - start) / len(range(0, number, step))
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(
            f"{number} lines ({size:.0f} MB): first look {first:.1f} s, then {1000 * each:.3f} ms "
            f"each, {grown:.0f} MiB of memory"
        )


def scene(entry: int) -> Scene:
    """Return the scene that a line belongs to."""
    name = f"sequence_{entry // 1000:04d}/frame_{entry:07d}"
    return Scene(name, "train", name, 640, 480, visible="x", visible_hash=f"{entry:064x}")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", action="store_true")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--points", type=int, default=32)
    parser.add_argument("--entries", type=int, default=0)
    options = parser.parse_args()
    if options.entries:
        measure_entries(options.entries)
    if options.share:
        measure_share(options.images, options.batch_size, options.points)


if __name__ == "__main__":
    main()
