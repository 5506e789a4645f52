"""A client's visit on the kernel: opened, interrupted and closed by control requests.

Three kinds of kernels: those with Kale's visits (``kale_visits`` in ``kernel.json``: a harmless shell per
visit), those with bare subshells (JEP 91), and all others, where a client waits for the main shell.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any

from kale_proxy.wire import WireError

if TYPE_CHECKING:
    from kale_proxy.agent_link import KernelLink

MODES = ("visit", "write", "main")
# A kernel may be in a C call that holds the interpreter for hours: the client decides how long it waits.
OPEN_DEADLINE_S = 7 * 86400.0
ASK_DEADLINE_S = 10.0
INFO_DEADLINE_S = 3.0

DISCONNECT = {"type": "request", "seq": 0, "command": "disconnect", "arguments": {"restart": False, "terminateDebuggee": False}}
NOTE_NO_SUBSHELLS = "This kernel can't answer while it computes: a cell waits until the step's code is done."
NOTE_BARE = "This kernel has plain subshells: names that a visitor assigns are the step's own."


class Visit:
    """How one client's shell requests reach the kernel.

    ``mode`` is what the client has got ("main" where the kernel knows no subshells), ``note`` a sentence
    about what is less than it asked for, ``subshell_id`` what its shell requests are marked with, ``is_debugging``
    whether it has begun the debugger.
    """

    def __init__(
        self, mode: str, subshell_id: str | None = None, note: str = "", *, is_kale: bool = False, is_debugging: bool = False
    ) -> None:
        self.mode = mode
        self.subshell_id = subshell_id
        self.note = note
        self.is_kale = is_kale
        self.is_debugging = is_debugging
        self.is_over = False

    @classmethod
    async def open(cls, link: KernelLink, mode: str, connection: dict[str, Any]) -> Visit:
        """Open a visit of ``mode``.

        Raises
        ------
        WireError
            The kernel refused it; the sentence is the kernel's.
        """
        if mode == "main":
            return cls("main")
        if connection.get("kale_visits"):
            content = {"op": "open", "write": mode == "write"}
            reply = _checked(await link.ask("kale_visit_request", content, deadline_s=OPEN_DEADLINE_S))
            return cls(mode, reply["subshell_id"], str(reply.get("note", "")), is_kale=True)
        knows_subshells = connection.get("kale_subshells")  # said by who has started a kernel that answers nothing while busy
        if not (await _asked_subshells(link) if knows_subshells is None else knows_subshells):
            return cls("main", note=NOTE_NO_SUBSHELLS)
        reply = _checked(await link.ask("create_subshell_request", {}, deadline_s=OPEN_DEADLINE_S))
        return cls(mode, reply["subshell_id"], NOTE_BARE)

    async def interrupt(self, link: KernelLink, *, is_running: bool, signal_pid: int = 0) -> dict[str, Any]:
        """End the cell this client runs, and nothing else; return what the kernel said.

        ``is_running`` matters on the main shell alone, where an interrupt goes to whatever runs; ``signal_pid`` is the
        kernel's process if it knows no interrupt but SIGINT.

        Raises
        ------
        WireError
            It can't be done without touching the step.
        TimeoutError
            The kernel does not answer.
        """
        if self.is_kale:
            content = {"op": "interrupt", "subshell_id": self.subshell_id}
            return _checked(await link.ask("kale_visit_request", content, deadline_s=ASK_DEADLINE_S))
        if self.subshell_id is not None:
            raise WireError("no_interrupt", "this kernel can interrupt its main shell only, and that is the step's")
        if not is_running:
            raise WireError("no_interrupt", "the cell waits behind the step's code, which is not interrupted for it")
        if signal_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(signal_pid, signal.SIGINT)
            return {"how": "signal"}
        return _checked(await link.ask("interrupt_request", {}, deadline_s=ASK_DEADLINE_S))

    async def close(self, link: KernelLink, *, is_busy: bool) -> None:
        """Give the visit back to the kernel; a second call does nothing.

        A debugger that it has begun is ended, so that no cell stands at a breakpoint of someone who has left.
        A bare subshell that is busy is left alone: deleting it would stop the kernel's control channel
        until its cell is done.
        """
        if self.is_over:
            return
        self.is_over = True
        if self.is_debugging:
            await link.ask("debug_request", DISCONNECT, deadline_s=ASK_DEADLINE_S)
        if self.subshell_id is None:
            return
        if self.is_kale:
            content = {"op": "close", "subshell_id": self.subshell_id}
            await link.ask("kale_visit_request", content, deadline_s=ASK_DEADLINE_S)
        elif not is_busy:
            await link.ask("delete_subshell_request", {"subshell_id": self.subshell_id}, deadline_s=ASK_DEADLINE_S)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, by which the next agent knows the visit."""
        return {"mode": self.mode, "subshell_id": self.subshell_id, "note": self.note} | {
            "is_kale": self.is_kale,
            "is_debugging": self.is_debugging,
        }


def has_subshells(info: dict[str, Any]) -> bool:
    """Tell from a ``kernel_info_reply`` whether a cell in a subshell leaves the main shell's alone.

    A kernel that is built on ipykernel for another language says so too, but has one interpreter (bash) for both.
    """
    return "kernel subshells" in info.get("supported_features", ()) and info.get("implementation") == "ipython"


async def _asked_subshells(link: KernelLink) -> bool:
    """Ask on control, where a busy ipykernel answers; a kernel that does not is one without subshells."""
    try:
        info = await link.ask("kernel_info_request", {}, deadline_s=INFO_DEADLINE_S)
    except TimeoutError:
        return False
    return has_subshells(info)


def _checked(reply: dict[str, Any]) -> dict[str, Any]:
    if reply.get("status") != "ok":
        sentence = reply.get("evalue") or "the kernel refused without a reason"
        raise WireError("kernel_refused", str(sentence))
    return reply
