"""Line charts as static SVG and as text: what a step measures of itself, live and kept in the notebook.

Pure; no library, so that a plot costs a notebook nothing to load and a saved one nothing to show.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from kale_magic.render.words import clip, escape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Points = "Sequence[tuple[float, float]]"
_WIDTH, _HEIGHT = 560.0, 240.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 12.0, 24.0, 30.0
_MOST_POINTS = 600  # of a line that is drawn; between them the least and the greatest are kept
_COLOURS = ("#1d4ed8", "#c2410c", "#15803d", "#7e22ce", "#b91c1c", "#0e7490", "#a16207", "#be185d")
_BARS = "▁▂▃▄▅▆▇█"
_MOST_SHOWN = 8
_LETTER = 8.0  # the width of one, with some room: a page may draw them larger
_STYLE = (
    "<style>.kale-chart text{fill:var(--jp-content-font-color1,var(--vscode-editor-foreground,#444))}"
    "@media(prefers-color-scheme:dark){.kale-chart text{fill:var(--jp-content-font-color1,#ccc)}}</style>"
)


def chart_svg(series: Mapping[str, Sequence[tuple[float, float]]], *, title: str = "", x: str = "", is_dotted: bool = False, has_zero: bool = False) -> str:
    """Return lines in one frame, with axes and a legend.

    Parameters
    ----------
    series : mapping of str to sequence of (x, y)
        By name; pairs in which a number is not finite break the line.
    title : str
        What is drawn, above it and for a screen reader.
    x : str
        Name of the horizontal axis.
    is_dotted : bool
        Dots alone, without lines between them.
    has_zero : bool
        Have the vertical axis begin at 0, for what is an amount: a small change then looks small.
    """
    whole = [pair for points in series.values() for pair in points if _is_finite(pair)]
    low_x, high_x = _span([pair[0] for pair in whole])
    low_y, high_y = _span([*(pair[1] for pair in whole), *([0.0] if has_zero and whole else [])], margin=0.04)
    low_y = max(0.0, low_y) if has_zero and min((pair[1] for pair in whole), default=0.0) >= 0 else low_y
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(pair: tuple[float, float]) -> str:
        across = _LEFT + (pair[0] - low_x) / (high_x - low_x) * wide
        return f"{across:.1f} {_TOP + (high_y - pair[1]) / (high_y - low_y) * high:.1f}"

    names = ", ".join(series)
    parts = [
        (f'<svg xmlns="http://www.w3.org/2000/svg" class="kale-chart" role="img" aria-label="{escape(f"{title}: {names}")}" '
        f'width="{_WIDTH:.0f}" height="{_HEIGHT:.0f}" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" '
        f'font-family="system-ui, sans-serif" font-size="10.5">{_STYLE}'),
        f'<rect x="{_LEFT}" y="{_TOP}" width="{wide}" height="{high}" fill="none" stroke="#8c959f"/>',
    ]
    for tick in ticks(low_y, high_y):
        at = place((low_x, tick)).split()[1]
        parts.append(f'<path d="M{_LEFT} {at}h{wide}" stroke="#8c959f" stroke-opacity=".3"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{float(at) + 3.5:.1f}" text-anchor="end">{_number(tick)}</text>')
    for tick in ticks(low_x, high_x):
        at = place((tick, low_y)).split()[0]
        parts.append(f'<text x="{at}" y="{_TOP + high + 14}" text-anchor="middle">{_number(tick)}</text>')
    parts.append(f'<text x="{_LEFT + wide / 2}" y="{_HEIGHT - 3}" text-anchor="middle">{escape(x)}</text>')
    parts.append(f'<text x="{_LEFT}" y="14" font-weight="600">{escape(clip(title, 60))}</text>')
    left = _WIDTH - _RIGHT
    beside = _beside(title, list(series)[:_MOST_SHOWN])
    for number, (name, points) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        stretches = _stretches(thinned(points))
        parts += [_dots([pair for stretch in stretches for pair in stretch], colour, place)] if is_dotted else [_line(stretch, colour, place) for stretch in stretches]
        if number < _MOST_SHOWN:
            across, below = (left - 6, _TOP + 13 + 13 * number) if beside is None else (beside[number], 14)
            parts.append(f'<text x="{across:.0f}" y="{below:.0f}" text-anchor="end" style="fill:{colour}">{escape(clip(name, 30))}</text>')
    if not whole:
        parts.append(f'<text x="{_LEFT + wide / 2}" y="{_TOP + high / 2}" text-anchor="middle">no values yet</text>')
    return "".join([*parts, "</svg>"])


def _beside(title: str, names: Sequence[str]) -> list[float] | None:
    """Return where names end that find room right of the title, where no line crosses them; None if they don't."""
    wide = [_LETTER * (len(clip(name, 30)) + 2) for name in names]
    if _LEFT + _LETTER * (len(clip(title, 60)) + 2) + sum(wide) > _WIDTH - _RIGHT:
        return None
    return [_WIDTH - _RIGHT - sum(wide[number + 1 :]) for number in range(len(names))]


def chart_text(series: Mapping[str, Sequence[tuple[float, float]]], *, width: int = 40) -> str:
    """Return a line of bars for each, with its first, last, least and greatest value."""
    lines = []
    for name, points in series.items():
        ys = [pair[1] for pair in points if _is_finite(pair)]
        if not ys:
            lines.append(f"{name}: no values yet")
            continue
        low, high = min(ys), max(ys)
        step = max(1, math.ceil(len(ys) / width))
        shown = ys[:: -step][::-1]
        bars = "".join(_BARS[round((y - low) / (high - low) * 7) if high > low else 0] for y in shown)
        extent = f"last {_number(ys[-1])}, {_number(low)} to {_number(high)}, {len(ys)} values"
        lines.append(f"{name}: {bars} {extent}")
    return "\n".join(lines)


def chart_bundle(series: Mapping[str, Sequence[tuple[float, float]]], *, title: str = "", x: str = "") -> dict[str, str]:
    """Return both forms as a mime bundle."""
    text = "\n".join(filter(None, [title, chart_text(series)]))
    return {"text/plain": text, "text/html": f'<div data-kale="plots">{chart_svg(series, title=title, x=x)}</div>'}


def _line(points: Sequence[tuple[float, float]], colour: str, place: object) -> str:
    assert callable(place)
    if len(points) == 1:
        across, down = place(points[0]).split()
        return f'<circle cx="{across}" cy="{down}" r="2" fill="{colour}"/>'
    path = "L".join(place(point) for point in points)
    return f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _dots(points: Sequence[tuple[float, float]], colour: str, place: object) -> str:
    assert callable(place)
    path = "".join(f"M{place(point)}h0" for point in points)
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="4" stroke-linecap="round"/>'


def _stretches(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    found: list[list[tuple[float, float]]] = [[]]
    for pair in points:
        if _is_finite(pair):
            found[-1].append(pair)
        elif found[-1]:
            found.append([])
    return [stretch for stretch in found if stretch]


def thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Return few enough points to draw: of each bin its first, least, greatest and last, so that no peak is lost."""
    if len(points) <= _MOST_POINTS:
        return points
    size = math.ceil(len(points) / (_MOST_POINTS / 4))
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        part = list(enumerate(points[start : start + size]))
        finite = [item for item in part if _is_finite(item[1])] or part
        ends = (part[0], part[-1], min(finite, key=lambda item: item[1][1]), max(finite, key=lambda item: item[1][1]))
        kept += [pair for _, pair in sorted(dict(ends).items())]
    return kept


def _is_finite(pair: tuple[float, float]) -> bool:
    return math.isfinite(pair[0]) and math.isfinite(pair[1])


def _span(values: Sequence[float], margin: float = 0.0) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low == high:
        pad = abs(low) * 0.1
        return (low - pad, high + pad) if pad else (0.0, 1.0)
    pad = (high - low) * margin
    return low - pad, high + pad


def ticks(low: float, high: float) -> list[float]:
    """Return some four round numbers between two."""
    raw = (high - low) / 4
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(size * scale for size in (1, 2, 5, 10) if size * scale >= raw)
    first = math.ceil(low / step - 1e-9)
    found = [number * step for number in range(first, first + 12) if number * step <= high + step * 1e-9]
    return found if all(a < b for a, b in pairwise(found)) else [low, high]


def _number(value: float) -> str:
    return f"{value:.4g}"
