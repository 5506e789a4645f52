"""The supervisors of this machine that we talk to, and the background work that goes with them."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from kale_magic.executors._supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from kale_magic.executors._environment import Prepared
    from kale_magic.executors._supervisor import Listener

_log = logging.getLogger(__name__)


class Fleet:
    """Supervisors by the key of their environment.

    Parameters
    ----------
    folder : Path
        Where they have their folders.
    listener : Listener
        Told what they say.
    command : callable
        How one is started.
    """

    def __init__(self, folder: Path, listener: Listener, command: Callable[[str, Path], list[str]]) -> None:
        self._folder, self._listener, self._command = folder, listener, command
        self._members: dict[str, Supervisor] = {}
        self._connecting: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def open_count(self) -> int:
        """How many are connected."""
        return sum(member.is_open for member in self._members.values())

    async def close(self) -> None:
        """Hang up everywhere and end the background work."""
        tasks = [*self._tasks, *self._connecting.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for member in self._members.values():
            member.close()
        await asyncio.sleep(0)

    def get(self, key: str) -> Supervisor:
        """Return the supervisor of an environment, connected or not."""
        member = self._members.get(key)
        if member is None:
            member = self._members[key] = Supervisor(self._folder / key, self._listener, self._command)
        return member

    def forget(self, supervisor: Supervisor) -> None:
        """Drop one that is gone."""
        if self._members.get(supervisor.key) is supervisor:
            del self._members[supervisor.key]

    def connect(self, supervisor: Supervisor, prepared: Prepared | None) -> None:
        """Connect in the background; start it if need be and ``prepared`` says how. The listener is told."""
        if supervisor.key not in self._connecting:
            task = asyncio.get_running_loop().create_task(self._connect(supervisor, prepared))
            self._connecting[supervisor.key] = task
            self._keep(task)

    async def scan(self) -> None:
        """Connect to every supervisor that is there, and wait until each has answered or not."""
        for path in sorted(self._folder.glob("*/s")):
            if not self.get(path.parent.name).is_open:
                self.connect(self.get(path.parent.name), None)
        await asyncio.gather(*self._connecting.values(), return_exceptions=True)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something in the background until it ends or :meth:`close`; a failure is logged."""
        task = asyncio.get_running_loop().create_task(work)
        self._keep(task)
        return task

    async def _connect(self, supervisor: Supervisor, prepared: Prepared | None) -> None:
        try:
            reason = await supervisor.connect(prepared)
        finally:
            del self._connecting[supervisor.key]
        if reason is not None:
            self._listener.unreachable(supervisor, reason)

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("background work of the local executor failed", exc_info=error)
