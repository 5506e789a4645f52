"""Waiting for a run or a step in a cell, with the display live, and how a failure ends the cell."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from kale_magic.api.find import Target, where_in
from kale_magic.magics.live import LiveView
from kale_magic.magics.mistakes import named
from kale_magic.render.view import node_of_status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kale_magic.magics.session import KaleMagics

_GOOD = frozenset({"completed", "cached"})
_SHOWN = 3


def wait_for_run(session: KaleMagics, run: str, timeout: float | None = None) -> dict[str, Any]:
    """Wait until a run has ended and return its status.

    Raises
    ------
    Mistake
        It did not complete; the line says which step and why.
    TimeoutError
        It has not ended after ``timeout`` seconds; it goes on.
    """
    if not session.has_live(run):
        session.show_live(LiveView(session, run))
    with _interruptible(f"Stopped waiting; run {run} goes on. End it with %kale_cancel {run}"):
        status = session.client.wait(run, timeout=timeout)
    session.settle(run)
    if status["state"] not in _GOOD:
        raise named("StepFailed" if status["state"] == "failed" else "JobCancelled", why_not(status))
    return status


def wait_for_step(session: KaleMagics, target: Target, timeout: float | None = None) -> Target:
    """Wait until a step has ended and return how it did; raises as :func:`wait_for_run`."""
    deadline = None if timeout is None else time.monotonic() + timeout
    since = int(session.client.status(target.run)["seq"])
    with (
        _interruptible(f"Stopped waiting; {target} goes on."),
        session.client.events(since=since, run=target.run) as stream,
    ):
        target = where_in(session.client, target.run, target.step, target.point)
        while not target.is_final:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(f"{target} is still {target.state} after {timeout:g} s.")
            stream.next(1.0 if left is None else min(left, 1.0))
            target = where_in(session.client, target.run, target.step, target.point)
    if session.client.status(target.run)["state"] != "running":
        session.settle(target.run)
    if target.state not in _GOOD:
        raise named("StepFailed" if target.state == "failed" else "JobCancelled", f"{target} {target.doing}")
    return target


def why_not(status: dict[str, Any]) -> str:
    """Return one line on why a run did not complete: the steps that failed first."""
    nodes = [node_of_status(name, step) for name, step in status["steps"].items()]
    bad = [node for node in nodes if node.state in {"failed", "lost"}] or [node for node in nodes if node.state == "cancelled"]
    parts = [f"{node.name} {node.state}" + (f": {node.detail}" if node.detail else "") for node in bad[:_SHOWN]]
    more = f"; and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    return f"Run {status['run']} {status['state']}" + (f": {'; '.join(parts)}{more}" if parts else "")


@contextlib.contextmanager
def _interruptible(message: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise named("KeyboardInterrupt", message) from None
