"""What a kernel that may be visited does otherwise than ipykernel's.

A subclass made at run time, mixed over the class of the step's kernel; methods not named here are
ipykernel's. Checked against the code of ipykernel 7.1 and 7.4 (kernelbase.py, ipkernel.py).
"""

from __future__ import annotations

import builtins
import getpass
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from . import visit_debug
from .visit_context import CURRENT, current

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .visit_session import VisitHost

    _Kernel = Any
else:
    _Kernel = object

OF_STEP = b"kale-step"  # the identity of who asks for the step's own cell, which is no client
HANDLERS = ("interrupt_request", "delete_subshell_request", "shutdown_request", "kale_visit_request")


class VisitKernel(_Kernel):  # type: ignore[misc]
    """Mixin: a subshell is a visit."""

    _kale: VisitHost

    # What is one per kernel in ipykernel, and here one per visit

    @property
    def shell(self) -> Any:
        """The shell whose code is running."""
        visit = current()
        return self._kale.step_shell if visit is None else visit.shell

    @shell.setter
    def shell(self, shell: Any) -> None:
        self._kale.step_shell = shell

    @property
    def _allow_stdin(self) -> bool:
        visit = current()
        return self._kale.step_allows_stdin if visit is None else visit.allows_stdin

    @_allow_stdin.setter
    def _allow_stdin(self, is_allowed: bool) -> None:
        visit = current()
        if visit is None:
            self._kale.step_allows_stdin = is_allowed
        else:
            visit.allows_stdin = is_allowed

    def _forward_input(self, allow_stdin: bool = False) -> None:
        self._allow_stdin = allow_stdin
        builtins.input = self.raw_input
        getpass.getpass = self.getpass

    def _restore_input(self) -> None:
        """Leave them: another visitor's cell, or the step's, may still run."""

    def _input_request(self, prompt: str, ident: Any, parent: Any, password: bool = False) -> str:
        step_input = self._kale.step_input
        if step_input is not None and current() is None and OF_STEP in (ident if isinstance(ident, list) else [ident]):
            return step_input(prompt, password)
        return self._kale.desk.ask(self, prompt, ident, parent, is_password=password)

    # Messages

    def set_parent(self, ident: Any, parent: Any, channel: str = "shell") -> None:
        """Take up a message; ipykernel's version would point the step's threads and C code at it too."""
        if channel == "shell":
            visit = self._kale.visit_for(parent)
            CURRENT.set(visit)
            if visit is not None:
                self._kale.bind_parent(visit, ident, parent)
                return
        super().set_parent(ident, parent, channel)

    async def dispatch_shell(self, msg: Any, /, subshell_id: str | None = None, **options: Any) -> None:
        """Handle a message, and count it if it is a visit's."""
        if subshell_id is None:
            await super().dispatch_shell(msg, **options)
            return
        visit = self._kale.visit(subshell_id)
        if visit.is_closing:
            return
        visit.message_count += 1
        try:
            await super().dispatch_shell(msg, subshell_id=subshell_id, **options)
        finally:
            visit.message_count -= 1

    async def do_execute(self, *args: Any, **kwargs: Any) -> Any:
        """Run a cell."""
        cell = super().do_execute(*args, **kwargs)
        visit = current()
        if visit is not None:
            return await visit.run(cell)
        self._kale.step_cells += 1
        try:
            return await cell
        finally:
            self._kale.step_cells -= 1

    @contextmanager
    def _cancel_on_sigint(self, future: Any) -> Iterator[None]:
        """Entered by ipykernel around a cell of the main shell that awaits, with its task."""
        self._kale.step_task = future
        try:
            with super()._cancel_on_sigint(future):
                yield
        finally:
            self._kale.step_task = None

    @contextmanager
    def _dummy_context_manager(self, *args: Any) -> Iterator[None]:
        """Entered by ipykernel around a subshell's cell that awaits, with its task."""
        visit = current()
        if visit is None:
            yield
            return
        visit.task = args[0]
        try:
            yield
        finally:
            visit.task = None

    def do_complete(self, code: str, cursor_pos: int) -> Any:
        """Complete in the step's and the visitor's names."""
        visit = current()
        if visit is None:
            return super().do_complete(code, cursor_pos)
        completer = visit.shell.Completer
        completer.namespace = completer.global_namespace = visit.shell.user_ns.copy()  # jedi wants a plain dict
        try:
            return super().do_complete(code, cursor_pos)
        finally:
            completer.namespace = completer.global_namespace = {}

    # The control channel

    async def interrupt_request(self, stream: Any, ident: Any, parent: Any) -> None:
        """Interrupt the visitor's cell; without a subshell in the header, the step."""
        subshell_id = parent["header"].get("subshell_id")
        if subshell_id is None:
            await super().interrupt_request(stream, ident, parent)
            return
        self._answer_later("interrupt_reply", {"op": "interrupt", "subshell_id": subshell_id}, ident, parent)

    async def delete_subshell_request(self, _stream: Any, ident: Any, parent: Any) -> None:
        """Close a visit; never wait for its code with the channel held."""
        request = {"op": "close", "subshell_id": parent["content"].get("subshell_id")}
        self._answer_later("delete_subshell_reply", request, ident, parent)

    async def shutdown_request(self, stream: Any, ident: Any, parent: Any) -> None:
        """Close a visit, or, without a subshell in the header, end the kernel whatever visitors do."""
        subshell_id = parent["header"].get("subshell_id")
        if subshell_id is not None:  # a visiting notebook that is closed: the visit ends, the step goes on
            self._answer_later("shutdown_reply", {"op": "close", "subshell_id": subshell_id}, ident, parent)
            return
        await self._kale.end_all()
        await super().shutdown_request(stream, ident, parent)

    async def kale_visit_request(self, _stream: Any, ident: Any, parent: Any) -> None:
        """Open, close, interrupt a visit, or tell where the step is; see :mod:`kale_proxy.visits`."""
        self._answer_later("kale_visit_reply", parent["content"], ident, parent)

    async def do_debug_request(self, msg: Any) -> Any:
        """Debug the main shell's cells, but never wait for the one that runs."""
        debugger = getattr(self, "debugger", None)
        refused = visit_debug.refusal(debugger, msg, is_busy=self._kale.is_step_running)
        if refused is not None:
            return refused
        if debugger is None or debugger.debugpy_initialized or msg.get("command") != "initialize":
            return await super().do_debug_request(msg)
        try:
            with visit_debug.own_only():
                return await super().do_debug_request(msg)
        except Exception as exc:  # whatever went wrong, the client is waiting
            return visit_debug.answer(msg, f"The debugger could not begin: {type(exc).__name__}: {exc}")

    def _answer_later(self, kind: str, request: Any, ident: Any, parent: Any) -> None:
        """Answer when it is done, and let the channel go on meanwhile: it takes one message at a time."""

        async def answer() -> None:
            try:
                content = {"status": "ok"} | await self._kale.answer(request)
            except Exception as exc:  # whatever went wrong, the client is waiting
                content = {"status": "error", "ename": type(exc).__name__, "evalue": str(exc) or repr(exc)}
            self.session.send(self.control_stream, kind, content, parent, ident)

        self._kale.later(answer())
