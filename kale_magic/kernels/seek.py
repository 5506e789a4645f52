"""Tells a relay where its step is, by asking the manager."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from kale_magic.api.find import Scope, find_step, one_job, refuse_without_kernel, where_in
from kale_magic.client import Client
from kale_magic.errors import KaleError, ManagerUnavailable, UnknownRunError, UnknownStepError, UsageError
from kale_proxy.relay_line import Place

if TYPE_CHECKING:
    from collections.abc import Callable

    from kale_magic.api.find import Target

Answer = TypeVar("Answer")

_TIMEOUT_S = 30.0
_FAR_TIMEOUT_S = 10.0  # a stream that went dead with the network is not waited for as a manager that works


class _Desk:
    """The connection to one manager that all seekers of this process share, in a thread of its own."""

    def __init__(self, host: str) -> None:
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="kale-seek")
        self._host = host
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        if self._client is None:
            self._client = Client.connect(host=self._host, timeout=_FAR_TIMEOUT_S if self._host else _TIMEOUT_S)
        return self._client

    def hang_up(self) -> None:
        self._client = None

    def ask(self, question: Callable[[Client], Answer]) -> Answer:
        try:
            return question(self.client)
        except (ManagerUnavailable, OSError):
            self.hang_up()
            raise


@lru_cache(maxsize=64)
def _desk(host: str) -> _Desk:
    return _Desk(host)


async def ask(host: str, question: Callable[[Client], Answer]) -> Answer:
    """Ask the manager something, off the event loop; raises what the question raises."""
    desk = _desk(host)
    return await asyncio.get_running_loop().run_in_executor(desk.thread, desk.ask, question)


class Seeker:
    """Finds the step named ``text``, again and again.

    ``host`` is the login host whose manager knows the step; empty for this machine's.
    """

    def __init__(self, text: str, host: str = "") -> None:
        self._text = text
        self._desk = _desk(host)
        self._target: Target | None = None

    async def __call__(self) -> Place:
        """Return where the step is now."""
        return await asyncio.get_running_loop().run_in_executor(self._desk.thread, self._find)

    def _find(self) -> Place:
        try:
            return self._place()
        except (UsageError, UnknownStepError, UnknownRunError) as exc:
            return Place(advice=str(exc))
        except (KaleError, OSError) as exc:
            self._desk.hang_up()
            if isinstance(exc, ManagerUnavailable) and self._target is not None and self._target.kernel is not None:
                return Place(where=self._target.kernel)  # the step goes on without a manager
            return Place(doing=f"can't be looked up: {exc}")

    def _place(self) -> Place:
        client = self._desk.client
        if self._target is None:
            self._target = one_job(client, find_step(client, self._text, Scope()))
        else:
            self._target = where_in(client, self._target.run, self._target.step, self._target.point)
        refuse_without_kernel(self._target)
        return Place(where=self._target.kernel, doing=self._target.doing)
