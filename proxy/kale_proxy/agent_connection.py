"""One byte stream from a client: the handshake, then frames to and from its session.

What a stranger or a broken client sends ends this connection with an ERROR frame, and touches nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from typing import TYPE_CHECKING, Any, Protocol

from kale_proxy.agent_session import Hello, Session, Step
from kale_proxy.attempt import RESTART
from kale_proxy.wire import (
    MAX_FRAME,
    MAX_GREETING,
    PROTOCOL,
    Decoder,
    Kind,
    WireError,
    agent_proof,
    client_proof,
    frame,
    is_same,
    json_frame,
    parse_ack,
    parse_json,
    parse_message,
)

if TYPE_CHECKING:
    from collections.abc import Callable

HANDSHAKE_S = 10.0
LINGER_S = 10.0
HIGH_WATER = 512 << 10
MAX_AT_ONCE = 64
_LOG = logging.getLogger("kale_proxy.agent")


class Host(Protocol):
    """What a connection needs of the agent."""

    key: bytes
    step: Step

    def session(self, client_id: str) -> Session:
        """Return the client's session, perhaps new."""

    def left(self, connection: Connection) -> None:
        """Take note that a connection is over."""


class Connection(asyncio.Protocol):
    """See the module; made by the agent for each accepted socket."""

    def __init__(self, host: Host) -> None:
        self.is_blocked = False
        self.is_closed = False
        self.has_said_bye = False
        self.session: Session | None = None
        self.client_id = ""
        self._host = host
        self._decoder = Decoder(MAX_GREETING)
        self._handler: Callable[[Kind, bytes], None] = self._on_hello
        self._greeting = b""
        self._hello: Hello | None = None
        self._nonce = secrets.token_hex(16)
        self._transport: asyncio.Transport
        self._deadline: asyncio.TimerHandle
        self._tasks: set[asyncio.Task[Any]] = set()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: say the nonce, so that whoever dialled sees that it has reached an agent; the proof comes soon."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER)
        late = ("slow_handshake", f"no proof of the key within {HANDSHAKE_S:g} s")
        self._deadline = asyncio.get_running_loop().call_later(HANDSHAKE_S, self.fail, *late)
        self.write(json_frame(Kind.CHALLENGE, {"protocol": PROTOCOL, "nonce": self._nonce}))

    def data_received(self, data: bytes) -> None:
        """Handle each complete frame."""
        try:
            for kind, payload in self._decoder.feed(data):
                if self.is_closed:
                    return
                self._handler(kind, payload)
        except WireError as exc:
            self.fail(exc.code, str(exc))
        except Exception:  # a loop edge: a fault of ours ends this connection, not the agent
            _LOG.exception("a frame of client %s could not be handled", self.client_id)
            self.fail("internal", "the agent failed on this frame; its log has the traceback")

    def pause_writing(self) -> None:
        """Take note that the client reads too slowly: nothing more is read from the journal for it."""
        self.is_blocked = True

    def resume_writing(self) -> None:
        """Go on."""
        self.is_blocked = False
        if self.session is not None and not self.is_closed:
            self.session.pump()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Leave the session to the agent, which keeps it for a while."""
        self._deadline.cancel()
        self.is_closed = True
        if self.session is not None and self.session.outlet is self:
            self.session.outlet = None
        self._host.left(self)

    # -- for the session and the agent

    def write(self, data: bytes) -> None:
        """Send frames."""
        if not self.is_closed:
            self._transport.write(data)

    def fail(self, code: str, sentence: str) -> None:
        """Say why in an ERROR frame, and hang up; a client that does not read is not waited for long."""
        self.finish(json_frame(Kind.ERROR, {"code": code, "message": sentence}))
        self._deadline.cancel()
        self._deadline = asyncio.get_running_loop().call_later(LINGER_S, self.abort)

    def finish(self, last: bytes) -> None:
        """Write ``last`` and close when all has gone out; nothing more is handled."""
        self.write(last)
        self.is_closed = True
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self.is_closed = True
        self._transport.abort()

    def is_drained(self) -> bool:
        """Tell whether everything there is for this client has been written, having written what can be."""
        if self.session is None or self.session.outlet is not self:
            return True
        self.session.pump()
        return not self.is_blocked and self.session.is_drained()

    def progress(self) -> tuple[int, int]:
        """Return two numbers that change as long as the client takes something."""
        return self._transport.get_write_buffer_size(), self.session.cursor if self.session is not None else 0

    # -- handshake

    def _on_hello(self, kind: Kind, payload: bytes) -> None:
        if kind is not Kind.HELLO:
            raise WireError("garbage", "the first frame must be HELLO")
        data = parse_json(payload)
        if data.get("protocol") != PROTOCOL:
            given = str(data.get("protocol"))[:20]
            raise WireError("protocol", f"this step's agent speaks protocol {PROTOCOL}, the visitor {given}")
        self._hello = Hello.parse(data)
        self._greeting = payload
        self._handler = self._on_auth

    def _on_auth(self, kind: Kind, payload: bytes) -> None:
        if kind is not Kind.AUTH:
            raise WireError("garbage", "HELLO must be followed by AUTH")
        if not is_same(parse_json(payload).get("proof"), client_proof(self._host.key, self._nonce, self._greeting)):
            raise WireError(
                "wrong_key", "the visitor does not know this kernel's key: kernel.json is another step's or old"
            )
        if (self._host.step.live / RESTART).exists():  # else the first cell after a restart could run in the kernel before it
            raise WireError("restarting", "this kernel is about to be started afresh")
        assert self._hello is not None
        self._deadline.cancel()
        self._decoder.limit = MAX_FRAME
        self._handler = self._on_early
        self.client_id = self._hello.client
        self._start(self._welcome(self._hello))

    def _on_early(self, kind: Kind, payload: bytes) -> None:  # noqa: ARG002
        if kind is Kind.BYE:
            self._say_bye()
        else:
            raise WireError("garbage", "nothing may be sent between AUTH and WELCOME")

    async def _welcome(self, hello: Hello) -> None:
        session = self.session = self._host.session(hello.client)
        resumed = session.has_visit(hello.mode)
        try:
            visit = await session.open_visit(hello.mode)
        except WireError as exc:
            self.fail(exc.code, str(exc))
            return
        if self.is_closed:
            return
        welcome = {
            "protocol": PROTOCOL,
            "proof": agent_proof(self._host.key, self._nonce, self._greeting),
            "agent_pid": os.getpid(),
            "kernel_pid": self._host.step.kernel_pid,
            "mode": visit.mode,
            "subshell_id": visit.subshell_id,
            "note": visit.note,
            "resumed": resumed,
        } | session.place(hello)
        self.write(json_frame(Kind.WELCOME, welcome))
        self._handler = self._on_frame
        session.attach(self)

    # -- after WELCOME

    def _on_frame(self, kind: Kind, payload: bytes) -> None:
        assert self.session is not None
        if kind is Kind.MSG:
            self.session.take(parse_message(payload))
        elif kind is Kind.ACK:
            self.session.acknowledge(*parse_ack(payload))
        elif kind is Kind.CONTROL:
            self._start(self._control(self.session, parse_json(payload)))
        elif kind is Kind.PING:
            if not self.is_blocked:  # who does not read gets no heap of answers
                self.write(frame(Kind.PONG, payload[:64]))
        elif kind is Kind.BYE:
            self._say_bye()
        elif kind is not Kind.PONG:
            raise WireError("garbage", f"{kind.name} is not for an agent")

    async def _control(self, session: Session, request: dict[str, Any]) -> None:
        self.write(json_frame(Kind.CONTROL, await session.control(request)))

    def _say_bye(self) -> None:
        self.has_said_bye = True
        self.abort()

    def _start(self, work: Any) -> None:
        if len(self._tasks) >= MAX_AT_ONCE:
            work.close()
            raise WireError("overload", f"{MAX_AT_ONCE} requests to the agent are unanswered")
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            _LOG.error("a request of client %s failed", self.client_id, exc_info=exc)
            self.fail("internal", "the agent failed on this request; its log has the traceback")
