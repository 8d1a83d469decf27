"""One picture that shows what was translated: visible | segmentation | infrared."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from v2ir.images import resize

TILE_HEIGHT = 240
GAP = 8
FONT_SIZE = 15
LINE_HEIGHT = 20
LETTER_WIDTH = 8
PAPER, INK = (255, 255, 255), (30, 30, 30)


@dataclasses.dataclass(frozen=True)
class SheetRow:
    """One translated photograph.

    Attributes:
        visible: HWC uint8 RGB.
        segmentation: HW uint8 map, or None where there was none.
        infrared: HW uint8.
        text: Shown below the images.
    """

    visible: np.ndarray
    segmentation: np.ndarray | None
    infrared: np.ndarray
    text: str


def draw_sheet(rows: Sequence[SheetRow]) -> np.ndarray:
    """Draw rows of visible | segmentation | infrared with the text below each.

    Returns:
        HWC uint8 RGB; as wide as the widest row.
    """
    strips = [_strip(row) for row in rows]
    width = max(strip.width for strip in strips)
    sheet = Image.new("RGB", (width, sum(strip.height for strip in strips)), PAPER)
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return np.asarray(sheet)


def _strip(row: SheetRow) -> Image.Image:
    views = [("visible", row.visible), ("segmentation", row.segmentation)]
    shown = [
        (title, tile(pixels))
        for title, pixels in (*views, ("infrared", row.infrared))
        if pixels is not None
    ]
    width = sum(view.width + GAP for _, view in shown) + GAP
    lines = textwrap.wrap(row.text, max(20, (width - 2 * GAP) // LETTER_WIDTH)) or [""]
    height = LINE_HEIGHT + TILE_HEIGHT + LINE_HEIGHT * len(lines) + 2 * GAP
    strip = Image.new("RGB", (width, height), PAPER)
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(FONT_SIZE)
    left = GAP
    for title, view in shown:
        draw.text((left, GAP // 2), title, INK, font)
        strip.paste(view, (left, LINE_HEIGHT + GAP // 2))
        left += view.width + GAP
    below = LINE_HEIGHT + TILE_HEIGHT + GAP
    for number, line in enumerate(lines):
        draw.text((GAP, below + number * LINE_HEIGHT), line, INK, font)
    return strip


def tile(pixels: np.ndarray) -> Image.Image:
    """Return pixels as an RGB tile of the sheet's height, not wider than three times that."""
    height, width = pixels.shape[:2]
    wide = min(max(1, round(width * TILE_HEIGHT / height)), 3 * TILE_HEIGHT)
    high = max(1, round(wide * height / width)) if wide == 3 * TILE_HEIGHT else TILE_HEIGHT
    tile = Image.new("RGB", (max(wide, LETTER_WIDTH * 12), TILE_HEIGHT), PAPER)
    tile.paste(Image.fromarray(resize(pixels, wide, high)).convert("RGB"), (0, 0))
    return tile
