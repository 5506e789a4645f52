"""What a relay remembers of its front end's requests, so that each gets one reply and one idle, whatever breaks.

Pure: no sockets, no clock. A request is *open* until its reply and, on the shell channel, its idle have come.
After a new agent has taken over, requests divide: those the kernel has begun (it said busy), and those that
may have been lost on the way; :meth:`Ledger.after_probe` tells them apart once a probe, sent behind them on the same
way, has come back.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from kale_proxy.wire import Channel

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MARK = "kale"  # names the client in the header of its requests, and so in the parent of what they cause
_MAX_OPEN = 10_000
_KNOWN_PARENTS = 64


@dataclass(slots=True)
class Request:
    """A message of the front end that something should follow."""

    channel: Channel
    identities: list[bytes]
    header: dict[str, Any]
    parts: list[bytes]  # as they go to the agent; empty once the kernel is known to have them
    at: float
    is_sent: bool = False
    is_busy: bool = False
    is_idle: bool = False
    is_answered: bool = False
    count: int = 0
    failure: dict[str, Any] | None = field(default=None, repr=False)
    told: str = ""

    @property
    def kind(self) -> str:
        """``execute_request`` and so on."""
        return str(self.header["msg_type"])

    @property
    def is_execute(self) -> bool:
        """Whether it is a cell."""
        return self.kind == "execute_request"

    @property
    def has_reply(self) -> bool:
        """Whether its kind is ever replied to."""
        return self.kind.endswith("_request")

    @property
    def is_done(self) -> bool:
        """Whether all that was to follow has come."""
        return (self.is_answered or not self.has_reply) and (self.is_idle or self.channel is not Channel.SHELL)


class Settled(NamedTuple):
    """What is to be done after a probe: send ``lost`` again, give the others in the kernel's place what they miss."""

    lost: list[Request]
    unanswered: list[Request]
    without_idle: list[Request]


class Ledger:
    """The open requests of one front end, oldest first."""

    def __init__(self, client_id: str) -> None:
        self._client_id = client_id
        self._open: dict[str, Request] = {}

    def __iter__(self) -> Iterator[Request]:
        return iter(list(self._open.values()))

    def __len__(self) -> int:
        return len(self._open)

    def take(
        self, channel: Channel, identities: list[bytes], header: dict[str, Any], parts: Sequence[bytes], now: float
    ) -> Request:
        """Enter a message of the front end, marked as this client's; one without a reply on shell is waited for too."""
        marked = {key: value for key, value in header.items() if key != "subshell_id"} | {MARK: self._client_id}
        request = Request(channel, identities, header, [json.dumps(marked).encode(), *parts[1:]], now)
        self._open[header["msg_id"]] = request
        if len(self._open) > _MAX_OPEN:
            del self._open[next(iter(self._open))]
        return request

    def find(self, msg_id: str) -> Request | None:
        """Return an open request."""
        return self._open.get(msg_id)

    def printed(self, msg_id: str, kind: str, content: bytes) -> None:
        """Take note of an iopub message that a request caused."""
        request = self._open.get(msg_id)
        if request is None:
            return
        if kind == "status":
            request.is_busy, request.parts = True, []
            request.is_idle = request.is_idle or json.loads(content).get("execution_state") == "idle"
            self.drop_done(request)
        elif kind == "execute_input":
            request.count = int(json.loads(content).get("execution_count") or 0)
        elif kind == "error":
            request.failure = json.loads(content)

    def answered(self, msg_id: str) -> Request | None:
        """Take note of a reply, and return the request it is for; None if that has had one."""
        request = self._open.get(msg_id)
        if request is None or request.is_answered:
            return None
        request.is_answered = True
        self.drop_done(request)
        return request

    def overtaken(self, request: Request) -> list[Request]:
        """Return the cells before ``request`` that have ended and whose reply, which would be earlier, was lost."""
        before = list(self._open.values())
        before = before[: before.index(request)] if request.channel is Channel.SHELL else []
        return [r for r in before if r.is_execute and r.is_sent and r.is_idle and not r.is_answered]

    def drop_done(self, request: Request) -> None:
        """Forget a request that is done."""
        if request.is_done:
            self.drop(request)

    def drop(self, request: Request) -> None:
        """Forget a request."""
        self._open.pop(request.header["msg_id"], None)

    def unsent(self) -> list[Request]:
        """Return what has not gone to an agent yet."""
        return [request for request in self._open.values() if not request.is_sent]

    def unsure(self) -> list[Request]:
        """Return what was sent and of which nothing was heard: it may be repeated to the same agent."""
        return [r for r in self._open.values() if r.is_sent and not r.is_busy and not r.is_answered]

    def after_probe(self) -> Settled:
        """Divide what was sent before a probe that has come back; cells are never sent twice, questions may be."""
        lost, unanswered, without_idle = [], [], []
        for request in self:
            if not request.is_sent or request.channel is not Channel.SHELL:
                continue
            if not request.is_busy and not request.is_answered:
                lost.append(request)
            elif request.has_reply and not request.is_answered:
                unanswered.append(request)
            elif not request.is_idle:
                without_idle.append(request)
        return Settled(lost, unanswered, without_idle)


def execute_reply(request: Request) -> dict[str, Any]:
    """Return the reply of a cell whose own was lost, from what it printed."""
    reply = {"execution_count": request.count, "user_expressions": {}, "payload": []}
    if request.failure is None:
        return {"status": "ok", **reply}
    return {"status": "error", **request.failure, **reply}


class Parent(NamedTuple):
    """What a message says of its cause: its id, who asked, and the header as the front end wrote it."""

    msg_id: str
    session: str
    header: bytes


class Parents:
    """Gives the parent headers of messages back as the front end wrote them."""

    def __init__(self) -> None:
        self._known: dict[bytes, Parent] = {}

    def clean(self, raw: bytes) -> Parent:
        """Return what a parent header says, without what Kale has put in."""
        found = self._known.get(raw)
        if found is None:
            header = json.loads(raw)
            for key in (MARK, "subshell_id"):
                header.pop(key, None)
            if len(self._known) >= _KNOWN_PARENTS:
                self._known.clear()
            said = str(header.get("msg_id", "")), str(header.get("session", ""))
            found = self._known[raw] = Parent(*said, json.dumps(header).encode())
        return found
