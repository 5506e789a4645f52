"""The batch queue as a table: what runs and what waits, why, and when that was true."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kale_magic.render.text import format_bytes
from kale_magic.render.view import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_KNOWN = (
    ("executor", "where"), ("native_id", "job"), ("queue", "queue"), ("node", "node"), ("nodes", "nodes"), ("cpus", "CPUs"),
    ("gpus", "GPUs"), ("memory_bytes", "memory"), ("estimated_start", "starts at"), ("time_left_s", "time left"), ("reason", "reason"),
)  # fmt: skip


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
    if key == "time_left_s" and isinstance(value, int | float):
        return format_duration(value)
    return str(value)
