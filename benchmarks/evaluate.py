# ruff: noqa: T201  # a benchmark prints
"""Time `v2ir evaluate` against decoding its images twice, and watch its memory.

python benchmarks/evaluate.py --images 300 [--baselines]
python benchmarks/evaluate.py --parts
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from v2ir.evaluation.cases import Knowledge, plan_comparison
from v2ir.evaluation.comparison import evaluate
from v2ir.evaluation.context import Context, context_of_folders
from v2ir.evaluation.cores import num_cores, worker_threads
from v2ir.evaluation.grey import Grey, mean_gradient
from v2ir.evaluation.infrared import Facts
from v2ir.evaluation.levels import joint_counts
from v2ir.evaluation.multiscale import layered_scores
from v2ir.evaluation.scoring import score
from v2ir.evaluation.statistics import measure_reference
from v2ir.images import read_infrared, read_infrared_levels

WIDTH, HEIGHT, DISTINCT = 640, 512, 12


def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a true image and a prediction of it, HW uint8: warm boxes on textured ground."""
    rng = np.random.default_rng(seed)
    rows = np.linspace(0, 1, HEIGHT)[:, None]
    truth = 50 + 70 * rows + rng.normal(0, 4, (HEIGHT, WIDTH))
    for _ in range(25):
        top, left = int(rng.integers(0, HEIGHT - 60)), int(rng.integers(0, WIDTH - 60))
        truth[top : top + int(rng.integers(8, 60)), left : left + int(rng.integers(8, 60))] += 60
    other = truth * 0.9 + rng.normal(0, 6, truth.shape) + 8
    return truth.clip(0, 255).astype(np.uint8), other.clip(0, 255).astype(np.uint8)


def write_images(folder: Path, number: int) -> None:
    """Write truths as JPEG and predictions as PNG, as data sets and v2ir have them."""
    for name in ("true", "out"):
        (folder / name).mkdir()
    for seed in range(DISTINCT):
        truth, other = draw(seed)
        for index in range(seed, number, DISTINCT):
            Image.fromarray(truth).save(folder / "true" / f"{index:05d}.jpg", quality=92)
            Image.fromarray(other).save(folder / "out" / f"{index:05d}.png")


def write_photographs(folder: Path, number: int) -> None:
    """Write a colour photograph of each scene, for the baselines."""
    (folder / "rgb").mkdir()
    for seed in range(DISTINCT):
        truth, other = draw(seed)
        photograph = np.stack([255 - truth, other, other // 2 + 60], axis=2)
        for index in range(seed, number, DISTINCT):
            Image.fromarray(photograph).save(folder / "rgb" / f"{index:05d}.jpg", quality=92)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return the wall and the processor seconds of a piece of work."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def decode_twice(folder: Path) -> None:
    """Decode every image of the comparison twice on all cores, photographs in grey."""
    paths = sorted(folder.rglob("*.*"))
    with ThreadPoolExecutor(num_cores()) as pool:
        for _ in range(2):
            for _ in pool.map(read_infrared, paths):
                pass


def print_parts(rounds: int = 25) -> None:
    """Print the processor time of each part for one pair, in turns; the least of all rounds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, DISTINCT)
        paths = [folder / "true" / "00000.jpg", folder / "out" / "00000.png"]
        images = [read_infrared_levels(path) for path in paths]
        truth, judged = (Grey(image) for image in images)
        layers = [image.layer() for image in (truth, judged)]
        parts: dict[str, Callable[[], object]] = {
            "decode both twice": lambda: [read_infrared(path) for path in paths * 2],
            "decode both": lambda: [read_infrared_levels(path) for path in paths],
            "SSIM and MS-SSIM": lambda: layered_scores(layers[0], layers[1:], 255.0),
            "pairs of levels": lambda: joint_counts(*images),
            "gradients of both": lambda: [mean_gradient(image) for image in images],
            "hot regions": lambda: Facts(truth).num_hot,
            "hot regions and what is around them": lambda: Facts(truth).true_contrast,
            "all scores": lambda: score([Grey(images[1])], t := Grey(images[0]), Facts(t)),
        }
        with worker_threads(1):  # the allocator is told to keep its memory
            least = dict.fromkeys(parts, float("inf"))
            for _ in range(rounds):
                for part, work in parts.items():
                    least[part] = min(least[part], timed(work)[1])
    for part, seconds in least.items():
        print(f"{part}: {seconds * 1000:.2f} ms")


def main() -> None:
    """Print seconds, ratio and peak memory; the two kinds of work take turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--baselines", action="store_true", help="measure five baselines, too")
    parser.add_argument("--parts", action="store_true", help="time each part of one pair instead")
    options = parser.parse_args()
    if options.parts:
        print_parts()
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, options.images)
        context, knowledge = Context(), Knowledge()
        if options.baselines:
            write_photographs(folder, options.images)
            context = context_of_folders(folder / "rgb", folder / "true")
            knowledge = Knowledge(measure_reference(context.training)[0])
        plan = plan_comparison(folder / "out", folder / "true", context)
        timed(lambda: evaluate(plan, knowledge))  # imports and the first touch of the files
        early = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        decoding, measuring = [], []
        for _ in range(options.rounds):
            decoding.append(timed(lambda: decode_twice(folder)))
            measuring.append(timed(lambda: evaluate(plan, knowledge)))
    late = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{options.images} pairs of {WIDTH}x{HEIGHT}, {num_cores()} cores")
    for place, what in enumerate(("wall", "processor")):
        pairs = [(one[place], two[place]) for one, two in zip(decoding, measuring, strict=True)]
        first, second = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = statistics.median(evaluating / twice for twice, evaluating in pairs)
        print(f"{what}: decode twice {first:.2f} s, evaluate {second:.2f} s (medians)")
        print(f"{what}: ratio {ratio:.2f}, the median of {len(pairs)} rounds")
    print(f"peak memory {early} MB after one run, {late} MB after {options.rounds + 1}")


if __name__ == "__main__":
    main()
