"""Dials a step's agent before the relay is loaded: the agent gets ready meanwhile, and a kernelspec starts the sooner."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from kale_magic.api.find import Target

    Stream = tuple[socket.socket, bytes, str]

_TIMEOUT_S = 10.0


def dial(name: str, host: str) -> tuple[Target, Stream] | None:
    """Return the step and a stream to its agent; None where that does not go at once: the relay finds out why."""
    from kale_magic.api.find import Scope, find_step, one_job
    from kale_magic.client import Client
    from kale_magic.errors import KaleError
    from kale_proxy.visitor_stream import reach
    from kale_proxy.wire import AgentGone

    try:
        with Client.connect(host=host, timeout=_TIMEOUT_S) as client:
            target = one_job(client, find_step(client, name, Scope()))
        if target.kernel is None:
            return None
        return target, reach(target.kernel, time.monotonic() + _TIMEOUT_S)
    except (KaleError, AgentGone, OSError):
        return None


class First:
    """Gives what was dialled early to a relay that asks where the step is and dials; later asks are passed on."""

    def __init__(self, early: tuple[Target, Stream], seek: Callable[[], Awaitable[Any]]) -> None:
        self._target, self._stream = early[0], [early[1]]
        self._seek = seek
        self._is_asked = False

    async def seek(self) -> Any:
        """Return where the step is."""
        from kale_proxy.relay_line import Place

        if self._is_asked:
            return await self._seek()
        self._is_asked = True
        return Place(where=self._target.kernel, doing=self._target.doing)

    def dial(self, where: Any, deadline: float) -> Stream:
        """Return a stream to the agent."""
        from kale_proxy.visitor_stream import reach

        return self._stream.pop() if self._stream else reach(where, deadline)
