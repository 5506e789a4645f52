"""A visit: one subshell with a shell, names and figures of its own; and the host that knows them all.

The host belongs to the kernel and has three callers: the kernel mixin for each message of a visit (in
the visit's thread), the control channel for open, close, interrupt and where (in the control thread),
and the visitor's magics.
"""

from __future__ import annotations

import asyncio
import builtins
import sys
import threading
import time
import traceback
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from .pause import Pause
from .visit_interrupt import InterruptWindow, awaiting_frames, lock_holder, user_frames
from .visit_namespace import Layer, StepBuiltins, WriteThrough, share_main_module
from .visit_shell import make_shell, release_shell
from .visit_stdin import InputDesk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine
    from types import FrameType

_POLL_S = 0.02
_CLOSE_S = 2.0  # for the visitor's code to end after it was interrupted
_SYNC_CODE_S = 0.3  # for a cancelled coroutine to reach its await
_IMPORT_S = 0.5  # how long an interrupt waits for an import or a log record to be done
_SWITCH_S = 0.0002
_LEASE_S = 30.0
_SUBSHELL = "subshell-"  # how ipykernel.subshell names the threads


class Visit:
    """One visitor's seat; made by the host in the visit's own thread.

    Attributes
    ----------
    shell : VisitShell or None
        None before it is built and after the visit is closed.
    window : InterruptWindow
        Open while the visitor's own code runs.
    task : asyncio.Task or None
        The visitor's running cell when it awaits.
    message_count : int
        Messages being handled: 1 while the visitor's cell or completion runs.
    """

    def __init__(self, host: VisitHost, subshell_id: str, *, writes: bool) -> None:
        self.host = host
        self.subshell_id = subshell_id
        self.writes = writes
        self.window = InterruptWindow()
        self.figures: OrderedDict[Any, Any] = OrderedDict()
        self.allows_stdin = False
        self.task: asyncio.Task[Any] | None = None
        self.message_count = 0
        self.is_closing = False
        self.is_closed = False
        self.thread = threading.current_thread()
        self.shell: Any = None
        names = host.step_shell.user_ns
        share_main_module()
        self.shell = make_shell(self, WriteThrough(names) if writes else Layer(names), host.step_shell)

    @property
    def is_busy(self) -> bool:
        """Whether a message of the visit is being handled."""
        return self.message_count > 0

    def fill_namespace(self, shell: Any) -> None:
        """Put in what a visitor has from the start."""

        def vprint(*values: Any, file: Any = None, **options: Any) -> None:
            builtins.print(*values, file=self.host.stream("stdout") if file is None else file, **options)

        vprint.__name__ = vprint.__qualname__ = "print"
        vprint.__doc__ = builtins.print.__doc__
        # sys.stdout may be the step's file just now (contextlib.redirect_stdout)
        names: dict[str, Any] = {"print": vprint, "__kale_show__": shell.displayhook}
        shell.user_ns_hidden.update(names)
        if not self.writes:
            # looked up by C code in the dict itself, where __missing__ does not count
            names |= {"__name__": "__main__", "__doc__": None, "__builtin__": builtins}
            names["__builtins__"] = StepBuiltins(shell.user_ns.base)
        for name, value in names.items():
            dict.__setitem__(shell.user_ns, name, value)

    async def run(self, cell: Awaitable[dict[str, Any]]) -> dict[str, Any]:
        """Await ipykernel's ``do_execute`` of a visitor's cell."""
        try:
            return await cell
        except asyncio.CancelledError:  # interrupted before its first line
            self.shell.showtraceback((KeyboardInterrupt, KeyboardInterrupt(), None))
            error = {"status": "error", "ename": "KeyboardInterrupt", "evalue": "", "traceback": []}
            return error | {"execution_count": self.shell.execution_count, "user_expressions": {}, "payload": []}
        finally:
            self.window.close(0)  # again: an interrupt may have come between the user's code and its close
            for name in ("stdout", "stderr"):
                stream = self.host.stream(name)
                if stream is not getattr(sys, name):  # ipykernel flushes those in sys
                    stream.flush()

    def dispose(self) -> None:
        """Let go of everything; the thread has ended or is about to."""
        self.is_closed = True
        self.figures.clear()
        shell, self.shell = self.shell, None
        if shell is not None:
            release_shell(shell)


class VisitHost:
    """All visits of one kernel, and what the step's side of the kernel needs to be told apart.

    Parameters
    ----------
    kernel : ipykernel.ipkernel.IPythonKernel
        Its session, streams and sockets may be bound later than this object is made.
    """

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.step_shell: Any = kernel.shell
        self.step_allows_stdin = bool(kernel._allow_stdin)
        self.visits: dict[str, Visit] = {}
        self.desk = InputDesk()
        self.pause = Pause(self)
        self.step_cells = 0
        self.step_task: asyncio.Task[Any] | None = None
        self._writes: dict[str, bool] = {}
        self._open: set[str] = set()
        self._switch_s = (0.0, 0.0)  # the step's, and ours as Python has rounded it
        self._tasks: set[asyncio.Task[None]] = set()

    # In the visit's thread

    def visit_for(self, parent: dict[str, Any]) -> Visit | None:
        """Return the visit that a shell message belongs to, made now when it is its first; None for the step."""
        subshell_id = (parent.get("header") or {}).get("subshell_id")
        if not subshell_id:
            # ipykernel sends a widget's message to the thread that last used the widget
            name = threading.current_thread().name
            if not name.startswith(_SUBSHELL):
                return None
            subshell_id = name.removeprefix(_SUBSHELL)
        return self.visit(subshell_id)

    def visit(self, subshell_id: str) -> Visit:
        """Return the visit of the calling subshell's thread, made now when it is new."""
        visit = self.visits.get(subshell_id)
        if visit is None:
            visit = self.visits[subshell_id] = Visit(self, subshell_id, writes=self._writes.pop(subshell_id, False))
        return visit

    def bind_parent(self, visit: Visit, ident: Any, parent: dict[str, Any]) -> None:
        """Make ``parent`` the one that this context's output belongs to; what other threads see stays the step's."""
        from jupyter_client.session import extract_header

        kernel, step = self.kernel, self.step_shell
        kernel._shell_parent_ident.set(ident)
        kernel._shell_parent.set(parent)
        step._parent_header.set(parent)
        visit.shell._parent_header.set(parent)
        header = extract_header(parent)
        streams = {sys.stdout, sys.stderr, kernel._stdout, kernel._stderr}
        for publisher in (step.displayhook, visit.shell.displayhook, step.display_pub, *streams):
            variable = getattr(publisher, "_parent_header", None)
            if variable is not None:
                variable.set(header)

    def stream(self, name: str) -> Any:
        """Return the kernel's own stdout or stderr, also while the step has redirected the one in ``sys``."""
        return getattr(self.kernel, f"_{name}", None) or getattr(sys, name)

    # In the control thread

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what a ``kale_visit_request`` asks for; raises ValueError when it makes no sense."""
        op = request.get("op")
        if op == "open":
            return {"subshell_id": self.open(writes=bool(request.get("write")))}
        if op == "where":
            return {"where": self.where(), "held": self.pause.is_held}
        if op == "pause":
            state = await self.pause.pause(float(request.get("lease_s", _LEASE_S)))
            return {"state": state, "where": self.where()}
        if op == "resume":
            self.pause.resume()
            return {}
        if op not in {"close", "interrupt"}:
            raise ValueError(f"unknown op {op!r}: open, close, interrupt, where, pause or resume")
        subshell_id = request.get("subshell_id")
        if not (subshell_id and isinstance(subshell_id, str)):
            raise ValueError(f"op {op!r} needs a subshell_id")
        return {"how": await (self.close(subshell_id) if op == "close" else self.interrupt(subshell_id))}

    def open(self, *, writes: bool) -> str:
        """Start a subshell; its shell is built at once, in its own thread."""
        self._hasten()
        subshell_id: str = self._ask_manager({"type": "create"})["subshell_id"]
        self._open.add(subshell_id)
        self._writes[subshell_id] = writes
        thread = self._thread(subshell_id)
        if thread is not None:
            thread.io_loop.add_callback(self.visit, subshell_id)
        return subshell_id

    def _hasten(self) -> None:
        """Let a computing step give way at once while there are visits.

        A cell passes between threads a dozen times, and at each a Python loop holds the interpreter for
        the switch interval: with the usual 5 ms that is 80 ms for ``1+1``, with this 10 ms.
        """
        if not self._open:
            before = sys.getswitchinterval()
            sys.setswitchinterval(min(before, _SWITCH_S))
            self._switch_s = before, sys.getswitchinterval()

    def _slow_down(self, subshell_id: str) -> None:
        """Undo it after the last visit, unless the step has set an interval of its own since."""
        if subshell_id in self._open:
            self._open.discard(subshell_id)
            before, ours = self._switch_s
            if not self._open and sys.getswitchinterval() == ours:
                sys.setswitchinterval(before)

    async def interrupt(self, subshell_id: str) -> str:
        """End the visitor's running cell, not the step's: raised, cancel, idle, unknown or stuck."""
        visit = self.visits.get(subshell_id)
        if visit is None:
            return "unknown"
        task = visit.task
        if task is not None and not task.done():
            task.get_loop().call_soon_threadsafe(task.cancel)
            self.later(self._force(visit, task))
            return "cancel"
        return await self._raise_in(visit)

    async def _raise_in(self, visit: Visit) -> str:
        """Send the interrupt once the visitor's code is where it harms no one: not amid an import or a log record."""
        deadline = time.monotonic() + _IMPORT_S
        while visit.is_busy and time.monotonic() < deadline:
            frames = visit.window.frames if visit.window.is_open else []
            if visit.window.is_shielded or (frames and lock_holder(frames) is None):
                break
            await asyncio.sleep(_POLL_S / 4)
        return visit.window.interrupt()

    async def _force(self, visit: Visit, task: asyncio.Task[Any]) -> None:
        """Interrupt an async cell that is in synchronous code and so does not see its cancellation."""
        await asyncio.sleep(_SYNC_CODE_S)
        while visit.task is task and not task.done() and not visit.window.frames:  # noqa: ASYNC110  (another loop's)
            await asyncio.sleep(_POLL_S)
        if visit.task is task and not task.done():
            await self._raise_in(visit)

    async def close(self, subshell_id: str) -> str:
        """End a visit: ``deleted``, or ``abandoned`` when its code is in a long C call and is left to end by itself.

        Raises
        ------
        LookupError
            There is no such subshell.
        """
        visit = self.visits.get(subshell_id)
        if visit is not None:
            visit.is_closing = True
            deadline = time.monotonic() + _CLOSE_S
            while visit.is_busy and time.monotonic() < deadline:
                await self.interrupt(subshell_id)
                await asyncio.sleep(_POLL_S)
            if visit.is_busy:
                self.later(self._see_off(visit))
                return "abandoned"
        self._delete(subshell_id)
        return "deleted"

    async def _see_off(self, visit: Visit) -> None:
        """Go on ending an abandoned visit until its thread is free."""
        pause_s = 0.2
        while visit.is_busy and visit.thread.is_alive():
            await asyncio.sleep(pause_s)
            pause_s = min(2.0, pause_s * 1.2)
            if lock_holder(visit.window.frames) is None and visit.is_busy:
                visit.window.kill()
        self._delete(visit.subshell_id)

    def _delete(self, subshell_id: str) -> None:
        visit = self.visits.pop(subshell_id, None)
        self._writes.pop(subshell_id, None)
        self._slow_down(subshell_id)
        try:
            reply = self._ask_manager({"type": "delete", "subshell_id": subshell_id})
        finally:
            self._give_back_widgets(subshell_id)
            if visit is not None:
                visit.dispose()
        if reply["status"] != "ok":
            raise LookupError(reply["evalue"])

    def _give_back_widgets(self, subshell_id: str) -> None:
        """Send the messages of widgets that the visitor used to the step again (ipykernel.comm.comm keeps the last)."""
        for comm in list(self.kernel.comm_manager.comms.values()):
            if getattr(comm, "_reply_subshell_id", None) == subshell_id:
                comm._reply_subshell_id = None

    async def end_all(self, timeout_s: float = 1.0) -> None:
        """Before the kernel ends: interrupt what visitors run, and let zmq's context end without what can't be."""
        self.pause.resume()
        deadline = time.monotonic() + timeout_s
        for visit in self.visits.values():
            visit.is_closing = True
        while (busy := [visit for visit in self.visits.values() if visit.is_busy]) and time.monotonic() < deadline:
            for visit in busy:
                await self.interrupt(visit.subshell_id)
            await asyncio.sleep(_POLL_S)
        manager = self.kernel.shell_channel_thread.manager
        for visit in busy:
            with manager._lock_cache:
                thread = manager._cache.pop(visit.subshell_id, None)
            if thread is not None:  # never joined: it is a daemon thread in a C call
                thread.shell_channel_to_subshell.close()
                thread.subshell_to_shell_channel.close()

    def _thread(self, subshell_id: str) -> Any:
        manager = self.kernel.shell_channel_thread.manager
        with manager._lock_cache:
            return manager._cache.get(subshell_id)

    def _ask_manager(self, request: dict[str, str]) -> dict[str, Any]:
        """Have ipykernel's subshell manager create or delete; quick, as it only ever joins an idle thread."""
        socket = self.kernel.shell_channel_thread.manager.control_to_shell_channel.from_socket
        socket.send_json(request)
        reply: dict[str, Any] = socket.recv_json()
        return reply

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Start work of the control thread that may take a while."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # In any thread

    @property
    def is_step_running(self) -> bool:
        """Whether the main shell runs a cell."""
        return self.step_cells > 0

    def frames(self) -> list[FrameType]:
        """Return the frames of the step's own code, innermost first; none when it runs no code."""
        frame = self.pause.frame or sys._current_frames().get(threading.main_thread().ident or 0)
        return user_frames(frame) or awaiting_frames(self.step_task) or self._frames_of_failure()

    def _frames_of_failure(self) -> list[FrameType]:
        """Return the frames in which the step's code has failed, innermost first, while nothing runs any more."""
        outcome = getattr(self.step_shell, "last_execution_result", None)
        error = None if self.is_step_running or outcome is None else outcome.error_in_exec
        frames: list[FrameType] = []
        traceback_ = getattr(error, "__traceback__", None)
        while traceback_ is not None:
            frames.insert(0, traceback_.tb_frame)
            traceback_ = traceback_.tb_next
        return frames[:-1] if len(frames) > 1 else frames  # the outermost is the shell's own

    def where(self) -> list[str]:
        """Return the step's traceback lines, innermost last."""
        stack = ((frame, frame.f_lineno) for frame in reversed(self.frames()))
        lines = traceback.format_list(traceback.StackSummary.extract(stack))
        return lines or ["(the step is not running code)\n"]
