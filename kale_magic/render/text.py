"""Workflows, runs and the queue as plain text for a terminal, a log or ``text/plain``: aligned, wide-character safe.

``is_ascii`` gives the same without box drawing, for a terminal that is not UTF-8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kale_magic.render.palette import mark, rank
from kale_magic.render.view import (
    DECLARED,
    Graph,
    Node,
    counts_of,
    elapsed_s,
    format_duration,
    graph_of_status,
    parse_time,
    reason_of,
)
from kale_magic.render.words import clip, columns, one_line, pad

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

_WIDEST = 40  # columns of one cell that is not the last


def dag_text(
    nodes: Sequence[Node], edges: Iterable[tuple[str, str]], *, title: str = "", is_ascii: bool = False
) -> str:
    """Return a DAG as one line per step, producers first, each with what it needs.

    ::

        eos: 3 steps
        · relax
        · curve   3 points   <- relax
        · fit                <- curve
    """
    pairs = list(dict.fromkeys(edges))
    parents: dict[str, list[str]] = {node.name: [] for node in nodes}
    for a, b in pairs:
        if b in parents:
            parents[b].append(a)
    arrow = "<-" if is_ascii else "←"
    rows = []
    for node in _in_order(nodes, parents):
        state = "" if node.state == DECLARED else node.state
        needs = f"{arrow} {', '.join(parents[node.name])}" if parents[node.name] else ""
        rows.append([f"{mark(node.state, is_ascii=is_ascii)} {node.name}", state, node.tally, node.note, needs])
    count = f"{len(nodes)} step" + ("" if len(nodes) == 1 else "s")
    return "\n".join([f"{title}: {count}" if title else count, *_aligned(rows, is_ascii=is_ascii)])


def graph_text(graph: Graph, *, is_ascii: bool = False) -> str:
    """Return :func:`dag_text` of a graph read by :mod:`kale_magic.render.view`."""
    return dag_text(graph.nodes, graph.edges, title=graph.title, is_ascii=is_ascii)


def run_line(status: Mapping[str, Any], *, now: datetime | None = None) -> str:
    """Return a run as one line: ``eos-20261122-7f3a running: 3 of 5 steps completed, 1 running, 1 waiting (12 s)``."""
    counts = _counts([step.get("state") for step in (status.get("steps") or {}).values()])
    total = sum(counts.values())
    done = counts.pop("completed", 0) + counts.pop("cached", 0)
    rest = "".join(f", {number} {state}" for state, number in sorted(counts.items(), key=lambda item: rank(item[0])))
    took = format_duration(elapsed_s(status, now))
    return f"{status.get('run')} {status.get('state')}: {done} of {total} steps completed{rest}" + (
        f" ({took})" if took else ""
    )


def status_table(
    status: Mapping[str, Any], *, now: datetime | None = None, width: int | None = None, is_ascii: bool = False
) -> str:
    """Return a run as a heading and one line per step; a sweep's failed points have lines of their own.

    Parameters
    ----------
    status : mapping
        The object that the manager answers to ``status``.
    now : datetime, optional
        For the elapsed time of what is still running.
    width : int, optional
        Columns to cut lines at; None cuts nothing.
    """
    rows = [["", "step", "state", "points", "elapsed", "node", ""]]
    for name, step in (status.get("steps") or {}).items():
        rows.append(_status_row(name, step, now, is_ascii=is_ascii))
        for number, point in (step.get("points") or {}).items():
            if point.get("state") in {"failed", "lost"}:
                rows.append(_status_row(f"  {name}[{number}]", point, now, is_ascii=is_ascii))
    lines = [run_line(status, now=now), *_aligned(rows, is_ascii=is_ascii, right=(4,), widest_last=None)]
    return "\n".join(clip(line, width, is_ascii=is_ascii) if width else line for line in lines)


def runs_table(runs: Sequence[Mapping[str, Any]], *, now: datetime | None = None, is_ascii: bool = False) -> str:
    """Return the list of runs, one line each, in the order given."""
    if not runs:
        return "no runs"
    rows = [["", "run", "workflow", "state", "steps", "submitted", "elapsed", "executor"]]
    for run in runs:
        steps: Mapping[str, int] = run.get("steps") or {}
        done = steps.get("completed", 0) + steps.get("cached", 0)
        state = str(run.get("state") or "")
        rows.append([
            mark(state, is_ascii=is_ascii), str(run.get("run") or ""), str(run.get("workflow") or ""), state,
            f"{done}/{sum(steps.values())}" if steps else "", _moment(run.get("submitted_at")),
            format_duration(elapsed_s(run, now)), str(run.get("executor") or ""),
        ])  # fmt: skip
    return "\n".join(_aligned(rows, is_ascii=is_ascii, right=(4, 6)))


def queue_table(items: Sequence[Mapping[str, Any]], *, is_ascii: bool = False) -> str:
    """Return the queue of an executor, one line per job, with why it waits."""
    if not items:
        return "the queue is empty"
    rows = [["", "run", "step", "state", "cpus", "memory", "job", "node", "reason"]]
    for item in items:
        point = item.get("point")
        state = str(item.get("state") or "")
        memory = item.get("memory_bytes")
        rows.append([
            mark(state, is_ascii=is_ascii), str(item.get("run") or ""),
            f"{item.get('step')}" + (f"[{point}]" if point is not None else ""), state,
            str(item.get("cpus") or ""), format_bytes(memory) if memory else "",
            str(item.get("native_id") or ""), str(item.get("node") or ""), one_line(item.get("reason") or ""),
        ])  # fmt: skip
    empty = [at for at in (6, 7) if not any(row[at] for row in rows[1:])]  # this machine's jobs have neither
    rows = [[cell for at, cell in enumerate(row) if at not in empty] for row in rows]
    return "\n".join(_aligned(rows, is_ascii=is_ascii, right=(4, 5), widest_last=None))


def survey_row(line: Mapping[str, Any]) -> tuple[str, ...]:
    """Return one job of a batch system's queue: job, name, user, state, partition, nodes, node, time left, reason."""
    names = ("native_id", "name", "user", "state", "partition", "nodes", "node", "time_left", "reason")
    return tuple(one_line(str(line.get(name) or "")) for name in names)


def survey_table(lines: Sequence[Mapping[str, Any]], *, is_ascii: bool = False) -> str:
    """Return a batch system's own queue, one line per job."""
    if not lines:
        return "the queue is empty"
    head = ["job", "name", "user", "state", "partition", "nodes", "node", "time left", "reason"]
    rows = [head, *(list(survey_row(line)) for line in lines)]
    return "\n".join(_aligned(rows, is_ascii=is_ascii, right=(5, 7), widest_last=None))


def progress_line(
    status: Mapping[str, Any], *, width: int = 80, now: datetime | None = None, is_ascii: bool = False
) -> str:
    """Return a bar with numbers that fits in ``width`` columns; jobs count, so a sweep moves it point by point."""
    nodes = graph_of_status(status).nodes
    counts: dict[str, int] = {}
    for node in nodes:
        for state, number in (node.counts or {node.state: 1}).items():
            counts[state] = counts.get(state, 0) + number
    total = sum(counts.values())
    done = counts.get("completed", 0) + counts.get("cached", 0)
    others = [
        f"{counts[state]} {state}"
        for state in sorted(counts, key=rank)
        if state not in {"completed", "cached", "waiting"}
    ]
    took = format_duration(elapsed_s(status, now))
    tail = f" {done}/{total}" + (f"  {', '.join(others)}" if others else "") + (f"  {took}" if took else "")
    room = max(10, min(40, width - columns(tail) - 3))
    return clip(f"{_bar(done, total, room, is_ascii=is_ascii)}{tail}", width - 1, is_ascii=is_ascii)


def format_bytes(amount: float) -> str:
    """Return ``512 B``, ``1.5 MB``, ``4 GB``: powers of 1024, named as people and Slurm name them."""
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1024:
            return f"{amount:.3g} {unit}"
        amount /= 1024
    return f"{amount:.3g} TB"


def _bar(done: int, total: int, width: int, *, is_ascii: bool) -> str:
    eighths = round(done / total * width * 8) if total else width * 8
    full, part = divmod(eighths, 8)
    if is_ascii:
        return f"[{'#' * full}{'-' * (width - full)}]"
    body = "█" * full + (" ▏▎▍▌▋▊▉"[part] if part else "")
    return f"▕{body}{' ' * (width - columns(body))}▏"


def _status_row(name: str, step: Mapping[str, Any], now: datetime | None, *, is_ascii: bool) -> list[str]:
    state = str(step.get("state") or "waiting")
    counts = counts_of(step)
    done = counts.get("completed", 0) + counts.get("cached", 0)
    tally = f"{done}/{sum(counts.values())}" if counts else ""
    if 0 < counts.get("cached", 0) < sum(counts.values()):
        tally += f", {counts['cached']} cached"
    attempt = step.get("attempt") or 1
    why = one_line(reason_of(step))
    if attempt > 1:
        why = f"attempt {attempt}" + (f": {why}" if why else "")
    took = format_duration(elapsed_s(step, now)) if step.get("started_at") or counts else ""
    return [mark(state, is_ascii=is_ascii), name, state, tally, took, str(step.get("node") or ""), why]


def _aligned(
    rows: list[list[str]], *, is_ascii: bool, right: tuple[int, ...] = (), widest_last: int | None = _WIDEST
) -> list[str]:
    """Return rows in columns; a column that is empty in all rows but the heading is left out."""
    cells = [[one_line(cell) if cell.strip() == cell else cell for cell in row] for row in rows]
    last = len(cells[0]) - 1 if cells else 0
    cells = [
        [
            cell if n == last and widest_last is None else clip(cell, _WIDEST if n != 1 else 72, is_ascii=is_ascii)
            for n, cell in enumerate(row)
        ]
        for row in cells
    ]
    is_headed = bool(cells) and not cells[0][0]
    body = cells[1:] if is_headed else cells
    used = list(range(len(cells[0]))) if cells else []
    used = [n for n in used if any(row[n] for row in body)]
    wide = {n: max(columns(row[n]) for row in cells) for n in used}
    lines = []
    for row in cells:
        parts = [pad(row[n], wide[n], is_right=n in right) for n in used]
        first, rest = (parts[0], parts[1:]) if used and used[0] == 0 and is_headed else ("", parts)
        lines.append((f"{first} " if first else "") + "  ".join(rest))
    return [line.rstrip() for line in lines]


def _in_order(nodes: Sequence[Node], parents: Mapping[str, Sequence[str]]) -> list[Node]:
    """Return nodes with producers first, else in order of declaration; what is in a circle comes last."""
    placed: set[str] = set()
    rest = list(nodes)
    found: list[Node] = []
    known = {node.name for node in nodes}
    while rest:
        later = []
        for node in rest:
            if all(parent in placed or parent not in known for parent in parents[node.name]):
                placed.add(node.name)
                found.append(node)
            else:
                later.append(node)
        if len(later) == len(rest):
            return found + later
        rest = later
    return found


def _counts(states: Iterable[object]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for state in states:
        counts[str(state)] = counts.get(str(state), 0) + 1
    return counts


def _moment(text: object) -> str:
    """Return an ISO time as ``2026-11-22 17:05:09`` on the clock of the person who reads it."""
    moment = parse_time(text)
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else ""
