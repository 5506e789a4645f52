"""The timeline of a run as static SVG: a row per job, waiting in the queue and running told apart. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kale_magic.render.chart import ticks
from kale_magic.render.palette import colour
from kale_magic.render.view import format_duration
from kale_magic.render.words import clip, escape

if TYPE_CHECKING:
    from collections.abc import Sequence

_FONT = "font-family:system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;font-size:11px"
_ROW = 20.0


class Bar(NamedTuple):
    """One job of a timeline: seconds since the run was submitted; ``start`` is None while it waits."""

    label: str
    state: str
    queued: float
    start: float | None
    end: float


def timeline(bars: Sequence[Bar], *, width: float = 900) -> str:
    """Return one row per job: its wait in the queue as a hatched bar, its run as a solid one in the colour of its state."""
    if not bars:
        return ""
    left = 190.0
    total = max((bar.end for bar in bars), default=0.0) or 1.0
    scale = (width - left - 70) / total
    height = 26 + _ROW * len(bars)
    parts = [
        (f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="timeline" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" style="{_FONT};max-width:100%">{_HATCH}')
    ]
    for value in ticks(0.0, total):
        x = left + value * scale
        parts.append(f'<path d="M{x:.1f} 20V{height}" stroke="#8c959f" stroke-opacity=".35"/><text x="{x:.1f}" y="13" text-anchor="middle" fill="currentColor">{escape(format_duration(value))}</text>')
    for number, bar in enumerate(bars):
        y = 24 + number * _ROW
        start = bar.end if bar.start is None else bar.start
        wait, run = max(0.0, start - bar.queued), max(0.0, bar.end - start)
        tip = f"{bar.label}: {bar.state}; waited {format_duration(wait)}, ran {format_duration(run)}"
        parts.append(
            f"<g><title>{escape(tip)}</title>"
            f'<text x="{left - 8}" y="{y + 12}" text-anchor="end" fill="currentColor">{escape(clip(bar.label, 26))}</text>'
            f'<rect class="wait" x="{left + bar.queued * scale:.1f}" y="{y + 4}" width="{wait * scale:.1f}" height="10" fill="url(#kale-wait)"/>'
            f'<rect class="run" x="{left + start * scale:.1f}" y="{y + 2}" width="{max(run * scale, 1.5):.1f}" height="14" rx="2" fill="{colour(bar.state)}"/>'
            f'<text x="{left + bar.end * scale + 6:.1f}" y="{y + 12}" fill="currentColor">{escape(format_duration(run))}</text></g>'
        )
    return "".join([*parts, "</svg>"])


_HATCH = (
    '<defs><pattern id="kale-wait" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect width="5" height="5" fill="#8c959f" fill-opacity=".25"/><path d="M0 0V5" stroke="#8c959f" stroke-width="2"/></pattern></defs>'
)
