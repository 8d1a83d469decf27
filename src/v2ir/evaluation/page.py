"""One HTML page that needs no network: tables, pictures and histograms in one file."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence

from v2ir import __version__
from v2ir.evaluation.cases import TRUTH
from v2ir.evaluation.pictures import Drawing
from v2ir.evaluation.results import Results, library_versions
from v2ir.evaluation.tables import Cell, Table

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem;
       padding: 0 1rem; color: #1b1b1b; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
tr.baseline td:first-child { color: #666; font-style: italic; }
.wide { overflow-x: auto; } .note { background: #fff5d6; padding: .4rem .8rem; }
img, svg { max-width: 100%; height: auto; } small { color: #555; }
"""
PLOT_WIDTH, PLOT_HEIGHT = 520, 150
LINE_COLOURS = ("#c1272d", "#0057b8", "#2e8540", "#8a2be2", "#d98200")
MAX_CURVES = len(LINE_COLOURS)


def page(results: Results, tables: Sequence[Table], drawings: Sequence[Drawing]) -> str:
    """Return the page; it references nothing outside itself.

    Args:
        results: What was measured.
        tables: The tables to show, in order.
        drawings: The pictures to show, in order.
    """
    evaluation = results.evaluation
    baselines = set(evaluation.methods[evaluation.num_judged :]) if evaluation else set()
    parts = [_head(results), *(_note(note) for note in results.notes)]
    parts += [_table(table, baselines) for table in tables]
    if evaluation and evaluation.histograms:
        judged = evaluation.methods[: evaluation.num_judged]
        parts.append(_histograms(evaluation.histograms, judged))
    parts += [_drawing(drawing) for drawing in drawings]
    parts.append(_list("Not measured", [f"{name}: {why}" for name, why in results.failures]))
    title = f"v2ir evaluate: {results.plan.methods[0]}"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def _head(results: Results) -> str:
    protocol, evaluation = results.plan.protocol, results.evaluation
    number = evaluation.num_images() if evaluation else len(results.plan.cases)
    versions = ", ".join(f"{name} {text}" for name, text in library_versions(results).items())
    names = f"<br>names {evaluation.names_hash[:16]}" if evaluation else ""
    return (
        f"<h1>{number} images of {html.escape(', '.join(results.plan.methods))}</h1>\n"
        f"<p>Protocol <b>{html.escape(protocol.name)}</b> "
        f"<code>{protocol.hash[:16]}</code>: {html.escape(protocol.source)}<br>"
        f"<small>v2ir {__version__}, {html.escape(versions)}{names}</small></p>"
    )


def _note(note: str) -> str:
    return f'<p class="note">{html.escape(note)}</p>'


def _table(table: Table, baselines: set[str]) -> str:
    heads = "".join(f"<th>{html.escape(head)}</th>" for head in (table.title, *table.columns))
    rows = []
    for name, columns in table.rows:
        cells = "".join(f"<td>{' / '.join(map(_cell, column))}</td>" for column in columns)
        kind = ' class="baseline"' if name in baselines else ""
        rows.append(f"<tr{kind}><td>{html.escape(name)}</td>{cells}</tr>")
    caption = f"<small>{html.escape(table.caption)}</small>" if table.caption else ""
    body = "\n".join(rows)
    return (
        f"<h2>{html.escape(table.title)}</h2>\n"
        f'<div class="wide"><table>\n<tr>{heads}</tr>\n{body}\n</table></div>{caption}'
    )


def _cell(cell: Cell) -> str:
    text = html.escape(cell.text)
    if cell.is_best:
        return f"<b>{text}</b>"
    return f"<u>{text}</u>" if cell.is_second else text


def _drawing(drawing: Drawing) -> str:
    data = base64.b64encode(drawing.jpeg).decode()
    return (
        f"<h2>{html.escape(drawing.title)}</h2>\n"
        f'<img alt="{html.escape(drawing.title)}" src="data:image/jpeg;base64,{data}">'
    )


def _histograms(histograms: Mapping[str, tuple[int, ...]], judged: Sequence[str]) -> str:
    """Draw the share of pixels at each grey level; the truth is the grey area."""
    shares = {
        name: [count / sum(histograms[name]) for count in histograms[name]]
        for name in (TRUTH, *judged[:MAX_CURVES])
        if name in histograms
    }
    # A spike of burnt-out pixels must not flatten everything else.
    top = max(sorted(values)[-4] for values in shares.values()) or 1.0

    def points(values: Sequence[float]) -> str:
        return " ".join(
            f"{PLOT_WIDTH * level / 255:.1f},{PLOT_HEIGHT * (1 - min(v / top, 1)):.1f}"
            for level, v in enumerate(values)
        )

    curves = [
        f'<polygon fill="#ccc" points="0,{PLOT_HEIGHT} {points(shares[TRUTH])} '
        f'{PLOT_WIDTH},{PLOT_HEIGHT}"/>'
    ]
    keys = ['<span style="background:#ccc">&nbsp;&nbsp;&nbsp;</span> truth']
    for colour, name in zip(LINE_COLOURS, [n for n in shares if n != TRUTH], strict=False):
        curves.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" '
            f'points="{points(shares[name])}"/>'
        )
        keys.append(f'<span style="color:{colour}">&#9472;&#9472;</span> {html.escape(name)}')
    return (
        "<h2>Grey levels of all pixels</h2>\n"
        f'<svg width="{PLOT_WIDTH}" height="{PLOT_HEIGHT}" '
        f'viewBox="0 0 {PLOT_WIDTH} {PLOT_HEIGHT}" role="img">{"".join(curves)}</svg>'
        f"<p>{' &nbsp; '.join(keys)}</p>"
    )


def _list(title: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<h2>{html.escape(title)}</h2>\n<ul>{items}</ul>"
