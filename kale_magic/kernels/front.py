"""The kernel ``kale``: one front end, and a switch between its own commands and the kernel of the step that is attached.

The front end's messages come to :meth:`Switch.take`. Cells are handled in order, one at a time, as a kernel does: one that begins with Kale's lines
is run here (:mod:`kale_magic.kernels.front_commands`), any other goes untouched to the relay of the step, and so does all that is no
cell. Ends no step: shutdown and restart only detach. Started by ``python -m kale_magic.kernels front``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from kale_magic.errors import KaleError
from kale_magic.kernels.front_answers import Local, content_with
from kale_magic.kernels.front_cell import read_cell, stray
from kale_magic.kernels.front_commands import NOTHING, Commands, Output, Run
from kale_magic.kernels.front_seat import Seat, Visit
from kale_magic.kernels.front_words import NAMES, is_kernels_own
from kale_magic.kernels.seek import Seeker
from kale_proxy.relay_desk import Desk
from kale_proxy.relay_ledger import Ledger
from kale_proxy.wire import Channel, WireError, parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kale_magic.kernels.front_cell import Cell
    from kale_proxy.relay_front import FrontEnd
    from kale_proxy.relay_ledger import Request

_CLOSE_S = 2.0
_GRACE_S = 2.0
_LOG = logging.getLogger("kale_magic.kernels")


class Incoming(NamedTuple):
    """A message on the shell channel that waits for its turn."""

    identities: list[bytes]
    parts: list[bytes]
    content: dict[str, Any]
    request: Request | None  # None for a comm's message, which nobody answers


class Switch:
    """See the module.

    Parameters
    ----------
    front : FrontEnd
        The front end's side; whoever owns it calls :meth:`take` and :meth:`go_on`, and closes it.

    Attributes
    ----------
    current : Visit or None
        What is attached.
    visits : dict
        All open visits, by their keys.
    """

    def __init__(self, front: FrontEnd) -> None:
        self.current: Visit | None = None
        self.visits: dict[tuple[str, str, str], Visit] = {}
        self.was_interrupted = False
        self.front = front
        self.ledger = Ledger("kale")
        self.desk = Desk(front, self.ledger, "attach to a step")
        self._local = Local(self.desk, self.ledger)
        self._commands = Commands(self)
        self._queue: deque[Incoming] = deque()
        self._passed: dict[str, tuple[Visit, bool]] = {}  # the cells that kernels have, and whether an error in one ends the queue
        self._job: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._tasks: dict[Visit, asyncio.Task[None]] = {}

    # -- life

    async def run(self) -> None:
        """Serve until :meth:`stop`."""
        await self._stopping.wait()
        if self._job is not None:
            self._job.cancel()
        await self._local.close()
        await asyncio.gather(*(self.close(visit) for visit in list(self.visits.values())))

    def stop(self) -> None:
        """Detach and end."""
        self._stopping.set()

    def go_on(self) -> None:
        """Let all relays read on: the front end has room again."""
        for visit in self.visits.values():
            visit.relay.go_on()

    def interrupt(self) -> None:
        """End the cell that runs: the visitor's in its kernel, or a command."""
        self.was_interrupted = True
        self._changed.set()
        visits = {visit for visit, _ in self._passed.values()}
        for visit in visits:
            visit.relay.interrupt()
        if not visits and self._job is not None:
            self._job.cancel()

    # -- visits

    def visit(self, name: str, mode: str, host: str) -> Visit:
        """Return the visit to a step, opened unless there is one; those to steps that are over are given up."""
        for old in list(self.visits.values()):
            if old is not self.current and old.relay.standing().over:
                self.drop(old)
        key = (host, name, mode)
        if key not in self.visits:
            visit = Visit(key, Seat(self.front, self._on_status, self._on_reply), Seeker(name, host))
            self.visits[key] = visit
            task = self._tasks[visit] = asyncio.ensure_future(visit.relay.run())
            task.add_done_callback(lambda task: self._ended(visit, task))
        return self.visits[key]

    async def close(self, visit: Visit) -> None:
        """End a visit, and wait until it has said so."""
        task = self._tasks.get(visit)
        self.drop(visit)
        if task is not None:
            await asyncio.wait([task], timeout=_CLOSE_S)

    def attach(self, visit: Visit, text: str) -> None:
        """Make a visit the one that gets all cells; ``text`` is what the person called its step."""
        self.current = visit
        visit.began_at = time.time()
        self.call(visit, text)

    def call(self, visit: Visit, text: str) -> None:
        """Take note of what a person calls a step."""
        self._local.called[text] = visit

    def drop(self, visit: Visit) -> None:
        """End a visit."""
        self.visits.pop(visit.key, None)
        if self.current is visit:
            self.current = None
        visit.seat.is_closed = True
        visit.relay.stop()
        self._local.left(visit)

    def _ended(self, visit: Visit, task: asyncio.Task[None]) -> None:
        self._tasks.pop(visit, None)
        if not task.cancelled() and (exc := task.exception()) is not None:
            _LOG.error("the relay to %s failed", visit.name, exc_info=exc)
        self.drop(visit)
        for msg_id in [msg_id for msg_id, (owner, _) in self._passed.items() if owner is visit]:
            self.give_up(msg_id, "VisitEnded", f"The visit to {visit.name} has ended.")

    # -- from the front end

    def take(self, channel: Channel, identities: list[bytes], parts: list[bytes]) -> None:
        """Take a message of the front end."""
        try:
            header, content = parse_json(parts[0]), parse_json(parts[3])
        except WireError:
            _LOG.warning("a message that is none was dropped")
            return
        if not all(isinstance(header.get(key), str) for key in ("msg_type", "msg_id", "session")):
            return
        kind = str(header["msg_type"])
        if channel is Channel.STDIN:
            self._answer_question(identities, parts)
        elif kind == "shutdown_request":
            self._shut_down(channel, identities, header, parts, is_restart=bool(content.get("restart")))
        elif kind == "interrupt_request":
            self.interrupt()
            self._local.settle(channel, identities, header, parts, {"status": "ok"})
        elif channel is Channel.SHELL and kind == "execute_request":
            if self.ledger.find(header["msg_id"]) is None:
                request = self.ledger.take(channel, identities, header, parts, time.monotonic())
                self._queue.append(Incoming(identities, parts, content, request))
                self._pump()
        elif channel is Channel.SHELL and kind.startswith("comm_") and not kind.endswith("_request"):
            self._on_comm(Incoming(identities, parts, content, None))
        else:
            self._local.take(channel, identities, header, parts, content, self.current)

    def _shut_down(
        self, channel: Channel, identities: list[bytes], header: dict[str, Any], parts: list[bytes], *, is_restart: bool
    ) -> None:
        answer = {"status": "ok", "restart": is_restart}
        self._local.settle(channel, identities, header, parts, answer)
        self.front.publish("shutdown_reply", self.front.made("shutdown_reply", header, answer))
        self.stop()

    def _answer_question(self, identities: list[bytes], parts: list[bytes]) -> None:
        asking: Iterable[Visit] = {visit for visit, _ in self._passed.values()} or filter(None, [self.current])
        for visit in asking:
            visit.relay.take(Channel.STDIN, identities, parts)

    def _on_comm(self, message: Incoming) -> None:
        """Send a comm's message to the kernel that has it; one that nobody has yet keeps its place among the cells."""
        owner = next((visit for visit in self.visits.values() if visit.seat.comms.has(message.parts)), None)
        if owner is not None:
            owner.seat.comms.follow(message.parts)
            owner.relay.take(Channel.SHELL, message.identities, message.parts)
        else:
            self._queue.append(message)
            self._pump()

    # -- cells, in order

    def _pump(self) -> None:
        while self._queue and self._job is None:
            message = self._queue[0]
            request = message.request
            others = {visit for visit, _ in self._passed.values()} - {self.current}
            if request is None:
                self._queue.popleft()
                if self.current is not None:
                    self.current.seat.comms.follow(message.parts)
                    self.current.relay.take(Channel.SHELL, message.identities, message.parts)
                continue
            cell = read_cell(str(message.content.get("code", "")))
            is_ours = bool(cell.commands) and not (self.current is not None and is_kernels_own(cell.commands[0]))
            if others or (is_ours and self._passed):
                return
            self._queue.popleft()
            if is_ours:
                self._job = asyncio.ensure_future(self._run_cell(message, request, cell))
                self._job.add_done_callback(self._job_done)
            elif self.current is not None:
                self.pass_on(self.current, request, message.parts, message.content)
            else:
                self._without_kernel(message, request, cell)

    def pass_on(self, visit: Visit, request: Request, parts: list[bytes], content: dict[str, Any]) -> None:
        """Give a cell to a kernel; the relay answers it."""
        self._passed[request.header["msg_id"]] = visit, bool(content.get("stop_on_error", True))
        visit.relay.take(Channel.SHELL, request.identities, parts)

    def give_up(self, msg_id: str, name: str, sentence: str) -> None:
        """Answer a cell that a kernel has and that is not waited for any more."""
        visit, is_stopping = self._passed.pop(msg_id)
        request, part = self.ledger.find(msg_id), visit.seat.parts.pop(msg_id, None)
        if part is not None:
            part.answered({"status": "error", "ename": name, "evalue": sentence})
        if request is not None:
            if part is None:
                self.desk.fail(request, name, sentence)
                self._after_error(is_stopping=is_stopping)
            self.ledger.drop(request)
        self._has_changed()

    async def finish(self, cells: dict[str, Visit], timeout: float | None, output: Output) -> set[str]:
        """Wait until cells that were passed on are done, or end them after ``timeout`` seconds; return which were late."""
        ends_at = None if timeout is None else time.monotonic() + timeout
        late: set[str] = set()
        self.was_interrupted = False
        is_ending = False
        while left := {msg_id for msg_id in cells if msg_id in self._passed}:
            output.progress(left)
            now = time.monotonic()
            if self.was_interrupted and not is_ending:
                is_ending, ends_at = True, now + _GRACE_S
            elif ends_at is not None and now >= ends_at and not is_ending:
                is_ending, ends_at, late = True, now + _GRACE_S, left
                for msg_id in left:
                    output.late(msg_id, cells[msg_id].name, timeout or 0)
                    cells[msg_id].relay.interrupt()
            elif is_ending and ends_at is not None and now >= ends_at:
                for msg_id in left:
                    self.drop(cells[msg_id])
                    self.give_up(msg_id, "TimeoutError", f"{cells[msg_id].name} does not end the cell, and is left alone.")
                continue
            self._changed.clear()
            try:
                async with asyncio.timeout(None if ends_at is None else max(0.0, ends_at - now)):
                    await self._changed.wait()
            except TimeoutError:
                continue
        output.progress(set())
        return late

    async def _run_cell(self, message: Incoming, request: Request, cell: Cell) -> None:
        run = Run(request, message.parts, message.content, cell)
        is_silent = bool(message.content.get("silent"))
        self.desk.count += not is_silent
        request.count = self.desk.count
        self.was_interrupted = False
        self.desk.state(request, "busy")
        if not is_silent:
            shown = {"code": message.content.get("code", ""), "execution_count": request.count}
            self.front.publish("execute_input", self.front.made("execute_input", request.header, shown))
        failure = ("", "")
        try:
            if await self._commands.run(run):
                return  # a relay answers
            if not cell.has_rest:
                self.desk.answer(request, {"status": "ok", "execution_count": request.count, "user_expressions": {}, "payload": []})
                self.desk.state(request, "idle")
            elif self.current is None:
                failure = ("NotAttached", NOTHING)
            else:
                self._warn_of_stray(request, cell)
                self.pass_on(self.current, request, content_with(message.parts, {**message.content, "code": cell.rest}), message.content)
        except KaleError as exc:
            failure = (exc.code, str(exc))
        except TimeoutError as exc:
            failure = ("TimeoutError", str(exc))
        except asyncio.CancelledError:
            failure = ("KeyboardInterrupt", "The command was interrupted.")
        except Exception as exc:  # a loop edge: the cell must be answered
            _LOG.exception("a command failed")
            failure = (type(exc).__name__, f"{exc} (a fault of Kale's; the kernel's log has more)")
        if failure[0]:
            self.desk.fail(request, *failure)
            self._after_error(is_stopping=bool(message.content.get("stop_on_error", True)))

    def _warn_of_stray(self, request: Request, cell: Cell) -> None:
        if (found := stray(cell.rest, NAMES)) is not None:
            sentence = f"{found.text} on line {found.number + 1} goes to the step's kernel: Kale's lines stand at the top of a cell."
            self.desk.show(request, sentence)

    def _without_kernel(self, message: Incoming, request: Request, cell: Cell) -> None:
        if not any(line.strip() and not line.lstrip().startswith("#") for line in cell.rest.split("\n")):
            answer = {"status": "ok", "execution_count": self.desk.count, "user_expressions": {}, "payload": []}
            self.desk.settle(request, answer)
            return
        self.desk.fail(request, "NotAttached", NOTHING)
        self._after_error(is_stopping=bool(message.content.get("stop_on_error", True)))

    def _job_done(self, job: asyncio.Task[None]) -> None:
        self._job = None
        if not job.cancelled():
            job.result()
        self._pump()

    def _after_error(self, *, is_stopping: bool) -> None:
        """Answer the cells that were sent before the error could be seen, as kernels do."""
        if not is_stopping:
            return
        waiting, self._queue = self._queue, deque()
        for message in waiting:
            if message.request is None:
                self._queue.append(message)
            else:
                self.desk.settle(message.request, {"status": "aborted"})

    # -- from relays

    def _on_status(self, msg_id: str, content: bytes) -> None:
        self.ledger.printed(msg_id, "status", content)
        self._check(msg_id)

    def _on_reply(self, msg_id: str, content: bytes) -> None:
        self.ledger.answered(msg_id)
        visit, is_stopping = self._passed.get(msg_id, (None, False))
        if visit is not None and msg_id not in visit.seat.parts and json.loads(content).get("status") == "error":
            self._after_error(is_stopping=is_stopping)
        self._check(msg_id)

    def _check(self, msg_id: str) -> None:
        if msg_id in self._passed and self.ledger.find(msg_id) is None:
            visit, _ = self._passed.pop(msg_id)
            visit.seat.parts.pop(msg_id, None)
            self._has_changed()

    def _has_changed(self) -> None:
        self._changed.set()
        asyncio.get_running_loop().call_soon(self._pump)
