"""Waiting for a run or a step in a cell, with the display live, and how a failure ends the cell."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from kale_magic.api.find import Target, where_in
from kale_magic.errors import UsageError
from kale_magic.magics.live import LiveView
from kale_magic.magics.mistakes import named
from kale_magic.render.view import node_of_status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kale_magic.magics.session import KaleMagics
    from kale_magic.model.events import Event

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
        gates = GateKeeper(session, run)
        gates.look()
        status = session.client.wait(run, timeout=timeout, on_event=gates.event)
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
        gates = GateKeeper(session, target.run)
        while not target.is_final:
            if target.state == "gated":
                gates.tend(target)
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


class GateKeeper:
    """What a cell that waits does where a step waits for a person: asks for what ``input()`` asks, tells of a gate once."""

    def __init__(self, session: KaleMagics, run: str) -> None:
        self._session = session
        self._run = run
        self._told: set[str] = set()

    def look(self) -> None:
        """Tend the steps that are gated already."""
        for name, step in self._session.client.status(self._run)["steps"].items():
            if step["state"] == "gated" and "points" not in step:
                self.tend(where_in(self._session.client, self._run, name))

    def event(self, event: Event) -> None:
        """Take a change of the run."""
        if event.state == "gated" and event.step is not None and event.kind == "state":
            target = where_in(self._session.client, self._run, event.step, event.point)
            if target.state == "gated":
                self.tend(target)

    def tend(self, target: Target) -> None:
        """Ask the person what the step asks, or say once how to let it go on."""
        from kale_magic.api.gate import go_on
        from kale_magic.magics.look import ask_here

        if target.reason.startswith("asks:") and self._session.can_ask:
            with contextlib.suppress(UsageError):  # somebody else has answered meanwhile
                go_on(self._session.visits, target, {}, ask=ask_here)
        elif (said := f"{target} {target.reason}") not in self._told:
            self._told.add(said)
            way = "%kale_continue" if target.reason.startswith("asks:") else "%kale_open, then %kale_continue"
            print(f"{said}. Interrupt this cell, and: {way} {target}")


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
