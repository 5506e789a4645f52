"""A TCP port of a step's socket, for clusters where neither ssh nor srun leads to a node: only where asked for, and by CURVE only.

A process beside the step's. Whoever connects must hold the secret key that stands, with the server's public one, in the
job's file in the user's runtime folder (0600); others are refused in the handshake (ZAP, ZeroMQ RFC 27; CURVE, RFC 25 and 26). It joins
each connection to the agent's socket, whose own handshake follows; see :mod:`kale_proxy.tunnel.flow` for what goes over it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import json
import os
import signal
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

import zmq
import zmq.utils.z85

from kale_proxy.tunnel.flow import END, MOST, PING, Flow
from kale_proxy.values import write_atomic
from kale_proxy.wire import SOCKET_NAME

if TYPE_CHECKING:
    from pathlib import Path

NAME = "door.json"
_SIOCGIFADDR = 0x8915
_ZAP = "inproc://zeromq.zap.01"
_BEAT_S = 5.0
_TICK_S = 1.0
_AWAITED_S = 5.0
_STREAMS = 256


def known(live: Path, timeout: float = _AWAITED_S) -> dict[str, Any]:
    """Return ``port``, ``addresses``, ``server`` (public key) and ``client`` (secret key) of a step's port; empty if none comes in time."""
    end = time.monotonic() + timeout
    while True:
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads((live / NAME).read_bytes()))
        if time.monotonic() > end:
            return {}
        time.sleep(0.002)


def addresses() -> list[str]:
    """Return this machine's IPv4 addresses but for the loopback's (netdevice(7)), as names of nodes are not known everywhere."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(asked, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                found.append(socket.inet_ntoa(answer[20:24]))
    return [address for address in found if not address.startswith("127.")]


def run(live: Path) -> int:
    """Serve the port of the step whose live folder is ``live`` until that, or the parent of this process, is gone."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = os.getppid()
    door = Door(live)
    while os.getppid() == parent and (live / SOCKET_NAME).exists():
        door.turn(_TICK_S)
    return 0


class Door:
    """The port; bound, and its keys written into ``live``, when made."""

    def __init__(self, live: Path) -> None:
        self._path = str(live / SOCKET_NAME)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        public, secret = zmq.curve_keypair()
        of_client, client_secret = zmq.curve_keypair()
        self._admitted = zmq.utils.z85.decode(of_client)
        self._guard = self._context.socket(zmq.REP)
        self._guard.bind(_ZAP)  # before the port: without it any key would do
        self._router = self._context.socket(zmq.ROUTER)
        options = {"CURVE_SERVER": 1, "ROUTER_MANDATORY": 1, "SNDHWM": 0, "RCVHWM": 0, "LINGER": 0, "MAXMSGSIZE": MOST, "HANDSHAKE_IVL": 5000}
        for name, value in options.items():
            self._router.setsockopt(getattr(zmq, name), value)
        for name, value in (("HEARTBEAT_IVL", 5000), ("HEARTBEAT_TIMEOUT", 15000)):
            self._router.setsockopt(getattr(zmq, name), value)
        self._router.setsockopt(zmq.CURVE_SECRETKEY, secret)
        self._router.setsockopt(zmq.CURVE_PUBLICKEY, public)
        self.port = self._router.bind_to_random_port("tcp://*")
        self._streams: dict[bytes, Flow] = {}
        self._beat_at = time.monotonic()
        found = {"port": self.port, "server": public.decode(), "client": client_secret.decode(), "addresses": addresses()}
        write_atomic(live / NAME, json.dumps(found).encode())

    def turn(self, timeout: float) -> None:
        """Wait for something and do it."""
        reading = [flow.descriptor for flow in self._streams.values() if flow.may_read]
        writing = [flow.descriptor for flow in self._streams.values() if flow.wants_write]
        ports = [self._router, self._guard]
        readable, writable, _ = zmq.select([*ports, *reading], writing, [], timeout)
        if self._guard in readable:
            self._judge(self._guard.recv_multipart())
        while int(self._router.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._take(*self._router.recv_multipart(zmq.NOBLOCK)[:2])
        for flow in list(self._streams.values()):
            if not flow.is_over and flow.descriptor in writable:
                flow.write()
            if not flow.is_over and flow.descriptor in readable:
                flow.read()
        if time.monotonic() - self._beat_at > _BEAT_S:  # who has gone is noticed by what can't be sent
            self._beat_at = time.monotonic()
            for identity, flow in list(self._streams.items()):
                if not self._sent(identity, PING):
                    flow.end()
        self._streams = {identity: flow for identity, flow in self._streams.items() if not flow.is_over}

    def _judge(self, asked: list[bytes]) -> None:
        """Answer ZeroMQ's question whether a client may come in."""
        version, number, _, _, _, mechanism, *credentials = [*asked, *[b""] * 7]
        is_known = mechanism == b"CURVE" and hmac.compare_digest(credentials[0], self._admitted)
        answer = (b"200", b"OK") if is_known else (b"400", b"the key is not this step's")
        self._guard.send_multipart([version, number, *answer, b"", b""])

    def _take(self, identity: bytes, message: bytes) -> None:
        flow = self._streams.get(identity)
        if flow is None:
            if message != PING or len(self._streams) >= _STREAMS:  # the rest of a stream that is over
                return
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect(self._path)
            except OSError:
                sock.close()
                self._sent(identity, END)
            else:
                # What can't be sent is for one who has gone: what came from there before is still to be taken, to its E.
                self._streams[identity] = Flow(sock, lambda data: self._sent(identity, data))
            return
        flow.take(message)

    def _sent(self, identity: bytes, data: bytes) -> bool:
        try:
            self._router.send_multipart([identity, data], zmq.NOBLOCK)
        except zmq.ZMQError:
            return False
        return True
