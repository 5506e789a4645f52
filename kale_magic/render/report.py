"""A run as one self-contained HTML page: what it was for, the workflow, when each job ran, parameters, figures, logs, origin.

Owns the page; refuses to read files: what the jobs left is handed in as :class:`JobFiles`. No script, no outside
resource; every text of a user is escaped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kale_magic.model.address import describe_point
from kale_magic.model.literals import to_literal
from kale_magic.render.ansi import ANSI_NIGHT, ANSI_STYLE, ansi_to_html
from kale_magic.render.chart import chart_svg
from kale_magic.render.html import pill
from kale_magic.render.markdown import markdown_html
from kale_magic.render.svg import graph_svg
from kale_magic.render.timeline import Bar, timeline
from kale_magic.render.view import elapsed_s, format_duration, graph_of_status, parse_time, reason_of, tracebacks
from kale_magic.render.words import escape, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from kale_magic.model.step import Step
    from kale_magic.model.workflow import Workflow

_MOST_BARS = 300
_MOST_JOBS = 200  # whose logs are in the page
_TIMES = frozenset({"submitted", "ended"})  # of where it comes from
_STYLE = (
    "<style>:root{color-scheme:light dark;background:Canvas;color:CanvasText}body{font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;max-width:1000px;margin:24px auto;padding:0 16px}"
    "h1{font-size:24px;margin:0}h2{font-size:18px;margin:28px 0 8px;border-bottom:1px solid #8c959f66}h3{font-size:15px;margin:18px 0 4px}"
    ".narrative{margin-top:14px}.narrative h1{font-size:20px}.narrative h2{font-size:17px;border:0;margin:16px 0 4px}"
    "table{border-collapse:collapse;margin:6px 0}td,th{text-align:left;vertical-align:top;padding:3px 16px 3px 0;border-bottom:1px solid #8c959f44}th{font-weight:600}"
    "td{overflow-wrap:anywhere}pre{overflow:auto;max-height:420px;padding:8px 10px;background:#8c959f22;border-radius:4px;font-size:12px;line-height:1.4}"
    ".wide{overflow:auto}.wide svg[aria-label=timeline]{min-width:600px}svg,img{max-width:100%;height:auto}summary{cursor:pointer}"
    ".kale-state{color:#fff;border-radius:8px;padding:0 8px;font-size:13px;print-color-adjust:exact;-webkit-print-color-adjust:exact}"
    ".figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(440px,100%),1fr));gap:12px}figure{margin:0}"
    "@media(prefers-color-scheme:dark){.kale-chart :is(path[stroke-width='1.5'],path[stroke-width='4'],circle),.kale-chart text[style]{filter:brightness(1.7)}}"
    "@media print{body{max-width:none;margin:0;font-size:11pt}pre{max-height:none;white-space:pre-wrap;overflow-wrap:anywhere}.wide{overflow:visible}.wide svg[aria-label=timeline]{min-width:0}"
    ".figures{grid-template-columns:1fr 1fr}summary,h2,h3{break-after:avoid}svg,figure,tr{break-inside:avoid}details::details-content{content-visibility:visible;block-size:auto}}"
    f"{ANSI_STYLE}@media screen and (prefers-color-scheme:dark){{{ANSI_NIGHT}}}</style>"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class JobFiles:
    """What one job left: the ends of its logs, its metrics, its last image as a data URL."""

    label: str
    stdout: str = ""
    stderr: str = ""
    metrics: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    image: str = ""
    edited: tuple[str, ...] = ()  # what a person has put in the place of what it left


def report_html(
    status: Mapping[str, Any],
    workflow: Workflow | None,
    jobs: Sequence[JobFiles],
    *,
    edges: Iterable[tuple[str, str]] = (),
    origin: Mapping[str, str],
    packages: Mapping[str, str] | None = None,
    now: datetime | None = None,
) -> str:
    """Return the page.

    Parameters
    ----------
    status : mapping
        The run, as the manager answers.
    workflow : Workflow or None
        What it was submitted with.
    jobs : sequence of JobFiles
        What its jobs left.
    edges : iterable of (producer, consumer)
        For the picture.
    origin : mapping of str to str
        Where it comes from: interpreter, versions, hash of the workflow.
    packages : mapping of str to str, optional
        Versions of what could be imported.
    now : datetime, optional
        For what is still running.
    """
    run, state = str(status.get("run")), str(status.get("state"))
    facts = [status.get("workflow"), status.get("executor"), _moment(status.get("submitted_at")), format_duration(elapsed_s(status, now))]
    parts = [
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(run)}</title>{_STYLE}</head><body>',
        f"<h1>{escape(run)} {pill(state)}</h1><div>{escape(' · '.join(str(fact) for fact in facts if fact))}</div>",
        _narrative(workflow),
        f'<h2>Workflow</h2><div class="wide">{graph_svg(graph_of_status(status, edges))}</div>',
        _timeline(status, workflow, now),
        _figures(jobs),
        "<h2>Steps</h2>",
        *(_step(name, item, workflow) for name, item in (status.get("steps") or {}).items()),
        _failures(status),
        _edits(jobs),
        _logs(jobs),
        _table("Origin", {key: _moment(value) if key in _TIMES else value for key, value in origin.items()}),
        _packages(packages or {}),
        "</body></html>",
    ]
    return "".join(parts)


def bars(status: Mapping[str, Any], workflow: Workflow | None = None, now: datetime | None = None) -> list[Bar]:
    """Return the jobs of a run with the seconds at which they were queued, began and ended."""
    zero = parse_time(status.get("submitted_at"))
    found = []
    for name, step in (status.get("steps") or {}).items():
        points = step.get("points")
        labels = _labels(name, workflow)
        for label, job in [(labels.get(number, f"{name}[{number}]"), job) for number, job in points.items()] if points else [(name, step)]:
            queued = parse_time(job.get("queued_at"))
            end = parse_time(job.get("ended_at")) or now
            if zero is None or queued is None or end is None:
                continue
            start = parse_time(job.get("started_at"))
            begin = None if start is None else (start - zero).total_seconds()
            found.append(Bar(label, str(job.get("state")), (queued - zero).total_seconds(), begin, (end - zero).total_seconds()))
    return sorted(found, key=lambda bar: (bar.queued, bar.start or bar.end))


def _labels(name: str, workflow: Workflow | None) -> dict[str, str]:
    step = workflow.steps.get(name) if workflow is not None else None
    if step is None or not step.is_sweep:
        return {}
    return {str(number): f"{name}[{describe_point(point)}]" for number, point in enumerate(step.points())}


def _narrative(workflow: Workflow | None) -> str:
    if workflow is None:
        return ""
    texts = [workflow.description, workflow.markdown.get("", "")]
    found = "".join(markdown_html(text) for text in texts if text)
    return f'<div class="narrative">{found}</div>' if found else ""


def _moment(text: object) -> str:
    at = parse_time(text)
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if at else ""


def _timeline(status: Mapping[str, Any], workflow: Workflow | None, now: datetime | None) -> str:
    found = bars(status, workflow, now)
    if not found:
        return ""
    more = f"<div>… and {len(found) - _MOST_BARS} more jobs</div>" if len(found) > _MOST_BARS else ""
    waited = sum((bar.end if bar.start is None else bar.start) - bar.queued for bar in found)
    ran = sum(bar.end - bar.start for bar in found if bar.start is not None)
    words = f"{len(found)} jobs; waited {format_duration(waited)} and ran {format_duration(ran)} in all. Hatched: waiting in the queue. Solid: running."
    return f'<h2>Timeline</h2><div>{escape(words)}</div><div class="wide">{timeline(found[:_MOST_BARS])}</div>{more}'


def _figures(jobs: Sequence[JobFiles]) -> str:
    by_metric: dict[str, dict[str, Sequence[tuple[float, float]]]] = {}
    for job in jobs:
        for name, points in job.metrics.items():
            by_metric.setdefault(name, {})[job.label] = points
    drawn = "".join(chart_svg(series, title=name, x="step") for name, series in by_metric.items())
    images = "".join(
        f'<figure><img src="{escape(job.image)}" alt="last image of {escape(job.label)}"><figcaption>{escape(job.label)}</figcaption></figure>'
        for job in jobs
        if job.image
    )
    found = "".join(f'<div class="figures">{part}</div>' for part in (drawn, images) if part)
    return f"<h2>Figures</h2>{found}" if found else ""


def _step(name: str, item: Mapping[str, Any], workflow: Workflow | None) -> str:
    step = workflow.steps.get(name) if workflow is not None else None
    why = one_line(reason_of(item))
    parts = [f"<h3>{escape(name)} {pill(str(item.get('state')))} {escape(why)}</h3>"]
    if step is not None and workflow is not None:
        parts += [markdown_html(text) for text in (step.description, workflow.markdown.get(name, "")) if text]
        rows = {key: to_literal(value, key) for key, value in step.params.items()} | {axis.name: axis.source for axis in step.each}
        parts.append(_rows(rows | _job_facts(item)))
        parts.append(_code(step))
    return "".join(parts)


def _job_facts(item: Mapping[str, Any]) -> dict[str, str]:
    queued, started, ended = (parse_time(item.get(key)) for key in ("queued_at", "started_at", "ended_at"))
    times = {
        "waited": format_duration((started - queued).total_seconds()) if started and queued else None,
        "ran": format_duration((ended - started).total_seconds()) if ended and started else None,
    }
    facts = {**({} if item.get("points") else times), "job": item.get("native_id"), "node": item.get("node"), "attempts": item.get("attempt") if (item.get("attempt") or 1) > 1 else None}
    return {key: str(value) for key, value in facts.items() if value}


def _code(step: Step) -> str:
    return f"<details><summary>code</summary><pre>{escape(step.code)}</pre></details>"


def _failures(status: Mapping[str, Any]) -> str:
    found = tracebacks(status)
    if not found:
        return ""
    return "<h2>Failures</h2>" + "".join(f"<h3>{escape(label)}</h3><pre>{ansi_to_html(text)}</pre>" for label, text in found[:20])


def _edits(jobs: Sequence[JobFiles]) -> str:
    items = [f"<li>{escape(job.label)}: {escape(sentence)}</li>" for job in jobs for sentence in job.edited]
    return f"<h2>Edited by hand</h2><ul>{''.join(items)}</ul>" if items else ""


def _logs(jobs: Sequence[JobFiles]) -> str:
    parts = []
    for job in jobs[:_MOST_JOBS]:
        for name, text in (("stdout", job.stdout), ("stderr", job.stderr)):
            if text.strip():
                parts.append(f"<details><summary>{escape(job.label)}: {name}</summary><pre>{ansi_to_html(text)}</pre></details>")
    if len(jobs) > _MOST_JOBS:
        parts.append(f"<div>… and {len(jobs) - _MOST_JOBS} more jobs</div>")
    return f"<h2>Logs (their ends)</h2>{''.join(parts)}" if parts else ""


def _table(title: str, rows: Mapping[str, str]) -> str:
    return f"<h2>{escape(title)}</h2>{_rows(rows)}"


def _packages(packages: Mapping[str, str]) -> str:
    if not packages:
        return ""
    names = ", ".join(f"{name} {version}" for name, version in packages.items())
    return f"<details><summary>{len(packages)} packages</summary><div>{escape(names)}</div></details>"


def _rows(rows: Mapping[str, str]) -> str:
    if not rows:
        return ""
    return "<table>" + "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in rows.items()) + "</table>"
