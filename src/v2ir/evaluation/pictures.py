"""Worst, median and best images side by side: numbers alone hide what went wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from v2ir.evaluation import METRICS
from v2ir.evaluation.comparison import Case, Evaluation, Plan, Row
from v2ir.images import encode_png, read_infrared, read_visible, resize, to_uint8

RANKED_BY = "ssim"
TILE_WIDTH = 280
GAP, LINE = 6, 18
FULL_ERROR = 0.5


@dataclasses.dataclass(frozen=True)
class Pick:
    """One row of the picture.

    Attributes:
        rank: `worst`, `median` or `best` of its style.
        row: The numbers of the judged method.
        case: The files.
    """

    rank: str
    row: Row
    case: Case


def pick_images(plan: Plan, evaluation: Evaluation) -> list[Pick]:
    """Choose the worst, median and best image of each style by structural similarity."""
    cases = {case.name: case for case in plan.cases}
    metric = METRICS[RANKED_BY]
    picks: list[Pick] = []
    for style in evaluation.styles:
        rows = [
            row for row in evaluation.rows if (row.style, row.method) == (style, plan.methods[0])
        ]
        rows.sort(key=lambda row: metric.badness(row.scores[RANKED_BY]), reverse=True)
        places = {"worst": 0, "median": len(rows) // 2, "best": len(rows) - 1}
        chosen: dict[str, Pick] = {}
        for rank, place in places.items():
            chosen.setdefault(rows[place].name, Pick(rank, rows[place], cases[rows[place].name]))
        picks += chosen.values()
    return picks


def picture(plan: Plan, evaluation: Evaluation) -> bytes:
    """Draw visible | predictions | truth | error for the chosen images as a PNG.

    The error is that of the first method: red where it is too bright, blue where it is
    too dark, full colour from half the range on, white where it is right.
    """
    picks = pick_images(plan, evaluation)
    heads = [*(["visible"] if picks[0].case.visible else []), *plan.methods, "truth", "error"]
    strips = [_head(heads), *(_strip(pick, plan.methods[0]) for pick in picks)]
    return encode_png(np.concatenate(strips))


def _head(heads: Sequence[str]) -> np.ndarray:
    width = len(heads) * (TILE_WIDTH + GAP) - GAP
    places = [(i * (TILE_WIDTH + GAP), head) for i, head in enumerate(heads)]
    return _text_line(width, places)


def _strip(pick: Pick, method: str) -> np.ndarray:
    """Return one row of tiles below a line of text; HWC uint8."""
    case = pick.case
    truth = read_infrared(case.truth)
    predictions = [read_infrared(path) for path in case.predictions]
    grey = [np.repeat(to_uint8(image)[..., None], 3, axis=2) for image in (*predictions, truth)]
    photographs = [read_visible(case.visible)] if case.visible else []
    tiles = [_tile(image) for image in (*photographs, *grey, error_colours(predictions[0] - truth))]
    height = max(tile.shape[0] for tile in tiles)
    columns: list[np.ndarray] = []
    for tile in tiles:
        below = ((0, height - tile.shape[0]), (0, GAP), (0, 0))
        columns.append(np.pad(tile, below, constant_values=255))
    row = np.concatenate(columns, axis=1)[:, :-GAP]
    scores = pick.row.scores
    label = f"{pick.rank}: {pick.row.name} ({pick.row.style}), {method}"
    label += f" {scores['psnr']:.2f} dB, SSIM {scores['ssim']:.3f}"
    return np.concatenate([_text_line(row.shape[1], [(0, label)]), row])


def _tile(image: np.ndarray) -> np.ndarray:
    height = max(1, round(image.shape[0] * TILE_WIDTH / image.shape[1]))
    return resize(image, TILE_WIDTH, height, "linear")


def error_colours(error: np.ndarray) -> np.ndarray:
    """Colour a signed error, HW in [-1, 1], as HWC uint8: red above, blue below, white none."""
    strength = np.clip(np.abs(error) / FULL_ERROR, 0.0, 1.0)
    fading = ((1.0 - strength) * 255.0).round().astype(np.uint8)
    full = np.full_like(fading, 255)
    red = np.where(error < 0, fading, full)
    blue = np.where(error > 0, fading, full)
    return np.stack([red, fading, blue], axis=2)


def _text_line(width: int, texts: Sequence[tuple[int, str]]) -> np.ndarray:
    image = Image.new("RGB", (width, LINE), "white")
    draw = ImageDraw.Draw(image)
    for left, text in texts:
        draw.text((left + 2, 2), text, fill="black", font=ImageFont.load_default(12))
    return np.asarray(image)
