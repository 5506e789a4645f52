"""The process beside a step's kernel that serves its visitors over the one socket ``a``.

The supervisor forks it when somebody connects, and listens again itself when it is gone: it ends when
the kernel ends, or after half a minute without a client. It reads what the kernel prints from the
journal, passes requests on by ZeroMQ, and never waits for a client or the kernel. What a client can
see, send and break is said in ``proxy/README.rst``.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hmac
import json
import logging
import os
import signal
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

import zmq

from kale_proxy import doorbell
from kale_proxy.agent_connection import Connection
from kale_proxy.agent_session import Session, Step
from kale_proxy.agent_visit import Visit
from kale_proxy.doorbell import FolderWatch, ProcessWatch
from kale_proxy.wire import CONNECTION_NAME, Kind, json_frame

if TYPE_CHECKING:
    from pathlib import Path

IDLE_S = 30.0
GRACE_S = 20.0
STALLED_S = 10.0
READY_S = 10.0
ACCEPT_AGAIN_S = 0.5
MAX_CONNECTIONS = 64  # each takes some eight descriptors, of which a process has 1,024
VISITS_NAME = "visits.json"
_LOG = logging.getLogger("kale_proxy.agent")


def preload() -> None:
    """Do once, before any fork, what every agent would do first; called by the supervisor.

    Importing this module has imported all that an agent needs; what is left are the parts that
    their libraries put off: the C library for inotify and OpenSSL's digests.
    """
    doorbell.load()
    hmac.digest(b"key", b"", "sha256")


def run(listener: socket.socket, live: Path, kernel_pid: int) -> None:
    """Serve visitors until the kernel has ended or nobody has been here for ``IDLE_S``; then return.

    To be called in a process forked for it, from one without threads, loops and zmq contexts. Every
    other descriptor of the parent but the first three is made useless here, so that this process
    keeps no socket of others open.

    Parameters
    ----------
    listener : socket.socket
        Bound to ``live/a`` and listening; shared with the supervisor, which must not accept meanwhile.
    live : Path
        The step's live folder.
    kernel_pid : int
        The process whose end is the end of the step's kernel.
    """
    _leave_parent(listener)
    asyncio.run(_serve(listener, live, kernel_pid))


async def _serve(listener: socket.socket, live: Path, kernel_pid: int) -> None:
    connection = await _read_connection(live)
    if connection is None:
        _turn_away(listener)
        return
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        await Agent(Step(live, connection, context, kernel_pid)).serve(listener)
    finally:
        context.destroy(linger=0)


class Agent:
    """The connections and sessions of one step.

    Parameters
    ----------
    step : Step
        Its kernel.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.key = str(step.connection.get("key", "")).encode()
        self._loop = asyncio.get_running_loop()
        self._connections: set[Connection] = set()
        self._sessions: dict[str, Session] = {}
        self._graces: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._idle_since = time.monotonic()
        self._kernel_gone = asyncio.Event()

    async def serve(self, listener: socket.socket) -> None:
        """Accept and serve until it is over, as :func:`run` says."""
        listener.setblocking(False)  # the supervisor takes it back as it is: it polls before it accepts
        self._inherit()
        folder = FolderWatch(self.step.live, self._ring)
        process = ProcessWatch(self.step.kernel_pid, self._kernel_gone.set)
        self._loop.add_reader(listener, self._accept, listener)
        try:
            while not self._is_idle():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._kernel_gone.wait(), 1.0)
                if self._kernel_gone.is_set():
                    self._loop.remove_reader(listener)
                    await self._say_end()
                    return
        finally:
            self._loop.remove_reader(listener)
            folder.close()
            process.close()
            for session in self._sessions.values():
                session.cut()

    # -- what connections ask for

    def session(self, client_id: str) -> Session:
        """Return the client's session; a new one for a new client."""
        if (timer := self._graces.pop(client_id, None)) is not None:
            timer.cancel()
        if client_id not in self._sessions:
            self._sessions[client_id] = Session(self.step, client_id, None, self._save_visits)
        return self._sessions[client_id]

    def left(self, connection: Connection) -> None:
        """Keep the session of a vanished client for ``GRACE_S``, of one that said goodbye no longer."""
        self._connections.discard(connection)
        self._idle_since = time.monotonic()
        client_id = connection.client_id
        if connection.session is None or self._is_connected(client_id):
            return
        if connection.has_said_bye:
            self._forget(client_id)
        else:
            self._begin_grace(client_id)

    def _begin_grace(self, client_id: str) -> None:
        if (timer := self._graces.pop(client_id, None)) is not None:
            timer.cancel()
        self._graces[client_id] = self._loop.call_later(GRACE_S, self._forget, client_id)

    def _forget(self, client_id: str) -> None:
        self._graces.pop(client_id, None)
        if self._is_connected(client_id):
            return
        session = self._sessions.pop(client_id, None)
        if session is not None and not self._kernel_gone.is_set():
            task = self._loop.create_task(session.end())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _is_connected(self, client_id: str) -> bool:
        return any(c.client_id == client_id and not c.is_closed for c in self._connections)

    def _is_idle(self) -> bool:
        if self._connections or self._sessions or self._tasks:
            self._idle_since = time.monotonic()
        return time.monotonic() - self._idle_since > IDLE_S

    # -- visits outlive an agent that was killed

    def _save_visits(self) -> None:
        visits = {
            client_id: session.visit.to_dict()
            for client_id, session in self._sessions.items()
            if session.visit is not None and not session.visit.is_over and (session.visit.subshell_id or session.visit.is_debugging)
        }
        temporary = self.step.live / f"{VISITS_NAME}.{os.getpid()}"
        with contextlib.suppress(
            OSError
        ):  # the step is over, or the disk full: then only a killed agent's visits stay open
            temporary.write_text(json.dumps(visits))
            temporary.replace(self.step.live / VISITS_NAME)

    def _inherit(self) -> None:
        """Take over the visits that an agent before this one left open; their clients have the usual grace."""
        try:
            saved = json.loads((self.step.live / VISITS_NAME).read_bytes())
            visits = {client_id: Visit(**fields) for client_id, fields in saved.items()}
        except (OSError, ValueError, TypeError, AttributeError):  # none, or those of another version
            return
        for client_id, visit in visits.items():
            self._sessions[client_id] = Session(self.step, client_id, visit, self._save_visits)
            self._begin_grace(client_id)

    # -- what happens

    def _ring(self) -> None:
        for session in self._sessions.values():
            session.pump()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                accepted, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError:  # no descriptor is free: they wait in the queue
                self._loop.remove_reader(listener)
                self._loop.call_later(ACCEPT_AGAIN_S, self._loop.add_reader, listener, self._accept, listener)
                return
            accepted.setblocking(False)
            connection = Connection(self)
            self._connections.add(connection)
            task = self._loop.create_task(self._connect(connection, accepted))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self, connection: Connection, accepted: socket.socket) -> None:
        await self._loop.connect_accepted_socket(lambda: connection, accepted)
        if _peer_uid(accepted) != os.geteuid():
            connection.fail("other_user", "this socket serves the user who runs the step")
        elif len(self._connections) > MAX_CONNECTIONS:
            connection.fail("busy", f"{MAX_CONNECTIONS} visitors are connected already")

    async def _say_end(self) -> None:
        """Give every client the rest of the journal, then END; one that takes nothing for ``STALLED_S`` is dropped."""
        last = json_frame(Kind.END, {"reason": f"the step's kernel (process {self.step.kernel_pid}) has ended"})
        await asyncio.sleep(0.05)  # replies that are still on their way through zmq
        seen: dict[Connection, tuple[int, int]] = {}
        moved_at = time.monotonic()
        while self._connections and time.monotonic() - moved_at < STALLED_S:
            for connection in list(self._connections):
                if not connection.is_closed and connection.is_drained():
                    connection.finish(last)
                state = connection.progress()
                if seen.get(connection) != state:
                    seen[connection] = state
                    moved_at = time.monotonic()
            await asyncio.sleep(0.01)
        for connection in list(self._connections):
            connection.abort()
        await asyncio.sleep(0)


async def _read_connection(live: Path) -> dict[str, Any] | None:
    """Return the content of ``kernel.json``, which appears when the kernel is ready; None if it does not."""
    deadline = time.monotonic() + READY_S
    while True:
        try:
            connection = json.loads((live / CONNECTION_NAME).read_bytes())
        except (OSError, ValueError):
            if time.monotonic() > deadline:
                return None
            await asyncio.sleep(0.02)
        else:
            return dict(connection)


def _turn_away(listener: socket.socket) -> None:
    """Tell those who wait that there is no kernel yet."""
    listener.setblocking(False)
    sentence = f"the step's kernel has not become ready within {READY_S:g} s"
    with contextlib.suppress(OSError):
        while True:
            accepted, _ = listener.accept()
            with accepted:
                accepted.setblocking(False)
                accepted.sendall(json_frame(Kind.ERROR, {"code": "not_ready", "message": sentence}))


def _peer_uid(accepted: socket.socket) -> int:
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(uid)


def _leave_parent(listener: socket.socket) -> None:
    """Undo what a fork hands down: handlers, the wake-up descriptor, other sockets.

    The parent's descriptors are not closed but pointed at /dev/null: objects of the parent that still
    live in this process may close their numbers later, which must not hit ours.
    """
    signal.set_wakeup_fd(-1)
    for default in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(default, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(0o077)
    gc.freeze()  # else the first collection would copy every page of the parent
    void = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for name in os.listdir("/proc/self/fd"):
        if (number := int(name)) > 2 and number not in {void, listener.fileno()}:
            with contextlib.suppress(OSError):
                os.fstat(number)  # listdir's own is closed by now
                os.dup2(void, number, inheritable=False)
