"""A run as HTML for a notebook's output: heading, picture, one row per step, tracebacks of what failed.

No script and no outside resource; every text of the user is escaped. What the picture needs is in
:mod:`kale_magic.render.svg`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kale_magic.render.ansi import ANSI_STYLE, ansi_to_html
from kale_magic.render.palette import colour
from kale_magic.render.svg import graph_svg
from kale_magic.render.view import elapsed_s, format_duration, graph_of_status, node_of_status, reason_of, tracebacks
from kale_magic.render.words import escape, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

_MOST_ROWS = 60  # of a table; then those that need a person stay
_MOST_TRACEBACKS = 3
_LARGEST_PICTURE = 400_000  # characters: a live display sends it several times a second
_STYLE = (
    "<style>"
    ".kale-run{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;font-size:13px;line-height:1.4}"
    ".kale-run .kale-head{margin:2px 0 6px}.kale-run .kale-picture{overflow:auto;max-height:520px}"
    ".kale-run table.kale-steps{border-collapse:collapse;color:inherit;margin:8px 0 0;font-size:13px}"
    ".kale-run table.kale-steps td,.kale-run table.kale-steps th{text-align:left;padding:3px 14px 3px 0;vertical-align:top;"
    "border:0;border-bottom:1px solid rgba(128,136,146,.28);background:none;white-space:nowrap;max-width:none}"
    ".kale-run table.kale-steps th{font-weight:600;opacity:.75}.kale-run table.kale-steps td.kale-why{white-space:normal;min-width:12em}"
    ".kale-run table.kale-steps .kale-num{text-align:right;font-variant-numeric:tabular-nums}"
    ".kale-run .kale-state{display:inline-block;color:#fff;border-radius:8px;padding:0 8px;font-size:12px;line-height:17px}"
    ".kale-run details{margin:8px 0 0}.kale-run summary{cursor:pointer;font-weight:600}"
    ".kale-run pre{margin:4px 0 0;padding:8px 10px;overflow:auto;max-height:380px;font-size:12px;line-height:1.35;"
    "border-left:3px solid #b91c1c;background:rgba(128,136,146,.10);color:inherit;white-space:pre}"
    f"{ANSI_STYLE}"
    "</style>"
)


def run_html(
    status: Mapping[str, Any], edges: Iterable[tuple[str, str]] = (), *, now: datetime | None = None, note: str = ""
) -> str:
    """Return the live or final picture of a run.

    Parameters
    ----------
    status : mapping
        The object that the manager answers to ``status``.
    edges : iterable of (producer, consumer)
        Edges of the plan; those that the status has itself need not be given.
    now : datetime, optional
        For the elapsed time of what is still running.
    note : str
        A sentence under the heading.
    """
    state = str(status.get("state") or "")
    took = format_duration(elapsed_s(status, now))
    facts = " · ".join(escape(fact) for fact in (status.get("executor"), took) if fact)
    parts = [
        f'<div class="kale-run" data-kale-run="{escape(status.get("run"))}" data-kale-state="{escape(state)}">{_STYLE}',
        f'<div class="kale-head"><b>{escape(status.get("run"))}</b> {pill(state)} {facts}</div>',
    ]
    if note:
        parts.append(f'<div class="kale-note">{escape(note)}</div>')
    picture = graph_svg(graph_of_status(status, edges))
    if len(picture) > _LARGEST_PICTURE:
        picture = "The workflow is too large to be drawn here; %kale_show draws it."
    parts.append(f'<div class="kale-picture">{picture}</div>')
    parts += [_table(status.get("steps") or {}, now), _tracebacks(status), "</div>"]
    return "".join(parts)


def pill(state: str) -> str:
    """Return a state as a coloured word."""
    return f'<span class="kale-state" style="background:{colour(state)}">{escape(state)}</span>'


def _table(steps: Mapping[str, Mapping[str, Any]], now: datetime | None) -> str:
    names = list(steps)
    left_out = ""
    if len(names) > _MOST_ROWS:
        urgent = [
            name for name in names if steps[name].get("state") in {"failed", "lost", "running", "paused", "gated"}
        ]
        names = list(dict.fromkeys([*urgent[:_MOST_ROWS], *names]))[:_MOST_ROWS]
        left_out = f"<tr><td colspan=6>… and {len(steps) - len(names)} more steps</td></tr>"
    rows = "".join(_row(name, steps[name], now) for name in names)
    heads = (
        "<th>step</th><th>state</th><th class=kale-num>points</th><th class=kale-num>elapsed</th><th>node</th><th></th>"
    )
    return f'<table class="kale-steps"><thead><tr>{heads}</tr></thead><tbody>{rows}{left_out}</tbody></table>'


def _row(name: str, step: Mapping[str, Any], now: datetime | None) -> str:
    node = node_of_status(name, step)
    took = format_duration(elapsed_s(step, now)) if step.get("started_at") or node.is_sweep else ""
    attempt = step.get("attempt") or 1
    why = one_line(reason_of(step))
    if attempt > 1:
        why = f"attempt {attempt}" + (f": {why}" if why else "")
    return (
        f"<tr><td>{escape(name)}</td><td>{pill(node.state)}</td><td class=kale-num>{escape(node.tally)}</td>"
        f"<td class=kale-num>{escape(took)}</td><td>{escape(step.get('node') or '')}</td><td class=kale-why>{escape(why)}</td></tr>"
    )


def _tracebacks(status: Mapping[str, Any]) -> str:
    found = tracebacks(status)
    parts = [
        f"<details{' open' if number == 0 else ''}><summary>{escape(label)}</summary><pre>{ansi_to_html(text)}</pre></details>"
        for number, (label, text) in enumerate(found[:_MOST_TRACEBACKS])
    ]
    if len(found) > _MOST_TRACEBACKS:
        parts.append(f"<div>… and {len(found) - _MOST_TRACEBACKS} more tracebacks</div>")
    return "".join(parts)
