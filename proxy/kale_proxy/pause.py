"""Hold the step's code still between two lines, under a lease, while its kernel stays open to visitors.

The control thread sets the flag of a signal in the main thread (``_thread.interrupt_main``: no real
signal, so no system call of MPI or C code is broken off), and Python runs the handler between two
bytecodes of the step, where it waits. It does not hold the step amid an import, a log record or another
thing that may hold a lock of the process, but tries again (code that does little but log may take seconds
to hold). A C call holds when it returns. The step's own threads and processes, MPI ranks, GPU and wall
time go on.

Never ``sys.settrace`` from the handler: on Python 3.11 that wedged the main thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from _thread import interrupt_main
from typing import TYPE_CHECKING

from .visit_interrupt import lock_holder, user_frames

if TYPE_CHECKING:
    from types import FrameType

    from .visit_session import VisitHost

_ANSWER_WITHIN_S = 0.4
_POLL_S = 0.005
_LOOK_S = 0.2
HELD = "held"  # in the step's live folder while it is held: one line that says where
MAX_LEASE_S = 7 * 86400.0


class Pause:
    """The pause of one step.

    Attributes
    ----------
    frame : FrameType or None
        Where the step is held; None while it runs.
    """

    def __init__(self, host: VisitHost) -> None:
        self.frame: FrameType | None = None
        self._host = host
        self._is_wanted = False
        self._is_tripped = False
        self._until = 0.0
        self._wake = threading.Event()
        self._signal = 0

    def install_handler(self) -> None:
        """Take a signal that nothing sends; only in the main thread, else :meth:`pause` refuses."""
        number = getattr(signal, "SIGRTMAX", None)  # not on macOS
        if number is not None and threading.current_thread() is threading.main_thread():
            self._signal = number - 7
            signal.signal(self._signal, self._handle)

    @property
    def is_held(self) -> bool:
        """Whether the step is held now."""
        return self.frame is not None

    async def pause(self, lease_s: float) -> str:
        """Hold the step for at most ``lease_s``: ``held``, or ``armed`` when it will be at its next line of Python.

        Called in the control thread, again to renew the lease.

        Raises
        ------
        ValueError
            The lease is no time that makes sense.
        RuntimeError
            There is no signal to use, or it could not be installed.
        """
        if not 0 < lease_s <= MAX_LEASE_S:
            raise ValueError(f"a pause lasts between 0 and {MAX_LEASE_S:.0f} s, not {lease_s:g} s")
        if not self._signal:
            raise RuntimeError("this kernel can't be paused: its visits were not installed in the main thread")
        self._until = time.monotonic() + lease_s
        if not self._is_wanted:
            self._wake.clear()
            self._is_wanted = True
            self._host.later(self._keep_asking())
        deadline = time.monotonic() + _ANSWER_WITHIN_S
        while self._is_wanted and not self.is_held and time.monotonic() < deadline:  # noqa: ASYNC110  (the main thread's)
            await asyncio.sleep(_POLL_S)
        return "held" if self.is_held else "armed"

    def resume(self) -> None:
        """Let the step go on, or no longer wait for a chance to hold it."""
        self._is_wanted = False
        self._wake.set()

    async def _keep_asking(self) -> None:
        """Ask again each time the handler ran at a bad moment."""
        while self._is_wanted and time.monotonic() < self._until:
            if not self.is_held and not self._is_tripped:
                self._is_tripped = True
                interrupt_main(self._signal)  # type: ignore[arg-type]  # a real-time signal has no name
            await asyncio.sleep(_LOOK_S if self.is_held else _POLL_S)
        if not self.is_held:
            self._is_wanted = False

    def _handle(self, _number: int, frame: FrameType | None) -> None:
        """Run in the main thread between two bytecodes."""
        self._is_tripped = False
        if not self._is_wanted or self.is_held or frame is None or not self._may_hold(frame):
            return
        self.frame = frame
        self._mark(f"held in {frame.f_code.co_name}, line {frame.f_lineno}")
        try:
            while self._is_wanted and (left := self._until - time.monotonic()) > 0:
                self._wake.wait(min(_LOOK_S, left))
        finally:  # a KeyboardInterrupt of the step ends the pause too
            self.frame, self._is_wanted = None, False
            self._mark("")

    def _mark(self, where: str) -> None:
        """Say in the step's live folder whether it is held, for the supervisor; in no kernel that is not a step's."""
        connection_file = getattr(self._host.kernel.parent, "connection_file", "")
        if not connection_file or "KALE_JOB" not in os.environ:
            return
        path = os.path.join(os.path.dirname(connection_file), HELD)
        with contextlib.suppress(OSError):
            if where:
                with open(f"{path}.new", "w", encoding="utf-8") as stream:
                    stream.write(where)
                os.replace(f"{path}.new", path)
            else:
                os.unlink(path)

    def _may_hold(self, frame: FrameType) -> bool:
        frames = user_frames(frame)
        if frames:
            return lock_holder(frames) is None
        # a cell that awaits: its loop may stop as well as its code
        module = str(frame.f_globals.get("__name__"))
        return self._host.is_step_running and module.split(".", maxsplit=1)[0] in {"asyncio", "selectors"}
