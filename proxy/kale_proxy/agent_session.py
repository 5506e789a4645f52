"""What the agent keeps of one client, across its connections: visit, place in the journal, unacknowledged replies.

iopub is not queued here: the journal has it, and a client that reads slowly is read on for when it
has taken what was sent. Only replies, which no file has, are kept in memory until they are acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from kale_proxy import gate
from kale_proxy.agent_link import AGENT_SESSION, DELIMITER, KernelLink, request_header
from kale_proxy.agent_visit import MODES, Visit
from kale_proxy.comms import OwnComms, known
from kale_proxy.journal import JournalReader
from kale_proxy.stayopen import ask_restart
from kale_proxy.wire import (
    CLIENT_ID,
    MAX_FRAME,
    Channel,
    Kind,
    Message,
    WireError,
    json_frame,
    message_frame,
    message_size,
    parse_json,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import zmq

BATCH_BYTES = 256 << 10
MAX_KEPT_REPLIES = 1024
MAX_KEPT_BYTES = 2 * MAX_FRAME
REMEMBERED_REQUESTS = 1024
MAX_SEQ = 1 << 62


@dataclass(frozen=True)
class Step:
    """The step an agent stands beside: its live folder, its connection file's content, the agent's zmq context."""

    live: Path
    connection: dict[str, Any]
    context: zmq.Context[zmq.Socket[bytes]]
    kernel_pid: int


class Hello(NamedTuple):
    """A checked HELLO; fields as in ``proxy/README.rst``."""

    client: str
    mode: str
    since: int | None
    replies: int
    is_all_wanted: bool
    comms: tuple[str, ...] = ()
    is_owner: bool = False

    @classmethod
    def parse(cls, data: dict[str, Any]) -> Hello:
        """Check and take the fields of a HELLO; raises WireError for one that makes no sense."""
        client, since, replies = data.get("client"), data.get("since"), data.get("replies", 0)
        visit, iopub = data.get("visit"), data.get("iopub", "own")
        mode = visit.get("mode") if isinstance(visit, dict) else None
        if not isinstance(client, str) or not CLIENT_ID.fullmatch(client):
            raise WireError("garbage", "HELLO has no usable client id")
        if mode not in MODES or iopub not in ("own", "all"):
            raise WireError("garbage", "HELLO asks for a visit or for messages in a way that is not known")
        if (since is not None and not _is_seq(since)) or not _is_seq(replies):
            raise WireError("garbage", "HELLO counts messages in something else than whole numbers")
        return cls(client, mode, since, replies, iopub == "all", known(data.get("comms")), data.get("owner") is True)


class Outlet(Protocol):
    """What a session needs of its connection."""

    is_blocked: bool

    def write(self, data: bytes) -> None:
        """Send frames; only while not ``is_blocked``, but for small ones."""

    def fail(self, code: str, sentence: str) -> None:
        """Say why in an ERROR frame, and hang up."""


class Session:
    """One client.

    Parameters
    ----------
    step : Step
        Where it visits.
    client_id : str
        From its HELLO; also the ``session`` in the headers of its requests.
    visit : Visit or None
        One that an earlier agent opened for this client.
    on_change : callable
        Called when the visit was opened or closed.
    """

    def __init__(self, step: Step, client_id: str, visit: Visit | None, on_change: Callable[[], None]) -> None:
        self.visit = visit
        self.asked = visit.mode if visit is not None else ""
        self.outlet: Outlet | None = None
        self.cursor = 0
        self._step = step
        self._on_change = on_change
        self._tag = b'"' + client_id.encode() + b'"'
        self._is_all_wanted = False
        self._is_owner = False
        self._comms = OwnComms()
        self._acknowledged: int | None = None
        self._replies = 0
        self._sent = 0
        self._kept: dict[int, bytes] = {}
        self._forwarded: dict[str, None] = {}
        self._unanswered: set[str] = set()
        self._running: str | None = None
        self._again: asyncio.Handle | None = None
        self._is_at_end = False
        self._tasks: set[asyncio.Task[dict[str, Any]]] = set()
        self._opening = asyncio.Lock()
        self._reader = JournalReader(step.live)
        self._link = KernelLink(step.context, step.connection, client_id, self._from_kernel)

    # -- coming and going

    async def open_visit(self, mode: str) -> Visit:
        """Return the visit of ``mode``, opened now unless there is one; raises WireError if the kernel refuses."""
        async with self._opening:
            if self.visit is not None and self.has_visit(mode):
                return self.visit
            await self._close_visit()
            self.visit = await Visit.open(self._link, mode, self._step.connection)
            self.asked = mode
            self._on_change()
            return self.visit

    def has_visit(self, mode: str) -> bool:
        """Tell whether a visit of ``mode`` is open from before."""
        return self.visit is not None and not self.visit.is_over and self.asked == mode

    def place(self, hello: Hello) -> dict[str, int]:
        """Set from where the client gets messages, and return after which numbers they begin."""
        last = self._reader.last()
        since = self._acknowledged if hello.since is None else hello.since
        self.cursor = last if since is None else min(since, last)
        self._is_all_wanted = hello.is_all_wanted
        self._is_owner = hello.is_owner
        self._comms.add(hello.comms)
        self._sent = min(hello.replies, self._replies)
        self.acknowledge(self.cursor, self._sent)
        return {"seq": self.cursor, "replies": self._sent}

    def attach(self, outlet: Outlet) -> None:
        """Send to ``outlet`` from now on; the connection before it, if it still hangs, is told."""
        before, self.outlet = self.outlet, outlet
        if before is not None:
            before.fail("replaced", "another connection of the same client has taken over")
        self.pump()

    async def end(self) -> None:
        """Close the visit and the sockets."""
        async with self._opening:
            with contextlib.suppress(TimeoutError, WireError):
                await self._close_visit()
        self.cut()

    def cut(self) -> None:
        """Close the sockets without a word to the kernel."""
        if self._again is not None:
            self._again.cancel()
        self._link.close()
        self._reader.close()

    async def _close_visit(self) -> None:
        if self.visit is not None:
            await self.visit.close(self._link, is_busy=bool(self._unanswered))
            self._on_change()

    # -- from the client

    def take(self, message: Message) -> None:
        """Pass a client's request to the kernel, marked with its visit and signed.

        A message id that was passed before is not passed again, so a client may repeat after a reconnect.

        Raises
        ------
        WireError
            It is no Jupyter message, or goes nowhere.
        """
        header = parse_json(message.parts[0])
        kind, msg_id = header.get("msg_type"), header.get("msg_id")
        if not isinstance(kind, str) or not isinstance(msg_id, str) or not isinstance(header.get("session"), str):
            raise WireError("garbage", "a message has no type, id or session in its header")
        for part in message.parts[1:3]:
            parse_json(part)
        if not message.parts[3].startswith(b"{"):
            raise WireError("garbage", "the content of a message is no JSON object")
        if msg_id in self._forwarded:
            return
        self._forwarded[msg_id] = None
        if len(self._forwarded) > REMEMBERED_REQUESTS:
            self._forwarded.pop(next(iter(self._forwarded)))
        if not self._is_for_agent(message.channel, kind, header):
            self._forward(message, header)

    def _forward(self, message: Message, header: dict[str, Any]) -> None:
        parts = message.parts
        if message.channel is Channel.SHELL:
            if self.visit is None or self.visit.is_over:
                raise WireError("closed", "this visit is closed")
            if self.visit.subshell_id is not None:
                parts = [json.dumps(header | {"subshell_id": self.visit.subshell_id}).encode(), *parts[1:]]
        elif message.channel is Channel.CONTROL and header["msg_type"] == "debug_request":
            self._note_debugging(parts[3])
        self._link.send(message.channel, parts)
        self._comms.follow(parts)
        if header["msg_type"].endswith("_request"):  # nothing answers a comm_msg or an input_reply
            self._unanswered.add(header["msg_id"])

    def _note_debugging(self, content: bytes) -> None:
        command = parse_json(content).get("command")
        if self.visit is not None and command in {"initialize", "disconnect"}:
            self.visit.is_debugging = command == "initialize"
            self._on_change()

    def _is_for_agent(self, channel: Channel, kind: str, header: dict[str, Any]) -> bool:
        """Answer what an ordinary front end sends to its own kernel and what here would hit the step."""
        if kind not in {"shutdown_request", "interrupt_request"} or channel not in {Channel.SHELL, Channel.CONTROL}:
            return False
        op = "close" if kind == "shutdown_request" else "interrupt"
        task = asyncio.ensure_future(self.control({"op": op}))
        self._tasks.add(task)

        def answer(done: asyncio.Task[dict[str, Any]]) -> None:
            self._tasks.discard(task)
            if done.cancelled():
                return
            result = {"status": "ok", "restart": False} if done.result()["ok"] else _error(done.result()["message"])
            made = request_header(kind.replace("request", "reply"))
            self._keep(channel, [json.dumps(part).encode() for part in (made, header, {}, result)])

        task.add_done_callback(answer)
        return True

    async def control(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do a CONTROL request and return the content of its answer; an unknown one is refused, not an error."""
        try:
            result = await self._control(request)
        except WireError as exc:
            result = {"ok": False, "code": exc.code, "message": str(exc)}
        except TimeoutError:
            sentence = "the kernel does not answer; its code may be in one long call that holds the interpreter"
            result = {"ok": False, "code": "kernel_silent", "message": sentence}
        return {"id": request.get("id")} | result

    async def _control(self, request: dict[str, Any]) -> dict[str, Any]:
        op, mode = request.get("op"), request.get("mode", "visit")
        if op == "open_visit" and mode in MODES:
            return {"ok": True} | (await self.open_visit(mode)).to_dict()
        if op == "interrupt":
            if self.visit is None or self.visit.is_over:
                raise WireError("closed", "this visit is closed")
            pid = self._step.kernel_pid if self._step.connection.get("kale_interrupt") == "signal" else 0
            is_running = self._running is not None or (self._is_owner and bool(self._unanswered))
            return {"ok": True} | await self.visit.interrupt(self._link, is_running=is_running, signal_pid=pid)
        if op == "restart" and self._is_owner:
            ask_restart(self._step.live, self._step.kernel_pid)
            return {"ok": True}
        if op == "gate":
            asked = gate.look(self._step.live)
            return {"ok": asked is not None, "gate": asked}
        if op == "continue":
            return {"ok": gate.decide(self._step.live, dict(request.get("decision") or {}))}
        if op == "close":
            async with self._opening:
                await self._close_visit()
            return {"ok": True}
        if op == "status":
            visit = None if self.visit is None or self.visit.is_over else self.visit.to_dict()
            waiting = sorted(self._unanswered)
            return {
                "ok": True,
                "kernel_pid": self._step.kernel_pid,
                "seq": self.cursor,
                "visit": visit,
                "waiting": waiting,
            }
        raise WireError("unknown_op", f"the agent knows no request {op!r} of this form")

    def acknowledge(self, seq: int, replies: int) -> None:
        """Forget what the client has: iopub up to ``seq``, replies up to number ``replies``."""
        self._acknowledged = seq
        for number in [number for number in self._kept if number <= replies]:
            del self._kept[number]

    # -- to the client

    def pump(self) -> None:
        """Send what the client has not had, as much as it takes now; called again when it takes more."""
        outlet = self.outlet
        if outlet is None or self._again is not None:
            return
        self._is_at_end = False
        for number in [number for number in self._kept if number > self._sent]:
            if outlet.is_blocked:
                return
            self._sent = number
            outlet.write(self._kept[number])
        if outlet.is_blocked:
            return
        batch = self._read()
        if frames := b"".join(self._frames(batch)):
            outlet.write(frames)
        self._is_at_end = sum(sum(map(len, record)) for _, record in batch) < BATCH_BYTES
        if not self._is_at_end:
            self._again = asyncio.get_running_loop().call_soon(self._pump_again)  # others get their turn

    def is_drained(self) -> bool:
        """Tell whether the last :meth:`pump` handed everything there was to the connection."""
        return self._is_at_end and self._again is None

    def _pump_again(self) -> None:
        self._again = None
        self.pump()

    def _read(self) -> list[tuple[int, list[bytes]]]:
        try:
            return self._reader.read(self.cursor, BATCH_BYTES)
        except FileNotFoundError:  # the step is over and its folder has been removed
            return []

    def _frames(self, batch: list[tuple[int, list[bytes]]]) -> list[bytes]:
        frames = []
        for seq, record in batch:
            if seq > self.cursor + 1:
                frames.append(json_frame(Kind.GAP, {"first": self.cursor + 1, "last": seq - 1}))
            self.cursor = seq
            parts = record[record.index(DELIMITER) + 2 :]
            is_own = self._tag in parts[1]
            if is_own and self.visit is not None and self.visit.mode == "main":
                self._note_status(parts)
            if is_own:
                self._comms.follow(parts)
            is_debugger = self.asked == "main" and b'"debug_event"' in parts[0]  # it has no request as its cause
            if is_own or self._is_all_wanted or is_debugger or self._comms.has(parts):
                frames.append(_fitting_frame(Channel.IOPUB, seq, parts))
        return frames

    def _note_status(self, parts: list[bytes]) -> None:
        """Follow whether the main shell runs a cell of this client's: only then may it be interrupted."""
        if b'"status"' not in parts[0] or b'"execute_request"' not in parts[1]:
            return
        is_busy = json.loads(parts[3]).get("execution_state") == "busy"
        self._running = json.loads(parts[1]).get("msg_id") if is_busy else None

    def _from_kernel(self, channel: Channel, parts: list[bytes]) -> None:
        parent = json.loads(parts[1])
        if parent.get("session") == AGENT_SESSION:  # the answer to a question whose deadline is past
            return
        if channel is not Channel.STDIN:
            self._unanswered.discard(parent.get("msg_id", ""))
        self._keep(channel, parts)

    def _keep(self, channel: Channel, parts: Sequence[bytes]) -> None:
        self._replies += 1
        self._kept[self._replies] = _fitting_frame(channel, self._replies, parts)
        if len(self._kept) > MAX_KEPT_REPLIES or sum(map(len, self._kept.values())) > MAX_KEPT_BYTES:
            del self._kept[next(iter(self._kept))]
            if self.outlet is not None:
                self.outlet.fail("unacknowledged", "too many replies wait for this client's acknowledgement")
        self.pump()


def _fitting_frame(channel: Channel, seq: int, parts: Sequence[bytes]) -> bytes:
    """Return the frame of a message, or of one that says in its place that it was too long."""
    size = message_size(parts)
    if size <= MAX_FRAME:
        return message_frame(channel, seq, parts)
    sentence = f"[Kale: a message of {size >> 20} MiB is not sent to visitors; the executed notebook has it]\n"
    header, content = json.loads(parts[0]), _error(sentence)
    if channel is Channel.IOPUB:
        header["msg_type"], content = "stream", {"name": "stderr", "text": sentence}
    return message_frame(channel, seq, [json.dumps(header).encode(), parts[1], b"{}", json.dumps(content).encode()])


def _error(sentence: str) -> dict[str, Any]:
    return {"status": "error", "ename": "KaleError", "evalue": sentence, "traceback": []}


def _is_seq(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_SEQ
