"""How a visitor's cell is ended without touching the step.

SIGINT always hits the main thread, the step. A visitor's thread is sent a ``KeyboardInterrupt`` by
``PyThreadState_SetAsyncExc`` (docs.python.org/3/c-api/init.html), and only while an
:class:`InterruptWindow` is open, that is, while it runs the visitor's own code, not ipykernel's. It
arrives at the next bytecode: a long C call ends first.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator
    from types import FrameType

_set_async_exc = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_async_exc.argtypes = [ctypes.c_ulong, ctypes.py_object]
_RUNS_CELLS = "IPython.core.interactiveshell"

# Code of these modules may hold a lock that the step needs too.
_HOLDERS_OF_LOCKS = (
    "_frozen_importlib",
    "_weakrefset",
    "concurrent.futures",
    "importlib",
    "ipykernel.iostream",
    "jupyter_client",
    "logging",
    "multiprocessing",
    "queue",
    "sqlite3",
    "threading",
    "warnings",
    "weakref",
    "zmq",
    f"{__package__}.visit_stdin",
)


def user_frames(frame: FrameType | None) -> list[FrameType]:
    """Return the frames of the cell that a thread runs, innermost first; none when it runs no cell.

    Parameters
    ----------
    frame : FrameType
        The thread's innermost frame (``sys._current_frames()``).
    """
    frames: list[FrameType] = []
    while frame is not None:
        if frame.f_code.co_name == "run_code" and frame.f_globals.get("__name__") == _RUNS_CELLS:
            return frames
        frames.append(frame)
        frame = frame.f_back
    return []


def awaiting_frames(task: asyncio.Task[Any] | None) -> list[FrameType]:
    """Return the frames of a cell that awaits, innermost first: a coroutine at rest is in no thread's stack."""
    frames: list[FrameType] = []
    waiter: Any = None if task is None or task.done() else task.get_coro()
    while waiter is not None:
        frame = getattr(waiter, "cr_frame", None) or getattr(waiter, "gi_frame", None)
        if frame is None:
            break
        is_cell = frame.f_code.co_name == "run_code" and frame.f_globals.get("__name__") == _RUNS_CELLS
        frames = [] if is_cell else [frame, *frames]
        waiter = getattr(waiter, "cr_await", None) or getattr(waiter, "gi_yieldfrom", None)
    return frames


def lock_holder(frames: list[FrameType]) -> str | None:
    """Return the name of the module in these frames that may hold a lock of the whole process, if one does."""
    for frame in frames:
        name = frame.f_globals.get("__name__") or ""
        for holder in _HOLDERS_OF_LOCKS:
            if name == holder or name.startswith(holder + "."):
                return str(name)
    return None


class _TakenBack(BaseException):
    """Put in the place of an interrupt that came too late."""


def _take_back() -> None:
    """Replace what may have been sent to the calling thread by something harmless, and let that arrive.

    Sending NULL would undo it too, but up to Python 3.12 it leaves the interpreter's eval breaker set until some
    exception does arrive: every loop of the step is then slower, and one that is traced (a debugger, coverage)
    never gets beyond the call of a function.
    """
    try:
        _set_async_exc(threading.get_ident(), ctypes.py_object(_TakenBack))
        for _ in range(1000):  # it arrives at the first
            pass
    except _TakenBack:
        pass


class InterruptWindow:
    """The stretches of time in which a visitor's thread may be sent a ``KeyboardInterrupt``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._thread_id = 0
        self._is_shielded = False
        self._is_asked = False
        self._is_sent = False

    @property
    def is_open(self) -> bool:
        """Whether the visitor's own code runs."""
        return self._depth > 0

    @property
    def is_shielded(self) -> bool:
        """Whether an interrupt would wait for the thread to ask for it."""
        return self._is_shielded

    @property
    def frames(self) -> list[FrameType]:
        """The user's frames that the thread is in just now, innermost first."""
        return user_frames(sys._current_frames().get(self._thread_id))

    def open(self) -> int:
        """Open it for the calling thread; return what :meth:`close` is to be given (windows nest)."""
        with self._lock:
            depth = self._depth
            self._depth = depth + 1
            self._thread_id = threading.get_ident()
        return depth

    def close(self, depth: int) -> None:
        """Close it, in the thread that opened it, and take back an interrupt that came too late to be delivered."""
        is_done = False
        while not is_done:
            try:
                with self._lock:
                    self._depth = depth
                    self._is_shielded = self._is_asked = False
                    if depth == 0 and self._is_sent:
                        _take_back()
                        self._is_sent = False
                is_done = True
            except KeyboardInterrupt:  # delivered while closing: the code it was meant for is over
                continue

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Let an interrupt wait for :meth:`check` or the end of this block, in code that must not break off anywhere."""
        with self._lock:
            self._is_shielded = True
        try:
            yield
        finally:
            with self._lock:
                self._is_shielded = False
        self.check()

    def check(self) -> None:
        """Raise the ``KeyboardInterrupt`` that was asked for under a shield."""
        with self._lock:
            is_asked, self._is_asked = self._is_asked, False
        if is_asked:
            raise KeyboardInterrupt

    def interrupt(self, timeout_s: float = 2.0) -> str:
        """Send the interrupt: ``raised``, ``idle`` when the window is closed, ``stuck`` when that can't be told."""
        if not self._lock.acquire(timeout=timeout_s):
            return "stuck"
        try:
            if not self.is_open:
                return "idle"
            self._send()
            return "raised"
        finally:
            self._lock.release()

    def kill(self) -> None:
        """Send the interrupt wherever the thread is; only for a thread whose visit is over."""
        with self._lock:
            self._send()

    def _send(self) -> None:
        if self._is_shielded:
            self._is_asked = True
            return
        self._is_sent = True
        _set_async_exc(self._thread_id, ctypes.py_object(KeyboardInterrupt))
