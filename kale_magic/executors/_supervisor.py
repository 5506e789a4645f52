"""The connection to one supervisor (``python -m kale_proxy serve``), which is started when it is not there.

A supervisor serves one exact environment, outlives managers and tells what became of its jobs to whoever is
connected. This side of the socket is quick when it is open: a start is written in the call that asks for it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import kale_proxy
from kale_magic.errors import SubmitError
from kale_magic.executors._lines import LineStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from kale_magic.executors._environment import Prepared

START_S = 30.0
_HELLO_S = 5.0


class Listener(Protocol):
    """Who is told what a supervisor says."""

    def connected(self, supervisor: Supervisor, jobs: list[dict[str, Any]]) -> None:
        """Take its greeting, which lists the jobs it knows."""

    def said(self, supervisor: Supervisor, message: dict[str, Any]) -> None:
        """Take one thing it says."""

    def disconnected(self, supervisor: Supervisor) -> None:
        """Take the end of the connection."""

    def unreachable(self, supervisor: Supervisor, reason: str) -> None:
        """Take that it is not there, and why it could not be started; empty if that was not tried."""


class Supervisor(LineStream):
    """One supervisor as seen from the executor.

    Parameters
    ----------
    folder : Path
        Its folder; the name is the key of its environment.
    listener : Listener
        Told what happens, in the event loop.
    command : callable
        ``command(python, folder) -> argv`` that starts it.
    """

    def __init__(self, folder: Path, listener: Listener, command: Callable[[str, Path], list[str]]) -> None:
        super().__init__()
        self.folder = folder
        self.key = folder.name
        self.jobs: set[str] = set()  # uuids handed to it that are not over
        self.is_open = False
        self._listener = listener
        self._command = command
        self._greeted: asyncio.Future[None] | None = None
        self._pid: int | None = None  # of the process we started, until its exit status is taken
        self._idle: asyncio.TimerHandle | None = None

    async def connect(self, prepared: Prepared | None) -> str | None:
        """Connect; start it first if it is not there and ``prepared`` says in which environment.

        Returns None when it is connected, else a sentence (empty if it was not to be started).
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_S
        pause = 0.002
        is_ours = False
        while True:
            if await self._try_connect():
                return None
            if prepared is None:
                return ""
            try:
                code = self._exit_code()
                if is_ours and code is not None:
                    raise SubmitError(f"it ended at once with exit code {code}: {self._last_words()}")
                if self._pid is None:  # never started, or it had idled and is gone
                    self._launch(prepared)
                    is_ours = True
                if loop.time() > deadline:
                    raise SubmitError(f"it did not answer within {START_S:g} s: {self._last_words()}")
            except (OSError, SubmitError) as exc:
                words = exc.message if isinstance(exc, SubmitError) else f"{exc.strerror or exc} ({exc.filename})"
                return f"Python for the step's environment ({prepared.python}) could not be started: {words}"
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.05)

    def send(self, message: dict[str, Any]) -> None:
        """Write one message; only while :attr:`is_open`."""
        assert self._transport is not None
        self._transport.write(json.dumps(message).encode() + b"\n")

    def send_start(self, spec_json: str) -> None:
        """Ask for a job whose specification is JSON text already."""
        assert self._transport is not None
        self._transport.write(b'{"op":"start","spec":' + spec_json.encode() + b"}\n")

    def close(self) -> None:
        """Hang up; what it runs goes on."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Hang up at once, whatever is unsent."""
        if self._transport is not None:
            self._transport.abort()

    def close_when_idle(self, seconds: float) -> None:
        """Hang up if no job comes within some time; without a manager it ends by itself a while later."""
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(seconds, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if not self.jobs:
            self.close()

    def reap(self) -> None:
        """Take the exit status of the process if it was ours and has ended."""
        self._exit_code()

    def _exit_code(self) -> int | None:
        if self._pid is None:
            return None
        try:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
        except ChildProcessError:
            pid, status = self._pid, 0
        if pid == 0:
            return None
        self._pid = None
        return os.waitstatus_to_exitcode(status)

    # -- asyncio.Protocol --------------------------------------------------------------------------------

    def line_received(self, line: bytes) -> None:
        """Take one thing that it says."""
        try:
            message = json.loads(line)
        except ValueError:
            return  # a broken line is lost; what it told is in the step's folder
        if isinstance(message, dict):
            self._take(message)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Tell the listener (asyncio calls it)."""
        was_open, self.is_open = self.is_open, False
        self._transport, self._buffer = None, b""
        if self._greeted is not None and not self._greeted.done():
            self._greeted.set_exception(ConnectionResetError("hung up before its greeting"))
        if was_open:
            self._listener.disconnected(self)
            asyncio.get_running_loop().call_later(1.0, self.reap)

    def _take(self, message: dict[str, Any]) -> None:
        if message.get("ev") == "hello":
            self.is_open = True
            if self._greeted is not None and not self._greeted.done():
                self._greeted.set_result(None)
            jobs = message.get("jobs")
            self._listener.connected(
                self, [job for job in jobs if isinstance(job, dict)] if isinstance(jobs, list) else []
            )
        elif self.is_open:
            self._listener.said(self, message)

    async def _try_connect(self) -> bool:
        loop = asyncio.get_running_loop()
        self._greeted = loop.create_future()
        try:
            async with asyncio.timeout(_HELLO_S):
                await loop.create_unix_connection(lambda: self, os.fspath(self.folder / "s"))
                await self._greeted
        except (OSError, TimeoutError):
            if self._transport is not None:
                self._transport.abort()
            if self._greeted.done() and not self._greeted.cancelled():
                self._greeted.exception()
            return False
        return True

    def _launch(self, prepared: Prepared) -> None:
        self.folder.parent.mkdir(mode=0o700, exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        variables = dict(prepared.variables)
        if prepared.python != sys.executable:
            paths = [variables.get("PYTHONPATH"), os.fspath(_only_our_package(self.folder.parent))]
            variables["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        log = os.open(self.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        command = self._command(prepared.python, self.folder)
        try:  # not subprocess: its objects expect to see their process end, and this one outlives us
            self._pid = os.posix_spawn(
                command[0],
                command,
                variables,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, log, 1),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                ],
                setsid=True,
                setsigdef=[signal.SIGPIPE, signal.SIGINT],
            )
        finally:
            os.close(log)

    def _last_words(self) -> str:
        try:
            lines = (self.folder / "log").read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else f"nothing was said, see {self.folder}/log"


def serve_command(python: str, folder: Path) -> list[str]:
    """Return the command of a real supervisor."""
    return [python, "-m", "kale_proxy", "serve", "--dir", os.fspath(folder)]


def _only_our_package(parent: Path) -> Path:
    """Return a folder that holds a link to our package alone: another Python must not see the rest of our site-packages."""
    folder = parent.parent / "lib"
    folder.mkdir(mode=0o700, exist_ok=True)
    link, target = folder / "kale_proxy", Path(kale_proxy.__file__).resolve().parent
    if not link.is_symlink() or link.readlink() != target:
        fresh = folder / f".kale_proxy-{os.getpid()}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target)
        fresh.replace(link)
    return folder
