"""A scatter in three dimensions: points with a moment each, as static SVG and as text. Pure; no library.

The live one is drawn by the page; this is what stays of it in a saved notebook.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kale_magic.render.chart import _COLOURS, _STYLE, _number
from kale_magic.render.words import clip, escape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MOST_POINTS = 6000
YAW, PITCH = -0.6, 0.45
_SIZE = 340.0
_MOST_DRAWN = 1500  # in the static picture


@dataclass(frozen=True, kw_only=True, slots=True)
class Cloud:
    """Points in the order of their moments.

    ``names`` are those of x, y, z and t; ``rows`` are ``(x, y, z, t, group)``, ``groups`` the names of the groups,
    ``total`` how many points there are of which these are some.
    """

    names: tuple[str, str, str, str]
    rows: list[tuple[float, float, float, float, int]] = field(default_factory=list)
    groups: tuple[str, ...] = ()
    total: int = 0

    def span(self, axis: int) -> tuple[float, float]:
        """Return the least and the greatest value of an axis."""
        values = [row[axis] for row in self.rows]
        return (min(values), max(values)) if values else (0.0, 1.0)

    def frames(self) -> list[float]:
        """Return the moments there are, in order."""
        return sorted({row[3] for row in self.rows})


def cloud_of(tables: Mapping[str, Mapping[str, Sequence[float]]], names: tuple[str, str, str, str]) -> Cloud:
    """Return the rows of tables in which all four columns are finite; of too many, evenly spread ones.

    Parameters
    ----------
    tables : mapping of str to mapping of str to sequence of float
        Columns of equal length, by the group's name.
    names : tuple of str
        The columns for x, y, z and t.
    """
    rows = [
        (*row, number)
        for number, columns in enumerate(tables.values())
        if all(name in columns for name in names)
        for row in zip(*(columns[name] for name in names), strict=True)
        if all(map(math.isfinite, row))
    ]
    some = rows if len(rows) <= MOST_POINTS else [rows[number * len(rows) // MOST_POINTS] for number in range(MOST_POINTS)]
    kept = sorted(some, key=lambda row: row[3])
    return Cloud(names=names, rows=kept, groups=tuple(tables), total=len(rows))


def cloud_svg(cloud: Cloud, *, title: str = "") -> str:
    """Return all points as they are seen from one side, the later ones the stronger."""
    words = escape(f"{title}: {cloud_text(cloud)}")
    high = _SIZE + 40
    size = f'width="560" height="{high:.0f}" viewBox="0 0 560 {high:.0f}" font-family="system-ui, sans-serif" font-size="10.5"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="kale-chart" role="img" aria-label="{words}" {size}>{_STYLE}',
        f'<text x="10" y="14" font-weight="600">{escape(clip(title, 60))}</text>',
    ]
    corners = [(x, y, z) for x in (0.0, 1.0) for y in (0.0, 1.0) for z in (0.0, 1.0)]
    edges = [(a, b) for a in corners for b in corners if a < b and sum(p != q for p, q in zip(a, b, strict=True)) == 1]
    lines = "".join(f"M{_at(a)}L{_at(b)}" for a, b in edges)
    parts.append(f'<path d="{lines}" fill="none" stroke="#8c959f" stroke-opacity=".5"/>')
    spans = [cloud.span(axis) for axis in range(3)]
    for axis, place in enumerate(((0.5, 0.0, 0.0), (1.0, 0.5, 0.0), (0.0, 0.0, 0.5))):
        x, y = _project(*place)
        low, top = spans[axis]
        text = escape(f"{clip(cloud.names[axis], 20)}: {_number(low)} to {_number(top)}")
        parts.append(f'<text x="{x + (0 if axis < 2 else -6):.1f}" y="{y + (14 if axis < 2 else 0):.1f}" text-anchor="{"middle" if axis == 0 else "start" if axis == 1 else "end"}">{text}</text>')
    frames = {moment: number for number, moment in enumerate(cloud.frames())}
    drawn = cloud.rows[:: max(1, math.ceil(len(cloud.rows) / _MOST_DRAWN))]
    for *values, moment, group in drawn:
        x, y = _project(*(_share(value, *spans[axis]) for axis, value in enumerate(values)))
        depth = 0.25 + 0.75 * (frames[moment] + 1) / len(frames)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2" fill="{_COLOURS[group % len(_COLOURS)]}" fill-opacity="{depth:.2f}"/>')
    return "".join([*parts, "</svg>"])


def cloud_text(cloud: Cloud) -> str:
    """Return how many points there are, and between which values."""
    if not cloud.rows:
        return "no points yet"
    extents = (f"{name} {_number(low)} to {_number(high)}" for name, (low, high) in zip(cloud.names, map(cloud.span, range(4)), strict=True))
    return f"{cloud.total} points, {', '.join(extents)}"


def _share(value: float, low: float, high: float) -> float:
    return 0.5 if high == low else (value - low) / (high - low)


def _project(x: float, y: float, z: float) -> tuple[float, float]:
    x, y, z = x - 0.5, y - 0.5, z - 0.5
    across, deep = x * math.cos(YAW) - y * math.sin(YAW), x * math.sin(YAW) + y * math.cos(YAW)
    up = z * math.cos(PITCH) + deep * math.sin(PITCH)
    return 280 + across * _SIZE * 0.62, _SIZE / 2 + 24 - up * _SIZE * 0.62


def _at(place: tuple[float, float, float]) -> str:
    x, y = _project(*place)
    return f"{x:.1f} {y:.1f}"
