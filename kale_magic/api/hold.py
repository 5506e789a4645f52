"""Holding a step in the queue, and letting it go on; used by magics and command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kale_magic.errors import UsageError

if TYPE_CHECKING:
    from kale_magic.api.find import Target
    from kale_magic.client import Client


def hold(client: Client, target: Target) -> None:
    """Keep a step, or all points of a sweep that wait, from starting.

    Raises
    ------
    UsageError
        It is not in a queue: it runs, or is over.
    """
    if target.state not in {"queued", "waiting", "held"}:
        raise UsageError(f"{target} {target.doing}: only what is in the queue can be held.", _other(target))
    client.hold(target.run, target.step, target.point)


def release(client: Client, target: Target) -> None:
    """Let a held step go on; raises UsageError if it is not in a queue."""
    if target.state not in {"queued", "waiting", "held"}:
        raise UsageError(f"{target} {target.doing}: it is not held.", _other(target))
    client.release(target.run, target.step, target.point)


def _other(target: Target) -> str:
    return f"A paused step goes on by %kale_resume {target}." if target.state == "paused" else f"See %kale_status {target.run}"
