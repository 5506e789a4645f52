"""Two watches for the agent's loop: something was written in a folder; a process is gone.

Both are file descriptors of Linux (inotify(7), pidfd_open(2)) and fall back to looking again and again
where the system has no more of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FOLDER_POLL_S = 0.02
PROCESS_POLL_S = 0.2
_IN_MODIFY, _IN_MOVED_TO, _IN_CREATE = 0x2, 0x80, 0x100
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC


class FolderWatch:
    """Calls ``ring`` soon after a file in ``folder`` was made or written, and perhaps for nothing.

    Parameters
    ----------
    folder : Path
        What to watch.
    ring : callable
        Called in the running loop.
    """

    def __init__(self, folder: Path, ring: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        self._fd = _inotify(folder)
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._heard)
        else:
            self._poll()

    def close(self) -> None:
        """Watch no longer."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        if self._timer is not None:
            self._timer.cancel()

    def _heard(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 1 << 16)
        self._ring()

    def _poll(self) -> None:
        self._timer = self._loop.call_later(FOLDER_POLL_S, self._poll)
        self._ring()


class ProcessWatch:
    """Calls ``gone`` once when process ``pid`` has ended, be it collected by its parent or not.

    Parameters
    ----------
    pid : int
        Need not be a child.
    gone : callable
        Called in the running loop.
    """

    def __init__(self, pid: int, gone: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._pid = pid
        self._gone = gone
        self._timer: asyncio.TimerHandle | None = None
        self._fd = -1
        try:
            self._fd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._loop.call_soon(gone)
        except (OSError, AttributeError):
            self._poll()
        else:
            self._loop.add_reader(self._fd, self._ended)

    def close(self) -> None:
        """Watch no longer."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        if self._timer is not None:
            self._timer.cancel()

    def _ended(self) -> None:
        self.close()
        self._gone()

    def _poll(self) -> None:
        if is_running(self._pid):
            self._timer = self._loop.call_later(PROCESS_POLL_S, self._poll)
        else:
            self._loop.call_soon(self._gone)


def is_running(pid: int) -> bool:
    """Tell whether ``pid`` is a process that has not ended; a zombie has."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in {b"Z", b"X"}
    except OSError:
        return False


def load() -> None:
    """Find the C functions, so that a forked child need not."""
    _libc()


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _inotify(folder: Path) -> int:
    libc = _libc()
    try:
        fd: int = libc.inotify_init1(_FLAGS)
    except AttributeError:
        return -1
    if fd < 0:
        return -1
    if libc.inotify_add_watch(fd, os.fsencode(folder), _IN_MODIFY | _IN_MOVED_TO | _IN_CREATE) < 0:
        os.close(fd)
        return -1
    return fd
