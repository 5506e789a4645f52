"""The table of pools: state, nodes, time left, what runs in them; for magics and command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kale_magic.model.resources import format_walltime
from kale_magic.render.tables import table
from kale_magic.render.words import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_HEADS = ("pool", "state", "executor", "job", "nodes", "cores used", "time left", "running", "waiting", "reason")
_SHOWN = 3
NONE = "No pool is open. Open one: %kale_pool open NAME --executor slurm --nodes 1"


def pools_bundle(pools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return pools, as the manager lists them, as a mime bundle."""
    return table(_HEADS, [_row(pool) for pool in pools])


def pools_text(pools: Sequence[Mapping[str, Any]]) -> str:
    """Return pools as text."""
    return str(pools_bundle(pools)["text/plain"]) if pools else NONE.replace("%kale_pool", "jupyter kale pool")


def _row(pool: Mapping[str, Any]) -> list[str]:
    nodes, running, left = pool.get("nodes") or [], pool.get("running") or [], pool.get("time_left_s")
    more = f" and {len(running) - _SHOWN} more" if len(running) > _SHOWN else ""
    return [
        str(pool.get("name")),
        str(pool.get("state")),
        str(pool.get("executor")),
        str(pool.get("native_id") or ""),
        ", ".join(str(node.get("node")) for node in nodes),
        f"{sum(node.get('used') or 0 for node in nodes)} of {sum(node.get('cpus') or 0 for node in nodes)}" if nodes else "",
        "" if left is None else format_walltime(int(left)),
        ", ".join(running[:_SHOWN]) + more,
        str(pool.get("waiting") or ""),
        one_line(str(pool.get("reason") or "")),
    ]
