"""Worst, median and best images side by side: numbers alone hide what went wrong."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from v2ir.evaluation import METRICS
from v2ir.evaluation.boxes import Box
from v2ir.evaluation.cases import Case, Plan, read_photograph, read_truth
from v2ir.evaluation.comparison import Evaluation, Row
from v2ir.evaluation.objects import ObjectReport
from v2ir.images import encode_png, read_infrared, read_map, read_visible, resize, to_uint8

RANKED_BY = "ssim"
TILE_WIDTH = 280
GAP, LINE = 6, 18
FULL_ERROR = 0.5
KEPT, LOST, INVENTED = "#2ecc40", "#ff2d20", "#2a8cff"
PICTURE_FILE, OBJECT_FILE = "pictures.png", "objects.png"


@dataclasses.dataclass(frozen=True, eq=False)
class Drawing:
    """One picture of the report.

    Attributes:
        title: What it shows.
        file: Name of the file in the report's folder.
        pixels: HWC uint8.
    """

    title: str
    file: str
    pixels: np.ndarray

    @property
    def png(self) -> bytes:
        """The picture as PNG."""
        return encode_png(self.pixels)

    @property
    def jpeg(self) -> bytes:
        """The picture as JPEG, small enough to stand inside a page."""
        buffer = io.BytesIO()
        Image.fromarray(self.pixels).save(buffer, format="JPEG", quality=88)
        return buffer.getvalue()


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


def picture(plan: Plan, evaluation: Evaluation) -> Drawing:
    """Draw visible | map | predictions | truth | error for the chosen images.

    The error is that of the first method: red where it is too bright, blue where it is
    too dark, full colour from half the range on, white where it is right.
    """
    picks = pick_images(plan, evaluation)
    has_map = any(pick.case.map for pick in picks)
    visible = ["visible"] if picks[0].case.visible else []
    heads = [*visible, *(["map"] if has_map else []), *plan.methods, "truth", "error"]
    strips = [_strip(plan, pick, has_map) for pick in picks]
    title = f"worst, median and best by {METRICS[RANKED_BY].label}"
    return Drawing(title, PICTURE_FILE, np.concatenate([_head(heads), *strips]))


def _head(heads: Sequence[str]) -> np.ndarray:
    width = len(heads) * (TILE_WIDTH + GAP) - GAP
    places = [(i * (TILE_WIDTH + GAP), head) for i, head in enumerate(heads)]
    return _text_line(width, places)


def _strip(plan: Plan, pick: Pick, has_map: bool) -> np.ndarray:
    """Return one row of tiles below a line of text; HWC uint8."""
    case = pick.case
    truth = read_truth(plan, case)
    predictions = [plan.protocol.prepared(read_infrared(path)) for path in case.predictions]
    photograph = read_photograph(plan, case)
    tiles = [] if photograph is None else [photograph]
    if has_map:
        blank = np.full_like(truth, 255, dtype=np.uint8)
        levels = plan.protocol.prepared(read_map(case.map)) if case.map else blank
        tiles.append(_coloured(levels))
    tiles += [_coloured(to_uint8(image)) for image in (*predictions, truth)]
    tiles.append(error_colours(predictions[0] - truth))
    scores = pick.row.scores
    label = f"{pick.rank}: {pick.row.name} ({pick.row.style}), {plan.methods[0]}"
    label += f" {scores['psnr']:.2f} dB, SSIM {scores['ssim']:.3f}"
    return _labelled(label, tiles)


def _coloured(levels: np.ndarray) -> np.ndarray:
    return np.repeat(levels[..., None], 3, axis=2)


def _labelled(label: str, images: Sequence[np.ndarray]) -> np.ndarray:
    """Lay images side by side below a line of text."""
    tiles = [_tile(image) for image in images]
    height = max(tile.shape[0] for tile in tiles)
    columns: list[np.ndarray] = []
    for tile in tiles:
        below = ((0, height - tile.shape[0]), (0, GAP), (0, 0))
        columns.append(np.pad(tile, below, constant_values=255))
    row = np.concatenate(columns, axis=1)[:, :-GAP]
    return np.concatenate([_text_line(row.shape[1], [(0, label)]), row])


def object_picture(
    plan: Plan, report: ObjectReport, number: int = 8, *, with_truth: bool = True
) -> list[Drawing]:
    """Draw what the first method kept, lost and invented in its least faithful images.

    Left the reference, right the judged image: green was kept, red was lost, blue was
    invented. Nothing where every image is faithful.

    Args:
        plan: What was compared.
        report: Its objects.
        number: How many images at most.
        with_truth: Whether `Case.truth` is an infrared image and not the photograph.
    """
    method = plan.methods[0]
    rows = {row.name: row.objects for row in report.rows if row.method == method}
    cases = {case.name: case for case in plan.cases}
    strips = []
    for name, _ in report.below(method, 1.0)[:number]:
        case, objects = cases[name], rows[name]
        reference = _reference(plan, case, report.against, with_truth)
        judged = _coloured(to_uint8(plan.protocol.prepared(read_infrared(case.predictions[0]))))
        kept = [(a, KEPT) for a, _ in objects.kept], [(b, KEPT) for _, b in objects.kept]
        tiles = [
            _boxed(reference, [*kept[0], *((box, LOST) for box in objects.lost)]),
            _boxed(judged, [*kept[1], *((box, INVENTED) for box in objects.invented)]),
        ]
        counts = (len(objects.kept), len(objects.lost), len(objects.invented))
        label = f"{name}: {counts[0]} kept, {counts[1]} lost, {counts[2]} invented"
        strips.append(_labelled(label, tiles))
    if not strips:
        return []
    title = f"objects kept (green), lost (red) and invented (blue) by {method}"
    return [Drawing(title, OBJECT_FILE, np.concatenate(strips))]


def _reference(plan: Plan, case: Case, against: str, with_truth: bool) -> np.ndarray:
    if not with_truth:
        return plan.protocol.prepared(read_visible(case.truth))
    photograph = read_photograph(plan, case) if against == "visible" else None
    return _coloured(to_uint8(read_truth(plan, case))) if photograph is None else photograph


def _boxed(pixels: np.ndarray, boxes: Sequence[tuple[Box, str]]) -> np.ndarray:
    scale = TILE_WIDTH / pixels.shape[1]
    image = Image.fromarray(_tile(pixels))
    draw = ImageDraw.Draw(image)
    for box, colour in boxes:
        corners = [value * scale for value in (box.left, box.top, box.right, box.bottom)]
        draw.rectangle(corners, outline=colour, width=2)
        draw.text((corners[0] + 3, corners[1] + 1), box.label, fill=colour)
    return np.asarray(image)


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
