"""The batch queue as a table: what runs and what waits, why, and when that was true."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kale_magic.render.text import format_bytes
from kale_magic.render.view import format_duration, parse_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_KNOWN = (
    ("executor", "where"), ("native_id", "job"), ("user", "user"), ("partition", "partition"), ("node", "node"), ("nodes", "nodes"),
    ("cpus", "CPUs"), ("gpus", "GPUs"), ("memory_bytes", "memory"), ("starts_at", "starts at"), ("time_left_s", "time left"), ("reason", "reason"),
)  # fmt: skip


def joined(survey: Iterable[Mapping[str, Any]], ours: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines of the batch system, those of our jobs with their run and step, so that they can be cancelled here."""
    known = {(job.get("executor"), str(job["native_id"])): job for job in ours if job.get("native_id")}
    found = []
    for line in survey:
        own = known.get((line.get("executor"), str(line.get("native_id"))), {})
        found.append({**line, **{key: own[key] for key in ("run", "step", "point") if key in own}})
    return found


def table(jobs: Iterable[Mapping[str, Any]], own: Sequence[str] = ()) -> dict[str, Any]:
    """Return heads and rows; a column that says nothing is left out.

    Parameters
    ----------
    jobs : iterable of mapping
        What the manager answers to ``queue``.
    own : sequence of str
        Runs of this notebook, which can be shown alone.
    """
    listed = list(jobs)
    used = [(key, head) for key, head in _KNOWN if any(job.get(key) not in {None, "", 0} for job in listed)]
    rows = [
        {
            "run": str(job.get("run") or ""),
            "label": _label(job),
            "state": str(job.get("state") or ""),
            "step": str(job.get("step") or ""),
            "point": job.get("point"),
            "mine": job.get("run") in own,
            "cells": [_cell(key, job.get(key)) for key, _ in used],
        }
        for job in listed
    ]
    return {"heads": [head for _, head in used], "rows": rows}


def _label(job: Mapping[str, Any]) -> str:
    point = job.get("point")
    return str(job.get("step") or job.get("name") or "") + ("" if point is None else f"[{point}]")


def _cell(key: str, value: object) -> str:
    if value is None or value == "":
        return ""
    if key == "memory_bytes" and isinstance(value, int | float):
        return format_bytes(value)
    if key == "starts_at":
        at = parse_time(value)
        return at.astimezone().strftime("%a %H:%M") if at else str(value)
    if key == "time_left_s" and isinstance(value, int | float):
        return format_duration(value)
    return str(value)
