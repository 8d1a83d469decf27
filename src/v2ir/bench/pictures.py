"""Drawn photographs for the bench, so that it needs no data: times depend on sizes alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from v2ir.images import write_image


def draw_street(seed: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a street with houses, texture and warm figures.

    Returns:
        Visible HWC uint8 RGB and infrared HW uint8, with equal edges.
    """
    rng = np.random.default_rng(seed)
    rows = np.linspace(0, 1, height)[:, None, None]
    visible = 200 - 120 * rows * np.array([1.0, 0.9, 0.7]) * np.ones((height, width, 1))
    infrared = 40 + 70 * rows[..., 0] * np.ones((height, width))
    horizon = height // 2
    visible[horizon:] += rng.normal(0, 14, (height - horizon, width, 1))
    infrared[horizon:] += rng.normal(0, 5, (height - horizon, width))
    for _ in range(12):
        left, top = int(rng.integers(0, width - 16)), int(rng.integers(0, horizon))
        house = np.s_[top : horizon + 8, left : left + int(rng.integers(12, width // 3))]
        visible[house] = rng.integers(40, 220, 3) + rng.normal(0, 6, visible[house].shape)
        infrared[house] = rng.integers(70, 170)
    for _ in range(4):
        left = int(rng.integers(0, width - 8))
        figure = np.s_[horizon : horizon + height // 6, left : left + width // 24 + 1]
        visible[figure] = rng.integers(10, 90, 3)
        infrared[figure] = 240
    return visible.clip(0, 255).astype(np.uint8), infrared.clip(0, 255).astype(np.uint8)


def write_photographs(folder: Path, number: int, size: int) -> list[Path]:
    """Write `number` different square JPEG photographs of `size` px; existing ones stay."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"street_{seed:05d}.jpg" for seed in range(number)]
    for seed, path in enumerate(paths):
        if not path.exists():
            Image.fromarray(draw_street(seed, size, size)[0]).save(path, quality=92)
    return paths


def write_pairs(folder: Path, number: int, size: int) -> None:
    """Write a data set of `number` aligned pairs of `size` px."""
    for seed in range(number):
        visible, infrared = draw_street(seed, size, size)
        write_image(folder / "rgb" / f"street_{seed:05d}.png", visible)
        write_image(folder / "ir" / f"street_{seed:05d}.png", infrared)
