"""The batch queue as a table: what runs and what waits, why, and when that was true."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kale_magic.render.text import format_bytes
from kale_magic.render.view import format_duration, parse_time
from kale_magic.render.words import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_KNOWN = (
    ("executor", "where"), ("native_id", "job"), ("user", "user"), ("partition", "partition"), ("node", "node"), ("nodes", "nodes"),
    ("cpus", "CPUs"), ("gpus", "GPUs"), ("memory_bytes", "memory"), ("starts_at", "starts at"), ("time_left_s", "time left"), ("time_left", "time left"),
)  # fmt: skip
# The colours of a batch system's own words
_LOOKS = {"RUNNING": "running", "COMPLETING": "running", "PENDING": "queued", "CONFIGURING": "queued", "REQUEUED": "queued", "SUSPENDED": "paused", "STOPPED": "paused"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Whose queue: that of a login host, of one executor of the notebook's manager, or all of that (both empty)."""

    executor: str = ""
    host: str = ""

    @property
    def key(self) -> str:
        """The place as one word: ``host:login``, ``executor:slurm``, or ``here``."""
        return f"host:{self.host}" if self.host else f"executor:{self.executor}" if self.executor else "here"

    def label(self, own: str) -> str:
        """Return the place in words; ``own`` is the host of the notebook's manager, empty for this machine."""
        return self.host or self.executor or own or "this machine"


HERE = Place()


def parse_place(key: str) -> Place:
    """Read what :attr:`Place.key` wrote; anything else is :data:`HERE`."""
    kind, _, name = key.partition(":")
    return Place(host=name) if kind == "host" else Place(executor=name) if kind == "executor" else HERE


def places(executors: Iterable[str], hosts: Iterable[str]) -> list[Place]:
    """Return the tabs: all that is here, each of its executors unless there is this machine alone, and each other host."""
    known = sorted(executors)
    return [HERE, *(Place(executor=name) for name in known if known != ["local"]), *(Place(host=name) for name in hosts)]


def joined(
    survey: Iterable[Mapping[str, Any]], ours: Iterable[Mapping[str, Any]], pools: Iterable[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """Return the lines of the batch system, those of our jobs with their run and step, so that they can be cancelled here; pools by their names."""
    own = [*({**pool, "name": f"pool {pool.get('name')}"} for pool in pools), *ours]
    known = {(line.get("executor"), str(line["native_id"])): line for line in own if line.get("native_id")}
    found = []
    for line in survey:
        ours_of_it = known.get((line.get("executor"), str(line.get("native_id"))), {})
        found.append({**line, **{key: ours_of_it[key] for key in ("run", "step", "point", "name") if key in ours_of_it}})
    return found


def table(jobs: Iterable[Mapping[str, Any]], own: Sequence[str] = ()) -> dict[str, Any]:
    """Return heads and rows; a column that says nothing is left out, and the reason, which is long, stands apart.

    Parameters
    ----------
    jobs : iterable of mapping
        What the manager answers to ``queue``.
    own : sequence of str
        Runs of this notebook, which can be shown alone.
    """
    listed = list(jobs)
    used = [(key, head) for key, head in _KNOWN if any(_cell(key, job.get(key), job.get("state")) not in {"", "0"} for job in listed)]
    rows = [
        {
            "run": str(job.get("run") or ""),
            "label": _label(job),
            "state": str(job.get("state") or ""),
            "look": _LOOKS.get(str(job.get("state")), str(job.get("state") or "")),
            "step": str(job.get("step") or ""),
            "point": job.get("point"),
            "executor": str(job.get("executor") or ""),
            "job": str(job.get("native_id") or ""),
            "mine": job.get("run") in own,
            "reason": one_line(str(job.get("reason") or "")),
            "cells": [_cell(key, job.get(key), job.get("state")) for key, _ in used],
        }
        for job in listed
    ]
    return {"heads": [head for _, head in used], "rows": rows}


def _label(job: Mapping[str, Any]) -> str:
    point = job.get("point")
    return str(job.get("step") or job.get("name") or "") + ("" if point is None else f"[{point}]")


def _cell(key: str, value: object, state: object = "") -> str:
    if value is None or value == "" or (key == "starts_at" and str(state).lower() == "running"):
        return ""
    if key == "memory_bytes" and isinstance(value, int | float):
        return format_bytes(value)
    if key == "starts_at":
        at = parse_time(value)
        return at.astimezone().strftime("%a %H:%M") if at else str(value)
    if key == "time_left_s" and isinstance(value, int | float):
        return format_duration(value)
    return str(value)
