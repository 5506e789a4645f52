"""Keeps a relay joined to its step's agent: finds the step, dials, notices a line that has gone dead, comes back.

Knows nothing of requests; the relay is told of each new link and of each end. One link at a time.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from kale_proxy.relay_link import AgentLink
from kale_proxy.visitor_stream import reach
from kale_proxy.wire import AgentGone, Kind, frame

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from kale_proxy.tunnel.route import Reach

    Seek = Callable[[], Awaitable["Place"]]
    Dial = Callable[[Path | Reach, float], tuple[socket.socket, bytes, str]]

DIAL_S = 60.0
QUIET_S = 15.0  # no byte on a line to another host for so long, though it was asked for one: it is dead
PING_S = 5.0
WOKEN_S = 4.0  # the same, after the machine has slept
_SLEPT_S = 3.0
_BEAT_S = 1.0
_BACK_OFF_S = (0.05, 2.0)
_FAR_BACK_OFF_S = 5.0
_MENDED_S = 10.0
_POLL_S = (0.1, 2.0)
_FINAL_S = 10.0
SILENT = "does not answer: its code may be in one long call that holds the interpreter"


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a step is: ``where`` leads to its kernel if it has one now, as a live folder of this machine or a Reach.

    ``doing`` goes on after its name (``is queued (waits for 2 cores)``); ``advice`` is the sentence for one whose
    kernel won't come any more, else empty.
    """

    where: Path | Reach | None = None
    doing: str = ""
    advice: str = ""


class Owner(Protocol):
    """What a line asks of its relay."""

    def hello(self) -> dict[str, Any]:
        """Return the fields of HELLO besides protocol and nonce."""

    def on_frame(self, kind: Kind, payload: bytes) -> None:
        """Take a frame of the link that :meth:`joined` was told of."""

    def joined(self, link: AgentLink) -> None:
        """Take note of a new link; frames come after this returns."""

    def parted(self) -> None:
        """Take note that there is none now."""

    def over(self, advice: str) -> None:
        """Take note that the step's kernel won't come any more; the line ends."""

    def forget(self, reason: str) -> None:
        """Take note that the kernel ended and the step may get another."""


class Line:
    """See the module.

    Parameters
    ----------
    seek : callable
        Finds the step; asked whenever the kernel is out of reach.
    owner : Owner
        The relay.
    on_doing : callable
        Called with what the step is doing, or why it is out of reach, while there is no link.
    dial : callable, optional
        Dials, instead of :func:`kale_proxy.visitor_stream.reach`.
    """

    def __init__(self, seek: Seek, owner: Owner, on_doing: Callable[[str], None], dial: Dial | None = None) -> None:
        self.doing = ""
        self.was_there = False
        self.way = ""
        self.away_since = time.monotonic()
        self._seek = seek
        self._owner = owner
        self._on_doing = on_doing
        self._reach = dial or reach
        self._nudged = asyncio.Event()

    async def run(self) -> None:
        """Keep joined until the step is over, then return."""
        poll, back_off = _POLL_S[0], _BACK_OFF_S[0]
        known: Path | Reach | None = None  # where it was a moment ago: worth a try before the manager is asked
        while True:
            place = Place(where=known) if known is not None else await self._seek()
            known = None
            if place.advice:
                self._owner.over(place.advice)
                return
            if place.where is None:
                self._say(place.doing)
                await asyncio.sleep(poll)
                poll = min(_POLL_S[1], poll * 1.3)
                continue
            poll = _POLL_S[0]
            try:
                ended = await self._linked(place.where)
                known = None if ended.ended else place.where
                back_off = _BACK_OFF_S[0]
            except AgentGone as exc:
                ended = exc
            if ended.ended and await self._has_ended(place.where, str(ended)):
                return
            self._say(f"is out of reach: {ended}")
            if getattr(ended, "is_transient", True):
                await asyncio.sleep(back_off)
                back_off = min(_FAR_BACK_OFF_S if self.way else _BACK_OFF_S[1], back_off * 2)
            else:  # a refused login is not repeated by itself: sites lock accounts for that
                await asyncio.sleep(_MENDED_S)
                self._nudged.clear()
                await self._nudged.wait()

    def nudge(self) -> None:
        """Try again, if it waits for a person; called when one does something."""
        self._nudged.set()

    def _say(self, doing: str) -> None:
        if doing != self.doing:
            self._on_doing(doing)
        self.doing = doing

    async def _linked(self, where: Path | Reach) -> AgentGone:
        """Join to the agent, and return why that ended."""
        link = await self._dial(where)
        self._owner.joined(link)
        self.doing = ""
        link.start()
        beats = asyncio.ensure_future(self._watch(link)) if self.way else None
        try:
            return await link.ended
        finally:
            if beats is not None:
                beats.cancel()
            self.was_there = True
            self.away_since = time.monotonic()
            self._owner.parted()

    async def _dial(self, where: Path | Reach) -> AgentLink:
        dialing = asyncio.get_running_loop().run_in_executor(None, self._reach, where, time.monotonic() + DIAL_S)
        try:
            sock, key, self.way = await asyncio.shield(dialing)
        except TimeoutError as exc:
            raise AgentGone(str(exc)) from exc
        except asyncio.CancelledError:
            dialing.add_done_callback(_dropped)
            raise
        self.doing = SILENT
        return await AgentLink.open(sock, key, self._owner.hello(), self._owner.on_frame)

    async def _watch(self, link: AgentLink) -> None:
        """Ask a line to another host for signs of life, sooner after the machine has slept; end it if there are none."""
        pinged_at, offset = 0.0, time.time() - time.monotonic()
        patience = QUIET_S
        while True:
            await asyncio.sleep(_BEAT_S)
            now = time.monotonic()
            slept = time.time() - now - offset > _SLEPT_S  # monotonic time stands still in sleep
            offset = time.time() - now
            if link.heard_at > pinged_at:
                patience = QUIET_S
            if slept:
                patience = WOKEN_S
            if link.is_held:
                pinged_at = 0.0
            elif (link.heard_at > pinged_at and now - max(link.heard_at, pinged_at) > PING_S) or slept:
                pinged_at = now
                link.send(frame(Kind.PING))
            elif link.heard_at < pinged_at < now - patience:
                link.give_up(f"nothing has come from there for {now - link.heard_at:.0f} s")

    async def _has_ended(self, where: Path | Reach, reason: str) -> bool:
        """After the kernel's end: tell the relay what became of the step; False when it runs anew."""
        deadline = time.monotonic() + _FINAL_S
        while True:
            place = await self._seek()
            if place.advice:
                self._owner.over(place.advice)
                return True
            if (place.where is not None and place.where != where) or time.monotonic() > deadline:
                self._owner.forget(reason)
                return False
            await asyncio.sleep(_POLL_S[0])


def _dropped(dialing: asyncio.Future[Any]) -> None:
    """Close a stream that came when nobody waited any more."""
    if not dialing.cancelled() and dialing.exception() is None:
        dialing.result()[0].close()
