"""Jobs that run without a supervisor, because theirs was killed: looked at until they end, ended when cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING

from kale_magic.executors._fate import find_out
from kale_proxy import procs

if TYPE_CHECKING:
    from collections.abc import Callable

    from kale_magic.executors._fleet import Fleet
    from kale_proxy.spec import JobSpec

_LOOK_S = 0.5
_SCAN_EVERY = 10  # looks
_GRACE_S = 2.0


class Orphans:
    """The uuids of such jobs.

    Parameters
    ----------
    fleet : Fleet
        Asked now and then whether a supervisor has turned up after all.
    settle : callable
        ``settle(uuid)`` acts on what a job's folder says now.
    """

    def __init__(self, fleet: Fleet, settle: Callable[[str], None]) -> None:
        self._fleet, self._settle = fleet, settle
        self._uuids: set[str] = set()
        self._is_looking = False

    def __contains__(self, uuid: str) -> bool:
        return uuid in self._uuids

    def add(self, uuid: str) -> None:
        """Look after a job from now on."""
        self._uuids.add(uuid)
        if not self._is_looking:
            self._is_looking = True
            self._fleet.spawn(self._look())

    def discard(self, uuid: str) -> None:
        """Look after it no longer."""
        self._uuids.discard(uuid)

    def end(self, spec: JobSpec) -> None:
        """End a job's process tree in the background: SIGTERM, and SIGKILL after a grace."""
        self._fleet.spawn(_end(spec))

    async def _look(self) -> None:
        looks = 0
        try:
            while self._uuids:
                await asyncio.sleep(_LOOK_S)
                looks += 1
                if looks % _SCAN_EVERY == 0:
                    await self._fleet.scan()
                for uuid in list(self._uuids):
                    self._settle(uuid)
        finally:
            self._is_looking = False


async def _end(spec: JobSpec) -> None:
    pid = find_out(spec).data.get("pid")
    if not isinstance(pid, int):
        return
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(OSError):
            procs.send(procs.tree(pid, spec.uuid), signum)
        await asyncio.sleep(_GRACE_S)
