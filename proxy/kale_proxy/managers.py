"""The managers that are connected to a supervisor: any number, one after another or at once.

JSON lines over the supervisor's Unix socket, of this user alone; the protocol is in ``proxy/README.rst``.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from kale_proxy import children
from kale_proxy.record import read_result
from kale_proxy.spec import JobSpec

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from kale_proxy.supervisor import Supervisor

PROTOCOL = 1
_LINE_MAX = 64 << 20


class Managers:
    """Hears what managers ask a supervisor for, and tells them what becomes of its jobs."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._clients: dict[socket.socket, bytearray] = {}
        self._listener: socket.socket | None = None

    @property
    def are_there(self) -> bool:
        """Whether one is connected."""
        return bool(self._clients)

    def listen(self, path: Path) -> None:
        """Wait for them at a socket."""
        self._listener = children.listen(path)
        self._supervisor.watch(self._listener, self._accept)

    def sockets(self) -> list[socket.socket | None]:
        """Return what a fork must not keep."""
        return [self._listener, *self._clients]

    def tell(self, message: dict[str, Any]) -> None:
        """Send all of them a message."""
        for client in list(self._clients):
            self._send(client, message)

    def _accept(self) -> None:
        assert self._listener is not None
        client, _ = self._listener.accept()
        if children.peer_uid(client) != os.getuid():
            client.close()
            return
        self._clients[client] = bytearray()
        self._supervisor.watch(client, lambda: self._read(client))
        self._send(client, {"ev": "hello", "version": PROTOCOL, "pid": os.getpid(), "jobs": self._listing()})

    def _read(self, client: socket.socket) -> None:
        try:
            data = client.recv(1 << 18)
        except OSError:
            data = b""
        buffer = self._clients[client]
        buffer += data
        if not data or len(buffer) > _LINE_MAX:
            self._drop(client)
            return
        *lines, rest = bytes(buffer).split(b"\n")
        buffer[:] = rest
        for line in lines:
            self._request(client, line)

    def _request(self, client: socket.socket, line: bytes) -> None:
        try:
            message = json.loads(line)
            op = message["op"]
            if op == "start":
                self._asked_to_start(client, message["spec"])
            elif op == "list":
                self._send(client, {"ev": "jobs", "jobs": self._listing()})
            elif op == "bye_when_idle":
                self._supervisor.idle_s = 0.0
            else:
                self._command(op, message)
        except (KeyError, TypeError, ValueError) as exc:
            self._send(client, {"ev": "error", "reason": f"not understood: {exc}"})

    def _command(self, op: str, message: dict[str, Any]) -> None:
        job = self._supervisor.jobs.get(message["uuid"])
        if job is None:
            return
        if op == "cancel":
            self._supervisor.kill(job, "cancelled by the user", state="cancelled", grace_s=float(message.get("grace_s", 2.0)))
        elif op == "interrupt":
            job.interrupt(str(message.get("point", "")))
        elif op == "feed":
            job.feed(message["message"])
        elif op == "release":
            job.release()
        elif op == "freeze":
            self._supervisor.freeze(job)
        elif op == "thaw":
            self._supervisor.thaw(job)
        else:
            raise ValueError(op)

    def _drop(self, client: socket.socket) -> None:
        self._clients.pop(client, None)
        self._supervisor.forget(client)

    def _send(self, client: socket.socket, message: dict[str, Any]) -> None:
        try:
            client.settimeout(5.0)  # a manager that is stopped must not stop us for ever
            client.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self._drop(client)

    def _listing(self) -> list[dict[str, Any]]:
        return [job.describe() for job in self._supervisor.jobs.values()]

    def _asked_to_start(self, client: socket.socket, data: dict[str, Any]) -> None:
        try:
            spec = JobSpec.from_dict(data)
        except ValueError as exc:  # a manager of another version
            self._send(client, {"ev": "refused", "uuid": str(data.get("uuid")), "reason": f"{exc}."})
        else:
            self._start(client, spec)

    def _start(self, client: socket.socket, spec: JobSpec) -> None:
        known = self._supervisor.jobs.get(spec.uuid)
        if known is not None:
            self._send(client, {"ev": "running", **known.describe(), "at": known.at})
            return
        result = read_result(spec)
        if result is not None:
            self._send(client, {"ev": "ended", "uuid": spec.uuid, "result": json.loads(result.to_json())})
            return
        self._supervisor.begin(spec)
