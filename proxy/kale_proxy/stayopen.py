"""A kernel that stays open for a notebook after its step's code, if it had any: until it is released, left, or idle.

Runs in the step's process, on the main thread's loop, which serves the notebook's cells meanwhile. Whether somebody is
connected it knows by the file ``visited`` in the live folder, which the supervisor keeps as long as there is an agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any

from kale_proxy.attempt import RESTART, VISITED

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from kale_proxy.stepkernel import StepApp

_TICK_S = 0.25
_STOOD_STILL_S = 2.0
_REPLY_S = 0.1
_RESTART_S = 2.0


class Restarted(Exception):  # noqa: N818 - an outcome
    """The notebook wants a fresh kernel: this process makes room for another one of the same job."""


def ask_restart(live: Path, kernel_pid: int) -> None:
    """Make a kernel that stays open end, whatever it does, so that the supervisor starts it afresh; called by its agent."""
    (live / RESTART).touch(mode=0o600)
    _signal(kernel_pid, signal.SIGINT)
    asyncio.get_running_loop().call_later(_RESTART_S, _signal, kernel_pid, signal.SIGKILL)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


async def stay_open(app: StepApp, link: socket.socket, idle_s: float) -> str:
    """Serve cells until the end, and return why it came; empty if it was released.

    Parameters
    ----------
    app : StepApp
        With a kernel that is serving.
    link : socket.socket
        The supervisor's end; a word on it is a release.
    idle_s : float
        How long the kernel stays when no cell runs and nobody is connected.

    Raises
    ------
    Restarted
        The notebook wants a fresh one.
    """
    loop, kernel, shell = asyncio.get_running_loop(), app.kernel, app.kernel.shell
    leaving = asyncio.Event()
    shell.ask_exit = leaving.set  # ipykernel's stops the loop, and with it what is to be done at the end
    link.setblocking(False)
    released = asyncio.ensure_future(loop.sock_recv(link, 64))
    left = asyncio.ensure_future(leaving.wait())
    waiting: set[asyncio.Future[Any]] = {released, left}
    used_at = looked_at = loop.time()
    count = shell.execution_count
    try:
        while looked_at - used_at <= idle_s:
            done, waiting = await asyncio.wait(waiting, timeout=_TICK_S, return_when=asyncio.FIRST_COMPLETED)
            if left in done:
                await asyncio.sleep(_REPLY_S)
                return "exit() was called in its kernel"
            if released in done and released.exception() is None and released.result():
                return ""
            if (app.live / RESTART).exists():
                raise Restarted
            now = loop.time()
            has_run = kernel._kale.step_cells > 0 or shell.execution_count != count
            is_visited = released in waiting and (app.live / VISITED).exists()  # without a supervisor nobody takes it away
            if has_run or is_visited or now - looked_at > _STOOD_STILL_S:  # a loop that stood still was a cell that ran
                used_at = now
            looked_at, count = now, shell.execution_count
        return f"nobody had used its kernel for {f'{idle_s / 60:g} min' if idle_s >= 60 else f'{idle_s:g} s'}"
    finally:
        for future in waiting:
            future.cancel()
