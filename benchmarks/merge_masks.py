# ruff: noqa: T201  # a benchmark prints
"""How much faster are folders of masks merged at once than pixel by pixel?

Draws an image's masks as SAM's own script writes them, merges the same files both ways,
compares the maps and prints the times.

Example: python benchmarks/merge_masks.py --masks 100
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from v2ir.annotation.masks import mask_paths, merge_masks


def draw_masks(folder: Path, number: int, width: int, height: int) -> None:
    """Write wavy blobs of the sizes that SAM finds as 0.png, 1.png, ..."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    for index in range(number):
        y, x = rng.integers(0, height), rng.integers(0, width)
        radius = float(rng.choice([8, 20, 60, 150], p=[0.4, 0.3, 0.2, 0.1]))
        angle = np.arctan2(rows - y, columns - x)
        edge = radius * (1 + 0.2 * np.sin(5 * angle + index))
        mask = np.hypot(rows - y, columns - x) < edge
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{index}.png")


def merge_by_pixels(folder: Path) -> np.ndarray:
    """Merge as published: each pixel of each mask is read and written through Pillow."""
    merged: Image.Image | None = None
    for path in mask_paths(folder):
        mask = Image.open(path).convert("RGB")
        merged = merged or Image.new("RGB", mask.size)
        for x in range(mask.width):
            for y in range(mask.height):
                if mask.getpixel((x, y)) == (255, 255, 255):
                    merged.putpixel((x, y), (255, 255, 255))
    return np.asarray(merged)[..., 0]


def merge_by_elements(folder: Path) -> np.ndarray:
    """Merge in the quicker kind of loop, over the elements of arrays."""
    merged: np.ndarray | None = None
    for path in mask_paths(folder):
        mask = np.asarray(Image.open(path))
        merged = np.zeros_like(mask) if merged is None else merged
        for y in range(mask.shape[0]):
            for x in range(mask.shape[1]):
                if mask[y, x] > 127:
                    merged[y, x] = 255
    assert merged is not None
    return merged


def seconds(call, repeats: int) -> tuple[float, np.ndarray]:
    """Return the least processor time of a call, and its result."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        result = call()
        times.append(time.process_time() - start)
    return min(times), result


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--masks", type=int, default=40)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_masks(folder, options.masks, options.width, options.height)
        at_once, expected = seconds(lambda: merge_masks(folder), 5)
        print(f"{options.masks} masks of {options.width}x{options.height}")
        print(f"merge_masks                {at_once:9.3f} s")
        for title, call in (("pixels", merge_by_pixels), ("elements", merge_by_elements)):
            taken, found = seconds(lambda call=call: call(folder), 1)
            assert np.array_equal(found, expected)
            print(f"loop over {title:<10}       {taken:9.3f} s   {taken / at_once:6.0f} times")


if __name__ == "__main__":
    main()
