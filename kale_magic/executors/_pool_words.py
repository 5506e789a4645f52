"""What a pool refuses at submit, and what it says of itself. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kale_magic.errors import SubmitError
from kale_magic.executors._pool_queue import MARGIN_S, Room
from kale_magic.model.resources import format_walltime
from kale_magic.model.run import Demand

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kale_magic.executors._pool_queue import PoolQueue
    from kale_magic.executors._pool_record import PoolRecord
    from kale_magic.model.step import Step


def demand_of(record: PoolRecord, rooms: Mapping[str, Room], default_cpus: int, step: Step) -> Demand:
    """Return what each job of a step takes from a pool; ``default_cpus`` are a node's where nothing says how many it has.

    Raises
    ------
    SubmitError
        The pool takes no steps now, or none of its nodes ever has that much.
    """
    asked = step.resources
    if record.is_closing:
        raise SubmitError(f"Pool {record.name} is being closed: it takes no more steps.", "Open another: %kale_pool open NAME")
    if record.is_over:
        raise SubmitError(f"Pool {record.name} is closed: {record.words}.", f"Open it again: %kale_pool open {record.name}")
    demand = Demand(max(1, (asked.cpus or 1) * (asked.ntasks or 1)), asked.memory_bytes or 0, asked.gpus or 0)
    lack = _lack(record, rooms, default_cpus, demand)
    if (asked.nodes or 1) > 1:
        lack = f"{asked.nodes} nodes, and a step in a pool runs on one"
    limit = record.resources.walltime_s
    if limit and asked.walltime_s and asked.walltime_s > limit - MARGIN_S:
        lack = f"{format_walltime(asked.walltime_s)} of walltime, and all of it has {format_walltime(limit)}"
    if lack:
        raise SubmitError(f"Step `{step.name}` asks pool {record.name} for {lack}.", "Ask for less, or submit it without --pool.")
    return demand


def _lack(record: PoolRecord, rooms: Mapping[str, Room], default_cpus: int, demand: Demand) -> str:
    there = list(rooms.values())
    if not there:
        asked = record.resources
        if asked.cpus is None and asked.native:
            return ""  # a native line may give any number: the node itself will say
        there = [Room(default_cpus, asked.memory_bytes, tuple(map(str, range(asked.gpus or 0))))]
    lacks = [room.lacks(demand) for room in there]
    return "" if not all(lacks) else lacks[0]


def summary(record: PoolRecord, queue: PoolQueue, left_s: float | None, state: str, reason: str) -> dict[str, Any]:
    """Return what clients are told of a pool."""
    return {
        "name": record.name,
        "executor": record.executor,
        "state": state,
        "reason": reason if not queue.rooms or record.is_closing else "",
        "native_id": record.native_id or None,
        "opened_at": record.opened_at,
        "walltime_s": record.resources.walltime_s,
        "time_left_s": None if left_s is None else round(left_s),
        "nodes": [
            {"node": name or "this machine", "cpus": room.cpus, "used": room.used.cpus, "gpus": len(room.devices), "memory_bytes": room.memory_bytes}
            for name, room in queue.rooms.items()
        ],
        "running": [f"{share.ticket.run}/{share.ticket.address}" for share in queue.started.values()],
        "waiting": len(queue.waiting) + len(queue.held),
    }
