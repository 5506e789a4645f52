"""The client side of a visit: plain blocking sockets with deadlines, standard library only.

Used by magics and the command line. One :class:`Visitor` belongs to one thread; only
:meth:`Visitor.interrupt` may be called from another. Nothing here outlives a deadline: what does not
come in time is a ``TimeoutError``, a stream that broke is :class:`kale_proxy.wire.AgentGone`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from kale_proxy.visitor_stream import Stream, is_acknowledged_at_once, reach, sentence, shake_hands
from kale_proxy.wire import (
    AgentGone,
    Channel,
    Kind,
    Message,
    ack_frame,
    frame,
    json_frame,
    message_frame,
    parse_json,
    parse_message,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kale_proxy.tunnel.route import Reach

    OnMessage = Callable[[str, dict[str, Any], dict[str, Any], list[bytes]], None]
    OnInput = Callable[[str, bool], str | None]

AFTER_INTERRUPT_S = 2.0
_UNSHOWN = frozenset({"status", "execute_input", "iopub_welcome"})
_EOF = "\x04"  # what ipykernel turns into EOFError


class Output(NamedTuple):
    """An iopub message, decoded as far as a visitor needs."""

    seq: int
    msg_type: str
    parent_id: str
    content: dict[str, Any]
    metadata: dict[str, Any]
    buffers: list[bytes]


class Visitor:
    """A client of a step's kernel; made by :meth:`connect`, closed by ``with`` or :meth:`close`.

    Attributes
    ----------
    client_id : str
        Coming back with it within 20 s finds the visit, its names and the replies that were not taken.
    mode : str
        What the kernel gave: "visit", "write", or "main" where it has no subshells.
    note : str
        A sentence for the person, if a visit here is less than usual; else empty.
    last_seq : int
        Number of the last iopub message seen; ``since`` of a later connection.
    lost : int
        How many iopub messages were printed but are no longer kept.
    way : str
        Name of the way to another host; empty for this one.
    pending : tuple of str
        Ids of requests whose reply has not come.
    """

    def __init__(self, stream: Stream, client_id: str, welcome: dict[str, Any]) -> None:
        self.client_id = client_id
        self.mode = str(welcome["mode"])
        self.note = str(welcome["note"])
        self.is_resumed = bool(welcome["resumed"])
        self.last_seq = int(welcome["seq"])
        self.lost = 0
        self.way = str(welcome.get("way", ""))
        self._stream = stream
        if is_acknowledged_at_once(self.way):
            stream.on_wait = self._acknowledge
        self._replies_seen = int(welcome["replies"])
        self._acknowledged = (self.last_seq, self._replies_seen)
        self._replies: dict[str, dict[str, Any] | None] = {}
        self._idle: set[str] = set()

    @classmethod
    def connect(
        cls,
        where: Path | Reach,
        *,
        mode: str = "visit",
        client_id: str | None = None,
        since: int | None = None,
        iopub: str = "own",
        replies: int = 0,
        timeout: float = 10.0,
    ) -> Self:
        """Connect to the agent of a step, and open the visit.

        Parameters
        ----------
        where : Path or Reach
            The step's live folder on this machine, with ``kernel.json`` and ``a``; or how to get to it elsewhere.
        mode : str
            "visit": names assigned stay the visitor's; "write": they are the step's; "main": queue behind
            the step's code.
        client_id : str, optional
            That of an earlier connection, to go on with it.
        since : int, optional
            Get iopub messages after this number; None: only new ones, or for a known client those it
            has not acknowledged.
        iopub : str
            "own": what this client's own requests print; "all": everything.
        replies : int
            ``replies_seen`` of the earlier connection.
        timeout : float
            Seconds, for all of it.

        Raises
        ------
        AgentGone
            There is no agent there; AgentRefused: it declined.
        TimeoutError
            It did not answer, or the kernel did not open the visit.
        """
        deadline = time.monotonic() + timeout
        client_id = client_id or os.urandom(16).hex()
        sock, key, way = reach(where, deadline)
        stream = Stream(sock)
        hello = {
            "client": client_id,
            "since": since,
            "replies": replies,
            "iopub": iopub,
            "visit": {"mode": mode},
        }
        try:
            return cls(stream, client_id, shake_hands(stream, key, hello, deadline) | {"way": way})
        except BaseException:
            stream.fail(AgentGone("The connection was never made."))
            raise

    @property
    def pending(self) -> tuple[str, ...]:
        """See the class."""
        return tuple(msg_id for msg_id, content in self._replies.items() if content is None)

    @property
    def replies_seen(self) -> int:
        """Number of the last reply taken; ``replies`` of a later connection."""
        return self._replies_seen

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def execute(
        self,
        code: str,
        *,
        on_message: OnMessage | None = None,
        on_input: OnInput | None = None,
        timeout: float | None = None,
        silent: bool = False,
        store_history: bool = True,
        user_expressions: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """Run ``code`` in the visit and return the content of ``execute_reply``, when all its output has come.

        Parameters
        ----------
        code : str
            A cell.
        on_message : callable, optional
            Called as ``on_message(msg_type, content, metadata, buffers)`` for each thing the cell shows:
            stream, display_data, execute_result, error and so on; not for status and execute_input.
        on_input : callable, optional
            Called as ``on_input(prompt, password)`` when the cell asks; None as answer is end of file.
            Without it, a cell that asks gets an error.
        timeout : float, optional
            Seconds. The cell goes on after it; :meth:`wait` with the id in :attr:`pending` takes it up again.

        Raises
        ------
        KeyboardInterrupt
            After this visit's cell, and nothing else, was interrupted.
        TimeoutError, AgentGone
            As the module says.
        """
        content = {
            "code": code,
            "silent": silent,
            "store_history": store_history,
            "user_expressions": user_expressions or {},
            "allow_stdin": on_input is not None,
            "stop_on_error": True,
        }
        deadline = _deadline(timeout)
        msg_id = self._send(Channel.SHELL, "execute_request", content, deadline)
        return self._wait(msg_id, on_message, on_input, deadline, timeout)

    def wait(
        self,
        msg_id: str,
        *,
        on_message: OnMessage | None = None,
        on_input: OnInput | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Wait for an execute request sent before, also by an earlier connection of this client id; as :meth:`execute`.

        What it showed while something else was waited for on this connection is not shown again.
        """
        self._replies.setdefault(msg_id, None)
        return self._wait(msg_id, on_message, on_input, _deadline(timeout), timeout)

    def request(
        self, msg_type: str, content: dict[str, Any], channel: str = "shell", *, timeout: float = 10.0
    ) -> dict[str, Any]:
        """Send any request (complete_request, inspect_request, ...) and return the content of its reply."""
        deadline = time.monotonic() + timeout
        msg_id = self._send(Channel[channel.upper()], msg_type, content, deadline)
        try:
            while (reply := self._replies[msg_id]) is None:
                self._step(deadline, msg_id)
        finally:
            self._replies.pop(msg_id, None)
        return reply

    def outputs(self, *, timeout: float) -> Iterator[Output]:
        """Yield iopub messages as they come, all there are for this connection, until none came for ``timeout`` seconds."""
        while True:
            try:
                output = self._step(time.monotonic() + timeout)
            except TimeoutError:
                return
            if output is not None:
                yield output

    def interrupt(self) -> None:
        """Ask for the end of the cell this visitor runs; returns at once. May be called from another thread."""
        self._stream.send(json_frame(Kind.CONTROL, {"op": "interrupt"}), time.monotonic() + AFTER_INTERRUPT_S)

    def control(self, op: str, *, timeout: float = 10.0, **fields: Any) -> dict[str, Any]:
        """Ask the agent itself (status, open_visit, close) and return its answer; ``ok`` in it says whether it did."""
        deadline = time.monotonic() + timeout
        request_id = os.urandom(16).hex()
        self._stream.send(json_frame(Kind.CONTROL, {"id": request_id, "op": op} | fields), deadline)
        while True:
            kind, payload = self._stream.read(deadline)
            if kind is Kind.CONTROL and (answer := parse_json(payload)).get("id") == request_id:
                return answer
            self._sort(kind, payload, deadline)

    def close(self) -> None:
        """End the visit: its cell, if one runs, is interrupted, and its names go. Raises nothing, and waits a second at most."""
        with contextlib.suppress(AgentGone):
            self._stream.send(self._ack() + frame(Kind.BYE), time.monotonic() + 1.0)
        self._stream.fail(AgentGone("This visitor is closed."))

    def drop(self) -> None:
        """Hang up without ending the visit: it stays open for 20 s for the same client id."""
        self._stream.fail(AgentGone("This visitor has hung up."))

    # -- inside

    def _send(self, channel: Channel, msg_type: str, content: dict[str, Any], deadline: float) -> str:
        msg_id = os.urandom(16).hex()
        if channel is not Channel.STDIN:
            self._replies[msg_id] = None
        try:
            self._stream.send(self._ack() + self._message(channel, msg_id, msg_type, content), deadline)
        except BaseException:
            self._replies.pop(msg_id, None)
            raise
        return msg_id

    def _message(self, channel: Channel, msg_id: str, msg_type: str, content: dict[str, Any]) -> bytes:
        header = {
            "msg_id": msg_id,
            "msg_type": msg_type,
            "session": self.client_id,
            "username": "kale",
            "date": datetime.now(UTC).isoformat(),
            "version": "5.4",
        }
        return message_frame(channel, 0, [json.dumps(header).encode(), b"{}", b"{}", json.dumps(content).encode()])

    def _acknowledge(self) -> None:
        if ack := self._ack():
            self._stream.send(ack, time.monotonic() + 1.0)

    def _ack(self) -> bytes:
        now = (self.last_seq, self._replies_seen)
        if now == self._acknowledged:
            return b""
        self._acknowledged = now
        return ack_frame(*now)

    def _wait(
        self,
        msg_id: str,
        on_message: OnMessage | None,
        on_input: OnInput | None,
        deadline: float,
        timeout: float | None,
    ) -> dict[str, Any]:
        try:
            return self._finished(msg_id, on_message, on_input, deadline)
        except TimeoutError:
            raise TimeoutError(
                f"The cell was not done within {timeout:g} s; it goes on in the step's kernel."
            ) from None
        except KeyboardInterrupt:
            with contextlib.suppress(TimeoutError, AgentGone):
                self.interrupt()
                self._finished(msg_id, on_message, None, time.monotonic() + AFTER_INTERRUPT_S)
            raise

    def _finished(
        self, msg_id: str, on_message: OnMessage | None, on_input: OnInput | None, deadline: float
    ) -> dict[str, Any]:
        lost, probe = self.lost, ""
        while (reply := self._replies[msg_id]) is None or not {msg_id, probe} & self._idle:
            last = self._replies[probe] if probe else reply
            is_aborted = last is not None and last.get("status") == "aborted"
            if reply is not None and (self.lost > lost or is_aborted):  # its idle is gone, or never comes; that of a request behind it says so
                self._forget(probe)
                lost, probe = self.lost, self._send(Channel.SHELL, "kernel_info_request", {}, deadline)
            output = self._step(deadline, msg_id, on_input)
            shown = output is not None and output.parent_id == msg_id and output.msg_type not in _UNSHOWN
            if shown and output is not None and on_message is not None:
                on_message(output.msg_type, output.content, output.metadata, output.buffers)
        self._forget(msg_id)
        self._forget(probe)
        return reply

    def _forget(self, msg_id: str) -> None:
        self._replies.pop(msg_id, None)
        self._idle.discard(msg_id)

    def _step(self, deadline: float, msg_id: str = "", on_input: OnInput | None = None) -> Output | None:
        """Take one frame; return it if it is an iopub message."""
        return self._sort(*self._stream.read(deadline), deadline, msg_id, on_input)

    def _sort(
        self, kind: Kind, payload: bytes, deadline: float, msg_id: str = "", on_input: OnInput | None = None
    ) -> Output | None:
        message = self._handle(kind, payload)
        if message is None:
            return None
        if message.channel is Channel.IOPUB:
            return self._output(message)
        parent_id = json.loads(message.parts[1]).get("msg_id")
        if message.channel is not Channel.STDIN:
            if parent_id in self._replies:
                self._replies[parent_id] = json.loads(message.parts[3])
        elif parent_id == msg_id:
            self._answer(json.loads(message.parts[3]), on_input, deadline)
        return None

    def _handle(self, kind: Kind, payload: bytes) -> Message | None:
        """Do what every frame asks for, whoever waits for what."""
        if kind is Kind.MSG:
            message = parse_message(payload)
            if message.channel is Channel.IOPUB:
                self.last_seq = message.seq
            else:
                self._replies_seen = message.seq
            return message
        if kind is Kind.GAP:
            gap = parse_json(payload)
            self.lost += gap["last"] - gap["first"] + 1
            self.last_seq = gap["last"]
        elif kind is Kind.PING:
            self._stream.send(frame(Kind.PONG, payload), time.monotonic() + 1.0)
        elif kind is Kind.CONTROL and not (answer := parse_json(payload)).get("ok"):
            self.note = sentence(answer.get("message"))
        return None

    def _output(self, message: Message) -> Output:
        header, parent, metadata, content = (json.loads(part) for part in message.parts[:4])
        output = Output(message.seq, header["msg_type"], parent.get("msg_id", ""), content, metadata, message.parts[4:])
        is_idle = output.msg_type == "status" and content.get("execution_state") == "idle"
        if is_idle and output.parent_id in self._replies:
            self._idle.add(output.parent_id)
        return output

    def _answer(self, question: dict[str, Any], on_input: OnInput | None, deadline: float) -> None:
        value = None
        if on_input is not None:
            value = on_input(str(question.get("prompt", "")), bool(question.get("password")))
        self._send(Channel.STDIN, "input_reply", {"status": "ok", "value": _EOF if value is None else value}, deadline)


def _deadline(timeout: float | None) -> float:
    return time.monotonic() + timeout if timeout is not None else math.inf
