"""What the panel of one step says: everything a person asks of it, as one plain object.

Owns the words and their order; refuses to read files: what is in the step's folder is handed in. Called by the ``Step`` widget.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kale_magic.model.address import describe_point
from kale_magic.model.literals import to_literal
from kale_magic.render.ansi import ansi_to_html
from kale_magic.render.markdown import markdown_html
from kale_magic.render.text import format_bytes
from kale_magic.render.view import elapsed_s, format_duration, node_of_status, parse_time, reason_of, told

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from kale_magic.model.resources import Resources
    from kale_magic.model.step import Step
    from kale_magic.model.workflow import Workflow

_MOST_POINTS = 200
LIVE = frozenset({"running", "paused", "gated"})  # states in which parameters can be changed for what computes
_TIMES = (("queued_at", "queued"), ("started_at", "started"), ("ended_at", "ended"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """What a job left in its folder: its script, the lines of ``events.jsonl``, the index of its outputs."""

    script: str = ""
    events: str = ""
    outputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def panel(
    name: str,
    point: int | None,
    item: Mapping[str, Any] | None,
    workflow: Workflow | None,
    kept: Kept,
    *,
    run: str = "",
    now: datetime | None = None,
) -> dict[str, Any]:
    """Return the panel of a step, or of one point of a sweep.

    Parameters
    ----------
    name : str
        The step.
    point : int or None
        A point of its sweep.
    item : mapping or None
        The step in the run's status; None before the first run.
    workflow : Workflow or None
        What the run was submitted with.
    kept : Kept
        What there is in the job's folder.
    run : str
        The run's id.
    now : datetime, optional
        For the time of what is still running.
    """
    step = workflow.steps.get(name) if workflow is not None else None
    points = _points(step)
    whole = item or {"state": "declared"}
    job = (whole.get("points") or {}).get(str(point), whole) if point is not None else whole
    node = node_of_status(name, whole)
    state = str(job.get("state") or node.state)
    label = name if point is None else f"{name}[{describe_point(points[point]) if point < len(points) else point}]"
    reason = told(state, reason_of(job)).removeprefix(f"{state}: ").removeprefix(state)
    error = job.get("error")
    lines = error.get("traceback") if isinstance(error, dict) else None
    return {
        "name": name,
        "label": label,
        "run": run,
        "state": state,
        "reason": reason,
        "facts": _facts(job, step, node.tally if point is None else "", now),
        "html": markdown_html("\n\n".join(filter(None, _described(step, workflow)))),
        "code": step.code if step else "",
        "params": [[key, to_literal(value, key)] for key, value in (step.params if step else {}).items()],
        "swept": [[key, to_literal(value, key)] for key, value in _swept(points, point).items()],
        "points": _point_rows(whole.get("points") or {}, points) if point is None else [],
        "is_point": point is not None,
        "can_change": state in LIVE and bool(step and step.params) and (point is not None or not whole.get("points")),
        "history": _history(job, kept.events),
        "script": kept.script,
        "outputs": [[key, *_shape(info)] for key, info in kept.outputs.items()],
        "traceback": ansi_to_html("\n".join(map(str, lines))) if lines else "",
    }


def summary_of(steps: Sequence[str], states: Mapping[str, str]) -> list[list[str]]:
    """Return name and state of each of several selected steps, for a panel that lists them."""
    return [[name, states.get(name, "")] for name in steps[:_MOST_POINTS]]


def _described(step: Step | None, workflow: Workflow | None) -> list[str]:
    if step is None or workflow is None:
        return []
    return [step.description, workflow.markdown.get(step.name, "")]


def _points(step: Step | None) -> list[dict[str, object]]:
    return step.points() if step is not None and step.is_sweep else []


def _swept(points: Sequence[Mapping[str, object]], point: int | None) -> Mapping[str, object]:
    return points[point] if point is not None and point < len(points) else {}


def _facts(job: Mapping[str, Any], step: Step | None, tally: str, now: datetime | None) -> list[list[str]]:
    took = format_duration(elapsed_s(job, now)) if job.get("started_at") else ""
    wait = _between(job.get("queued_at"), job.get("started_at") or (now.isoformat() if now else None))
    asked = step.resources if step is not None else None
    rows = [
        ["points", tally],
        ["job", str(job.get("native_id") or "")],
        ["executor", str(job.get("executor") or "")],
        ["node", str(job.get("node") or "")],
        ["attempt", str(job.get("attempt") or "") if (job.get("attempt") or 1) > 1 else ""],
        ["waited", wait],
        ["ran" if job.get("ended_at") else "running for", took],
        ["exit code", "" if job.get("exit_code") is None else str(job["exit_code"])],
        ["asked for", _asked(asked) if asked is not None else ""],
        ["after", ", ".join(step.after) if step is not None else ""],
    ]
    return [row for row in rows if row[1]]


def _asked(resources: Resources) -> str:
    words = [(resources.nodes, "nodes"), (resources.cpus, "CPUs"), (resources.gpus, "GPUs")]
    parts = [f"{amount} {word}" for amount, word in words if amount]
    parts += [format_bytes(resources.memory_bytes)] if resources.memory_bytes else []
    parts += [f"at most {format_duration(resources.walltime_s)}"] if resources.walltime_s else []
    return ", ".join(parts)


def _between(start: object, end: object) -> str:
    first, last = parse_time(start), parse_time(end)
    return "" if first is None or last is None else format_duration(max(0.0, (last - first).total_seconds()))


def _point_rows(jobs: Mapping[str, Mapping[str, Any]], points: Sequence[Mapping[str, object]]) -> list[list[Any]]:
    """Return number, parameters, state and reason of points: those that need a person first, where there are many."""
    numbers = sorted((int(number) for number in jobs), key=lambda n: (_calm(jobs[str(n)]), n)) if len(jobs) > _MOST_POINTS else range(len(jobs))
    rows = []
    for number in list(numbers)[:_MOST_POINTS]:
        job = jobs.get(str(number), {})
        words = describe_point(dict(points[number])) if number < len(points) else str(number)
        rows.append([number, words, str(job.get("state") or ""), reason_of(job)])
    if len(jobs) > _MOST_POINTS:
        rows.append([-1, f"and {len(jobs) - _MOST_POINTS} more points", "", ""])
    return rows


def _calm(job: Mapping[str, Any]) -> bool:
    return str(job.get("state")) not in {"failed", "lost", "running", "paused", "gated"}


def _history(job: Mapping[str, Any], events: str) -> list[list[str]]:
    """Return moments and what happened, oldest first: the manager's times and the worker's own lines."""
    rows = [(str(job[key]), word) for key, word in _TIMES if job.get(key)]
    for line in events.splitlines():
        try:
            event = json.loads(line)
        except ValueError:  # it is being written
            continue
        if isinstance(event, dict) and event.get("event") not in {"running", "ended"}:
            words = [str(event.get("event") or ""), str(event.get("state") or ""), str(event.get("reason") or ""), _decided(event)]
            rows.append((str(event.get("at") or ""), " ".join(filter(None, words))))
        elif isinstance(event, dict) and event.get("attempt", 1) < (job.get("attempt") or 1):
            words = [f"attempt {event.get('attempt')}", str(event.get("state") or event.get("event")), str(event.get("reason") or "")]
            rows.append((str(event.get("at") or ""), " ".join(filter(None, words))))
    return [[_clock(at), what] for at, what in sorted(rows, key=lambda row: row[0])]


def _decided(event: Mapping[str, Any]) -> str:
    """Return who let a step go on, and with what."""
    values = event.get("set")
    given = ", ".join(f"{name}={text}" for name, text in values.items()) if isinstance(values, dict) else ""
    words = [f"by {event['by']}" if event.get("by") else "", f"with {given}" if given else "", f"answer {event['answer']!r}" if "answer" in event else ""]
    return ", ".join(filter(None, words))


def _clock(text: str) -> str:
    at = parse_time(text)
    return at.astimezone().strftime("%H:%M:%S") if at else ""


def _shape(info: Mapping[str, Any]) -> list[str]:
    size = format_bytes(info["bytes"]) if info.get("bytes") is not None else ""
    return [str(info.get("type") or ""), " x ".join(map(str, info.get("shape") or ())), size]
