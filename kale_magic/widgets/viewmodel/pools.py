"""Pools as a table: how each is, why it waits, what runs in it, how long it stays; and a form's words as what is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kale_magic.errors import UsageError
from kale_magic.model.resources import format_walltime
from kale_magic.render.words import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

HEADS = ("pool", "state", "where", "job", "nodes", "cores used", "time left", "waits", "runs in it")
_LOOKS = {"waiting": "queued", "active": "running", "idle": "completed", "draining": "paused", "ended": "cancelled", "failed": "failed"}
_SHOWN = 3
_TIME_LEFT = HEADS.index("time left") - 2  # of the cells, which begin after name and state
_COUNTS = {"nodes": "nodes", "cores": "cpus"}  # of the form, and what the manager calls it
_WORDS = ("walltime", "queue", "account")


def rows(pools: Iterable[Mapping[str, Any]], host: str) -> list[dict[str, Any]]:
    """Return a row for each pool of a manager; ``host`` is its login host, empty for this machine."""
    return [_row(pool, host) for pool in pools]


def _row(pool: Mapping[str, Any], host: str) -> dict[str, Any]:
    name, state, left = str(pool.get("name")), str(pool.get("state")), pool.get("time_left_s")
    nodes, running = pool.get("nodes") or [], list(map(str, pool.get("running") or ()))
    limit = pool.get("walltime_s")
    more = f" and {len(running) - _SHOWN} more" if len(running) > _SHOWN else ""
    time_left = format_walltime(int(left)) if left is not None else f"{format_walltime(int(limit))} once it begins" if limit and not nodes else ""
    return {
        "key": f"{host}/{name}",
        "host": host,
        "name": name,
        "state": state,
        "look": _LOOKS.get(state, ""),
        "reason": one_line(str(pool.get("reason") or "")),
        "busy": len(running) + int(pool.get("waiting") or 0),
        "closing": state == "draining",
        "cells": [
            " on ".join(filter(None, [str(pool.get("executor") or ""), host])),
            str(pool.get("native_id") or ""),
            ", ".join(sorted(str(node.get("node")) for node in nodes)),
            f"{sum(node.get('used') or 0 for node in nodes)} of {sum(node.get('cpus') or 0 for node in nodes)}" if nodes else "",
            time_left,
            str(pool.get("waiting") or ""),
            ", ".join(running[:_SHOWN]) + more,
        ],
    }


def mark(shown: Iterable[Mapping[str, Any]]) -> tuple[Any, ...]:
    """Return what a saved picture of rows depends on: not the seconds that pass."""
    return tuple((row["key"], row["state"], row["reason"], *row["cells"][:_TIME_LEFT], *row["cells"][_TIME_LEFT + 1 :]) for row in shown)


def asked(fields: Mapping[str, object]) -> dict[str, Any]:
    """Return what a form asks for, by the names of :func:`kale_magic.api.pools.open_pool`; what is left empty is left out.

    Raises
    ------
    UsageError
        There is no name, or a count is none.
    """
    words = {key: str(value).strip() for key, value in fields.items()}
    if not words.get("name"):
        raise UsageError("The pool has no name.", "Give it one: steps go in by %kale_submit --pool NAME.")
    found: dict[str, Any] = {key: words[key] for key in _WORDS if words.get(key)}
    for key, name in _COUNTS.items():
        if text := words.get(key):
            if not text.isdecimal() or int(text) < 1:
                raise UsageError(f"{key}: {text!r} is no count.", "Write a whole number from 1 on.")
            found[name] = int(text)
    return found
