"""Waiting for a run or a step while showing how it goes: a bar on a terminal, plain lines elsewhere (both on stderr)."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from kale_magic.cli.console import Console, now, write
from kale_magic.model.states import RunState, StepState
from kale_magic.render.palette import mark
from kale_magic.render.text import progress_line
from kale_magic.render.view import told

if TYPE_CHECKING:
    from collections.abc import Callable

    from kale_magic.api.find import Target
    from kale_magic.client import Client
    from kale_magic.model.events import Event

_REDRAWS_S = 0.2
_REST_S = 0.05
_TICK_S = 1.0  # the elapsed time moves although nothing happens
_SILENT = frozenset({StepState.WAITING.value, StepState.QUEUED.value})
_BAD = frozenset({StepState.FAILED.value, StepState.LOST.value})
RUN_ENDED = frozenset(state.value for state in RunState if state.is_final)
STEP_ENDED = frozenset(state.value for state in StepState if state.is_final)


class Progress:
    """What is shown while a run goes on; the first status that shows it ended is the last that is asked for."""

    def __init__(self, console: Console, *, is_quiet: bool = False) -> None:
        self._console = console
        self._is_live = console.is_live and not is_quiet
        self._is_quiet = is_quiet
        self._said: dict[str, str] = {}

    @property
    def tick_s(self) -> float | None:
        """How long to wait for an event before :meth:`show` is called anyway; None where that changes nothing."""
        return _TICK_S if self._is_live else None

    def event(self, event: Event) -> None:
        """Take one change of the run: failed points and the states of steps get a line."""
        if event.kind != "state" or event.step is None or self._is_quiet:
            return
        label = event.step if event.point is None else f"{event.step}[{event.point}]"
        is_told = event.state in _BAD if event.point is not None or self._is_live else event.state not in _SILENT
        if not is_told or self._said.get(label) == event.state:
            return
        self._said[label] = event.state
        sign = mark(event.state, is_ascii=self._console.is_ascii(sys.stderr))
        self.clear()
        self._console.note(f"{sign} {label} {told(event.state, event.data.get('reason'))}")

    def show(self, status: dict[str, Any]) -> None:
        """Draw the bar again."""
        if self._is_live:
            line = progress_line(
                status, width=self._console.width, now=now(), is_ascii=self._console.is_ascii(sys.stderr)
            )
            write(sys.stderr, f"\r\x1b[2K{line}")

    def clear(self) -> None:
        """Take the bar away."""
        if self._is_live:
            write(sys.stderr, "\r\x1b[2K")


def follow_run(
    client: Client,
    run: str,
    since: int,
    progress: Progress,
    timeout: float | None,
    on_event: Callable[[Event], None] = lambda _: None,
) -> dict[str, Any]:
    """Show a run until it has ended and return its status; ``on_event`` gets every change, and may end it by raising.

    Raises
    ------
    TimeoutError
        It has not ended within ``timeout`` seconds; it goes on.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    status = client.status(run)
    asked = time.monotonic()
    try:
        with client.events(since=since, run=run) as stream:
            while status["state"] not in RUN_ENDED:
                progress.show(status)
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"run {run} has not ended within {timeout:g} s; it goes on")
                event = stream.next(
                    min((limit for limit in (progress.tick_s, left) if limit is not None), default=None)
                )
                if event is not None:
                    progress.event(event)
                    on_event(event)
                is_news = event is None or event.kind in {"run", "gap"}
                if is_news or (progress.tick_s is not None and time.monotonic() - asked > _REDRAWS_S):
                    status = client.status(run)
                    asked = time.monotonic()
            while (event := stream.next(_REST_S)) is not None and (event.kind != "run" or event.state not in RUN_ENDED):
                progress.event(event)  # what led to the end, where the status was ahead of the events
            return status
    finally:
        progress.clear()


def wait_for_step(client: Client, target: Target, timeout: float | None) -> Target:
    """Return a step as it is when it has ended; raises TimeoutError if that takes longer than ``timeout`` seconds."""
    from kale_magic.api.find import where_in

    deadline = None if timeout is None else time.monotonic() + timeout
    since = client.status(target.run)["seq"]
    with client.events(since=since, run=target.run) as stream:
        found = where_in(client, target.run, target.step, target.point)
        while found.state not in STEP_ENDED:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(
                    f"{target.run}/{target.label} has not ended within {timeout:g} s: it is {found.state}"
                )
            event = stream.next(left)
            if event is not None and (event.kind in {"run", "gap"} or event.step == target.step):
                found = where_in(client, target.run, target.step, target.point)
    return found
