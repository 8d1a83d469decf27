"""A grid of generated pictures: a row for each prompt, its text below."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from v2ir.sampling.sheet import FONT_SIZE, GAP, INK, LETTER_WIDTH, LINE_HEIGHT, PAPER, tile


def draw_grid(rows: Sequence[tuple[str, Sequence[np.ndarray]]]) -> np.ndarray:
    """Draw pictures in rows.

    Args:
        rows: For each row its text and its pictures, HW or HWC uint8; one picture at least.

    Returns:
        HWC uint8 RGB; as wide as the widest row.
    """
    strips = [_strip(text, [tile(picture) for picture in pictures]) for text, pictures in rows]
    grid = Image.new(
        "RGB", (max(strip.width for strip in strips), sum(strip.height for strip in strips)), PAPER
    )
    top = 0
    for strip in strips:
        grid.paste(strip, (0, top))
        top += strip.height
    return np.asarray(grid)


def _strip(text: str, tiles: Sequence[Image.Image]) -> Image.Image:
    width = sum(each.width + GAP for each in tiles) + GAP
    below = max(each.height for each in tiles) + 2 * GAP
    lines = textwrap.wrap(text, max(12, (width - 2 * GAP) // LETTER_WIDTH)) or [""]
    strip = Image.new("RGB", (width, below + LINE_HEIGHT * len(lines) + GAP), PAPER)
    left = GAP
    for each in tiles:
        strip.paste(each, (left, GAP))
        left += each.width + GAP
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(FONT_SIZE)
    for number, line in enumerate(lines):
        draw.text((GAP, below + number * LINE_HEIGHT), line, INK, font)
    return strip
