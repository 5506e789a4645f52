"""Wait for runs and steps and take what they return, in a script and, without blocking it, in a notebook's event loop.

Mixed into :class:`kale_magic.api.run.Run` and :class:`kale_magic.api.run.Step`. Async variants wait in a thread: the client
is blocking, and has a connection for each thread.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from kale_magic.errors import JobCancelled, StepFailed
from kale_magic.model.states import StepState

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

_POLL_S = 0.05
_MOST_POLL_S = 0.5


class WaitsForRun:
    """What a run adds to ``wait``: its results, and both without blocking."""

    if TYPE_CHECKING:
        name: str

        @property
        def folder(self) -> Path: ...  # noqa: D102 - said where it is
        def wait(self, timeout: float | None = None) -> str: ...  # noqa: D102 - said where it is
        def states(self) -> dict[str, str]: ...  # noqa: D102 - said where it is
        def __getitem__(self, step: str) -> WaitsForStep: ...

    def result(self, timeout: float | None = None) -> dict[str, Any]:
        """Wait for the run and return what its last steps give: a dict of step to what :meth:`Step.result` returns.

        Raises
        ------
        StepFailed, JobCancelled
            The run did not complete; the message names the step.
        TimeoutError
            It has not ended by then; it goes on.
        """
        self.wait(timeout)
        states = self.states()
        for name, state in states.items():
            if state in {"failed", "cancelled"}:
                self[name].result(0.0)
        return {name: self[name].result(0.0) for name in self._last_steps() if name in states}

    async def wait_async(self, timeout: float | None = None) -> str:
        """Wait as :meth:`wait` does, while the event loop goes on."""
        return await asyncio.to_thread(self.wait, timeout)

    async def result_async(self, timeout: float | None = None) -> dict[str, Any]:
        """Return what :meth:`result` does, while the event loop goes on."""
        return await asyncio.to_thread(self.result, timeout)

    def __await__(self) -> Generator[Any, None, str]:
        return self.wait_async().__await__()

    def _last_steps(self) -> list[str]:
        from kale_magic.formats.native import read
        from kale_magic.model.dataflow import resolve

        return [name for name, children in resolve(read(self.folder / "workflow.yaml")).children().items() if not children]


class WaitsForStep:
    """``wait`` and ``result`` of a step, and both without blocking."""

    if TYPE_CHECKING:
        name: str
        run: str

        @property
        def state(self) -> str: ...  # noqa: D102 - said where it is
        @property
        def reason(self) -> str: ...  # noqa: D102 - said where it is
        def status(self) -> dict[str, Any]: ...  # noqa: D102 - said where it is
        def pull(self, *names: str) -> Any: ...  # noqa: D102 - said where it is

    def wait(self, timeout: float | None = None) -> str:
        """Wait until the step, or the whole sweep, has ended, and return its state.

        Parameters
        ----------
        timeout : float or None
            Longest wait in seconds; None waits for as long as it takes.

        Raises
        ------
        TimeoutError
            It has not ended by then; it goes on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = _POLL_S
        while not StepState(state := self.state).is_final:
            if deadline is not None and time.monotonic() >= deadline:
                message = f"step {self.name} of run {self.run} has not ended within {timeout:g} s"
                raise TimeoutError(message)
            time.sleep(pause)
            pause = min(_MOST_POLL_S, pause * 1.2)
        return state

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the step and return its output: one value, a tuple of several in their order, None if it has none.

        A sweep gives lists in point order.

        Raises
        ------
        StepFailed, JobCancelled
            It did not complete; the message says why.
        TimeoutError
            It has not ended by then; it goes on.
        """
        state = self.wait(timeout)
        if state == StepState.FAILED:
            raise StepFailed(f"Step {self.name} of run {self.run} failed: {self.reason}")
        if state == StepState.CANCELLED:
            raise JobCancelled(f"Step {self.name} of run {self.run} was cancelled: {self.reason}")
        names = _outputs(self.status())
        return self.pull(*names) if names else None

    async def wait_async(self, timeout: float | None = None) -> str:
        """Wait as :meth:`wait` does, while the event loop goes on."""
        return await asyncio.to_thread(self.wait, timeout)

    async def result_async(self, timeout: float | None = None) -> Any:
        """Return what :meth:`result` does, while the event loop goes on."""
        return await asyncio.to_thread(self.result, timeout)

    def __await__(self) -> Generator[Any, None, str]:
        return self.wait_async().__await__()

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        from kale_magic.render.words import escape

        rows = {"state": self.state, "reason": self.reason, "outputs": ", ".join(_outputs(self.status()))}
        shown = "".join(f"<tr><th>{key}</th><td>{escape(text)}</td></tr>" for key, text in rows.items() if text)
        return {"text/plain": repr(self), "text/html": f"<table><caption>{escape(f'{self.run}/{self.name}')}</caption>{shown}</table>"}


def _outputs(status: dict[str, Any]) -> list[str]:
    points = status.get("points") or {}
    return list(status.get("outputs") or (next(iter(points.values())).get("outputs") if points else None) or ())
