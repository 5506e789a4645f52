"""A relay: makes any Jupyter front end a visitor of a running step.

A process at the notebook's end. It binds the five channels of an ordinary connection file, as a kernel would, and joins
them to the step's agent. The front end may be closed, restarted or shut down: that ends the visit, never the step.
The stream to the agent may break: the relay comes back by itself, and the front end sees each line once, the reply and idle.
What it answers itself is in ``relay_answers``, what it remembers in ``relay_ledger``. Called by :mod:`kale_magic.kernels`,
which knows where steps are.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from kale_proxy import relay_answers as answers
from kale_proxy.agent_link import AGENT_SESSION, request_header
from kale_proxy.comms import OwnComms
from kale_proxy.relay_desk import Desk
from kale_proxy.relay_ledger import Ledger, Parents, Request, execute_reply
from kale_proxy.relay_line import Line
from kale_proxy.relay_role import Standing, visitor
from kale_proxy.visitor_stream import is_acknowledged_at_once
from kale_proxy.wire import (
    MAX_FRAME,
    Channel,
    Kind,
    Message,
    WireError,
    ack_frame,
    json_frame,
    message_frame,
    message_size,
    parse_json,
    parse_message,
)

if TYPE_CHECKING:
    from kale_proxy.relay_front import FrontEnd
    from kale_proxy.relay_line import Seek
    from kale_proxy.relay_link import AgentLink
    from kale_proxy.relay_role import Role

_INFO_S = 0.6  # a front end that waits for a kernel asks again each second
_QUIET_S = 1.5
_TICK_S = 0.25
_ACK_S = 0.05
_PASSED_ON_S = 2.0  # the longest wait for the agent's word that it has been asked for a restart
_LOG = logging.getLogger("kale_proxy.relay")


class Relay:
    """Joins one front end to one step; see the module.

    Parameters
    ----------
    front : FrontEnd
        The front end's side; whoever owns it calls :meth:`take` and :meth:`go_on`, and closes it.
    name : str
        The step, for people.
    seek : callable
        Finds the step; raises nothing that a person should not read. Asked again whenever the kernel is out of reach.
    mode : str
        ``visit``, ``write`` or ``main``.
    role : Role, optional
        What the front end is to the kernel; a visitor by default.
    """

    def __init__(self, front: FrontEnd, name: str, seek: Seek, mode: str, role: Role | None = None) -> None:
        self._name = name
        self._role = role or visitor(name)
        self._mode = mode
        self._client_id = os.urandom(16).hex()
        self._ledger = Ledger(self._client_id)
        self._parents = Parents()
        self._comms = OwnComms()
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._is_waiting = asyncio.Event()  # set after a link was lost
        self._link: AgentLink | None = None
        self._is_held = False
        self._agent_pid = 0
        self._seen: tuple[int | None, int] = (None, 0)  # iopub, replies
        self._acknowledged: tuple[int | None, int] = (None, 0)
        self._is_ack_due = False
        self._probe = ""
        self._probe_signs: set[str] = set()
        self._is_queueing = False
        self._queue_id = ""
        self._has_gap = False
        self._info_id = ""
        self._over = ""
        self._note = self._news = ""
        self._front = front
        self._desk = Desk(front, self._ledger, self._role.title)
        self._line = Line(seek, self, self._say)

    # -- life

    async def run(self) -> None:
        """Serve until :meth:`stop`."""
        work = [asyncio.ensure_future(self._keep_joined()), asyncio.ensure_future(self._tick())]
        ending = asyncio.ensure_future(self._stopping.wait())
        everything: set[asyncio.Future[Any]] = {ending, *work}
        try:
            await asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED)
            for task in work:
                if task.done() and (exc := task.exception()) is not None:
                    raise exc
        finally:
            if self._link is not None:
                self._link.say_bye()  # before the tasks are cancelled, and with them what this looks at
            for future in everything:
                future.cancel()
            await asyncio.gather(*everything, return_exceptions=True)
            await asyncio.sleep(0)  # the goodbye

    async def _keep_joined(self) -> None:
        await self._line.run()
        await self._stopping.wait()  # a fresh relay asks anew

    def stop(self) -> None:
        """Detach and end."""
        self._stopping.set()

    def standing(self) -> Standing:
        """Return how the link to the step is, for a person."""
        language = str(((self._desk.info or {}).get("language_info") or {}).get("name", ""))
        mode = str(self._link.welcome["mode"]) if self._link is not None else self._mode
        line = self._line
        return Standing(self._link is not None, mode, line.way, line.away_since, line.doing, self._over, language)

    def interrupt(self) -> None:
        """End the front end's own cell; what has not gone out yet is taken back."""
        for request in self._ledger.unsent():
            if request.is_execute:
                self._desk.fail(request, "KeyboardInterrupt", f"{self._name} has not seen this cell.")
        if self._link is not None:
            header = json.dumps(request_header("interrupt_request", self._client_id)).encode()
            self._link.send(message_frame(Channel.CONTROL, 0, [header, b"{}", b"{}", b"{}"]))

    # -- the line

    def hello(self) -> dict[str, Any]:
        """See :class:`kale_proxy.relay_line.Owner`, for this and the next four."""
        since, replies = self._seen
        place = {"client": self._client_id, "since": since, "replies": replies}
        return place | self._role.hello | {"visit": {"mode": self._mode}, "comms": list(self._comms)}

    def joined(self, link: AgentLink) -> None:  # noqa: D102
        welcome = link.welcome
        is_same_agent, self._agent_pid = self._agent_pid == welcome["agent_pid"], welcome["agent_pid"]
        self._seen = self._acknowledged = (int(welcome["seq"]), int(welcome["replies"]))
        self._note = " ".join(filter(None, (self._news, str(welcome["note"]))))
        self._news = ""
        self._is_queueing, self._queue_id = welcome["mode"] == "main" != self._mode, ""
        self._link = link
        self._is_waiting.clear()
        link.hold(self._is_held)
        self._came_back(is_same_agent=is_same_agent)

    def parted(self) -> None:  # noqa: D102
        self._link = None
        self._is_waiting.set()

    def over(self, advice: str) -> None:  # noqa: D102
        self._over = advice
        self._is_waiting.clear()
        tell(advice)
        for request in self._ledger:
            self._desk.fail(request, self._role.ended, advice)
        self._desk.inform()

    def forget(self, reason: str) -> None:  # noqa: D102
        self._seen, self._agent_pid, self._desk.info = (None, 0), 0, None
        self._news = f"{self._name}: {reason} This is a new one, and the variables of the one before are gone."
        for request in self._ledger:
            if request.is_sent:
                self._desk.fail(request, self._role.ended, f"{self._name}: {reason}")

    def _came_back(self, *, is_same_agent: bool) -> None:
        """Repeat what may have been lost with the last stream, in a way that runs no cell twice."""
        if self._desk.info is None:
            self._info_id = self._ask(Channel.CONTROL)
        sent = [request for request in self._ledger if request.is_sent]
        self._probe = ""
        for request in self._ledger.unsure():
            if is_same_agent or request.channel is not Channel.SHELL:  # the agent knows what it has passed on
                self._pass_on(request)
        if not is_same_agent and any(request.channel is Channel.SHELL for request in sent):
            self._begin_probe()
        self._send_waiting()

    def _begin_probe(self) -> None:
        self._probe_signs = set()
        self._probe = self._ask(Channel.SHELL)

    def _probed(self, sign: str) -> None:
        """Take note of a probe's reply or idle; with both, all that was sent before it has been heard of."""
        self._probe_signs.add(sign)
        if self._probe_signs != {"reply", "idle"}:
            return
        self._probe = ""
        settled = self._ledger.after_probe()
        for request in settled.unanswered:
            if request.is_execute:
                self._desk.answer(request, execute_reply(request))
            else:
                self._pass_on(request)
        for request in settled.lost:
            if self._has_gap and request.is_execute:  # its beginning may have been among what is gone
                self._desk.fail(request, "OutputLost", "Whether this cell ran is not known: what was printed then is no longer kept.")
            else:
                self._pass_on(request)
        for request in settled.without_idle:
            self._desk.state(request, "idle")
        self._has_gap = False
        self._send_waiting()

    # -- from the front end

    def take(self, channel: Channel, identities: list[bytes], parts: list[bytes]) -> None:
        """Take a message of the front end."""
        self._line.nudge()
        try:
            header, content = parse_json(parts[0]), parse_json(parts[3])
            parse_json(parts[1])
            parse_json(parts[2])
        except WireError:
            _LOG.warning("a message that is none was dropped")
            return
        kind = header.get("msg_type")
        if not all(isinstance(header.get(key), str) for key in ("msg_type", "msg_id", "session")):
            return
        if channel is Channel.STDIN:
            if self._link is not None:
                self._link.send(message_frame(channel, 0, parts))
            return
        if kind == "interrupt_request":  # not entered: a manager counts its ids by itself, and they are its client's too
            self._on_interrupt(Request(channel, identities, header, parts, self._loop.time()))
            return
        if self._ledger.find(header["msg_id"]) is not None and kind != "shutdown_request":
            return
        request = self._ledger.take(channel, identities, header, parts, time.monotonic())
        if kind == "kernel_info_request":
            self._desk.asking.append(request)
            self._loop.call_later(0 if self._desk.info or self._over else _INFO_S, self._desk.inform)
        elif kind == "shutdown_request":
            self._detach(request, is_restart=bool(content.get("restart")))
        elif request.has_reply and (refused := answers.refusal(channel, request.kind, self._mode)) is not None:
            self._desk.settle(request, refused)
        elif self._over:
            self._desk.fail(request, self._role.ended, self._over, content)
        elif message_size(request.parts) > MAX_FRAME:
            self._desk.fail(request, "ValueError", f"A message of {message_size(parts) >> 20} MiB can't be sent to a step.")
        else:
            self._send_waiting()

    def _send_waiting(self, *, has_turn: bool = False) -> None:
        """Send what has not gone out; where a kernel does one thing at a time, not a cell before its turn.

        A cell that waits in the kernel could not be taken back. So a question is queued there in its place.
        """
        if self._link is None:
            return
        for request in self._ledger.unsent():
            if request.kind == "kernel_info_request" or (self._probe and request.channel is Channel.SHELL):
                continue
            if not self._is_queueing or request.channel is not Channel.SHELL or has_turn:
                self._pass_on(request)
                has_turn = has_turn and not request.is_execute
                continue
            self._explain(request)
            if not self._queue_id:
                self._queue_id = self._ask(Channel.SHELL)

    def _pass_on(self, request: Request) -> None:
        if self._link is not None:
            request.is_sent = True
            self._comms.follow(request.parts)
            self._link.send(message_frame(request.channel, 0, request.parts))
            self._explain(request)

    def _explain(self, request: Request) -> None:
        """Say under the first cell what is less than usual."""
        if self._note and request.is_execute:
            self._desk.show(request, self._note)
            self._note = ""

    def _ask(self, channel: Channel) -> str:
        """Send a request of the relay's own: one that any kernel answers and that changes nothing."""
        assert self._link is not None
        header = request_header("kernel_info_request", self._client_id)
        self._link.send(message_frame(channel, 0, [json.dumps(header).encode(), b"{}", b"{}", b"{}"]))
        return str(header["msg_id"])

    def _on_interrupt(self, request: Request) -> None:
        self.interrupt()
        self._desk.reply(request, {"status": "ok"})

    def _detach(self, request: Request, *, is_restart: bool) -> None:
        content = {"status": "ok", "restart": is_restart}
        self._desk.settle(request, content)
        self._front.publish("shutdown_reply", self._front.made("shutdown_reply", request.header, content))
        if self._role.finish(is_restart=is_restart) and self._link is not None:
            self._link.send(json_frame(Kind.CONTROL, {"id": "restart", "op": "restart"}))
            self._role.is_passed_on = True
            self._loop.call_later(_PASSED_ON_S, self.stop)
        else:
            self.stop()

    # -- from the agent

    def on_frame(self, kind: Kind, payload: bytes) -> None:  # noqa: D102
        if kind is Kind.MSG:
            message = parse_message(payload)
            if message.channel is Channel.IOPUB:
                self._on_iopub(message)
            else:
                self._on_reply(message)
            self._acknowledge()
        elif kind is Kind.CONTROL:  # the restart is under way; to hang up before could lose it with what the agent was about to send
            self.stop()
        elif kind is Kind.GAP:
            gap = parse_json(payload)
            self._seen = (gap["last"], self._seen[1])
            self._on_gap(gap["last"] - gap["first"] + 1)

    def _on_iopub(self, message: Message) -> None:
        before, replies = self._seen
        if before is not None and message.seq <= before:
            return
        self._seen = (message.seq, replies)
        parts = message.parts
        kind = str(json.loads(parts[0]).get("msg_type"))
        parent = self._parents.clean(parts[1])
        if parent.session in {self._client_id, AGENT_SESSION} and kind != "debug_event":  # the relay's own, the agent's own
            if parent.msg_id == self._probe and kind == "status" and b"idle" in parts[3]:
                self._probed("idle")
            return
        self._ledger.printed(parent.msg_id, kind, parts[3])
        self._comms.follow(parts)
        if kind == "execute_input":
            self._desk.count = int(json.loads(parts[3]).get("execution_count") or self._desk.count)
        self._front.publish(kind, [parts[0], parent.header, *parts[2:]])
        if self._front.is_full and not self._is_held:
            self._hold(is_held=True)

    def _on_reply(self, message: Message) -> None:
        self._seen = (self._seen[0], message.seq)
        parts = message.parts
        parent = self._parents.clean(parts[1])
        if parent.msg_id == self._info_id:
            self._desk.info = answers.kernel_info(json.loads(parts[3]), self._role.title, self._mode)
            self._desk.inform()
        elif parent.msg_id == self._queue_id and _is_aborted(parts):  # so would be the cell behind it
            self._queue_id = self._ask(Channel.SHELL)
        elif parent.msg_id == self._queue_id:
            self._queue_id = ""
            self._send_waiting(has_turn=True)
        elif parent.msg_id == self._probe and _is_aborted(parts):
            self._begin_probe()
        elif parent.msg_id == self._probe:
            self._probed("reply")
        elif message.channel is Channel.STDIN:
            if (request := self._ledger.find(parent.msg_id)) is not None:
                self._front.reply(message.channel, request.identities, [parts[0], parent.header, *parts[2:]])
        elif (request := self._ledger.find(parent.msg_id)) is not None and not request.is_answered:
            for earlier in self._ledger.overtaken(request) if self._probe else ():
                self._desk.answer(earlier, execute_reply(earlier))
            self._ledger.answered(parent.msg_id)
            self._front.reply(request.channel, request.identities, [parts[0], parent.header, *parts[2:]])
            if not request.is_done and not self._probe and _is_aborted(parts):
                self._begin_probe()

    def _on_gap(self, lost: int) -> None:
        """Say that output is gone, and let no cell wait for an idle that may have been in it."""
        self._has_gap = True
        for request in self._ledger:
            if request.is_busy and request.is_execute:
                self._desk.show(request, f"{lost} messages were printed that are no longer kept; the executed notebook has them.")
        if len(self._ledger):
            self._begin_probe()

    def _acknowledge(self) -> None:
        if not self._is_ack_due and self._seen != self._acknowledged:
            self._is_ack_due = True
            is_hurried = is_acknowledged_at_once(self._line.way) and any(request.is_sent for request in self._ledger)
            self._loop.call_later(0 if is_hurried else _ACK_S, self._send_ack)

    def _send_ack(self) -> None:
        self._is_ack_due = False
        seq, replies = self._acknowledged = self._seen
        if self._link is not None and seq is not None:
            self._link.send(ack_frame(seq, replies))

    def _hold(self, *, is_held: bool) -> None:
        self._is_held = is_held
        if self._link is not None:
            self._link.hold(is_held)

    def go_on(self) -> None:
        """Go on reading: the front end has room again."""
        if self._is_held:
            self._hold(is_held=False)

    def _say(self, doing: str) -> None:
        tell(f"{self._name} {doing}")

    async def _tick(self) -> None:
        """Tell a cell that waits what it waits for, and end its waiting when the step does not start."""
        while True:
            if self._link is not None or self._over:  # nothing wakes for nothing: one process may have many relays
                await self._is_waiting.wait()
            await asyncio.sleep(_TICK_S)
            now, line = time.monotonic(), self._line
            cells = [request for request in self._ledger if request.is_execute and not request.is_answered]
            if cells and line.doing and now - max(cells[0].at, line.away_since) > _QUIET_S and cells[0].told != line.doing:
                cells[0].told = line.doing
                self._desk.show(cells[0], f"{self._name} {line.doing}; this cell waits.")
            for request in cells:
                if not line.was_there and now - request.at > self._role.start_s:
                    self._desk.fail(request, "TimeoutError", f"{self._name} {line.doing}, still after {self._role.start_s:g} s.")


def _is_aborted(parts: list[bytes]) -> bool:
    """Tell from a reply whether its request was never begun; kernels of other languages then say no idle either (IRkernel)."""
    return b'"aborted"' in parts[3] and json.loads(parts[3]).get("status") == "aborted"


def tell(sentence: str) -> None:
    """Write to whoever reads the log of the front end."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} kale: {sentence}\n")
        sys.stderr.flush()
