"""The front end's side of a relay: an ordinary kernel's five sockets, bound where a connection file says.

Owns sockets, signatures and the heartbeat; knows nothing of the step. What is ill signed or no message is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

import zmq

from kale_proxy.agent_link import DELIMITER, Signer, request_header
from kale_proxy.wire import Channel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Frames = list[bytes]
    OnMessage = Callable[[Channel, Frames, Frames], None]

HIGH_BYTES = 64 << 20  # printed, and not taken by the front end: then no more is read from the agent
LOW_BYTES = 16 << 20
_HIGH_MESSAGES = 64  # in zmq; what is over it waits here, where its bytes are counted
_RETRY_S = 0.05
_TURN = 256
_LINGER_MS = 1000
_PORTS = {
    Channel.SHELL: "shell_port",
    Channel.IOPUB: "iopub_port",
    Channel.STDIN: "stdin_port",
    Channel.CONTROL: "control_port",
}
_HEARTBEAT = "hb_port"
_LOG = logging.getLogger("kale_proxy.relay")


class ConnectionFileError(Exception):
    """A connection file can't be used; the text is one sentence for a person."""


def read_connection(file: Path) -> dict[str, Any]:
    """Return the content of a Jupyter connection file.

    Raises
    ------
    ConnectionFileError
        It is missing or none.
    """
    try:
        info = json.loads(file.read_bytes())
    except OSError as exc:
        raise ConnectionFileError(f"The connection file {file} can't be read: {exc.strerror}.") from exc
    except ValueError:
        info = None
    ports = [*_PORTS.values(), _HEARTBEAT]
    if not isinstance(info, dict) or not all(isinstance(info.get(port), int) for port in ports):
        raise ConnectionFileError(f"{file} is no Jupyter connection file.")
    if info.get("transport") not in {"tcp", "ipc"} or not isinstance(info.get("ip"), str):
        raise ConnectionFileError(f"{file} asks for a transport that is neither tcp nor ipc.")
    if not str(info.get("signature_scheme") or "hmac-sha256").startswith("hmac-"):
        raise ConnectionFileError(f"{file} asks for a signature scheme that is no hmac.")
    return info


class FrontEnd(Protocol):
    """What a relay asks of its front end's side: :class:`Front`, or one that stands before it."""

    @property
    def is_full(self) -> bool:
        """Whether so much waits for the front end that no more should be fetched."""

    def reply(self, channel: Channel, identities: Sequence[bytes], parts: Sequence[bytes]) -> None:
        """Send a message to the client that has these identities."""

    def publish(self, kind: str, parts: Sequence[bytes]) -> None:
        """Send an iopub message of type ``kind`` to everyone."""

    def made(self, kind: str, parent: dict[str, Any], content: dict[str, Any]) -> list[bytes]:
        """Return the parts of a message of the relay's own."""


class Port:
    """One bound socket on the event loop: never waits, keeps in order what can't go out yet.

    Parameters
    ----------
    socket : zmq.Socket
        Bound; closed by :meth:`close`.
    on_frames : callable
        Called with each multipart that comes.
    on_sent : callable, optional
        Called when some of what was kept has gone out.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        on_frames: Callable[[list[bytes]], None],
        on_sent: Callable[[], None] | None = None,
    ) -> None:
        self.waiting_bytes = 0
        self._waiting: deque[list[bytes]] = deque()
        self._socket = socket
        self._on_frames = on_frames
        self._on_sent = on_sent
        self._loop = asyncio.get_running_loop()
        self._is_due = False
        self._is_retry_due = False
        self._loop.add_reader(socket.fileno(), self._turn)
        self._soon()

    def send(self, frames: list[bytes]) -> None:
        """Send, or keep until it can be sent."""
        if self._waiting or not self._has_sent(frames):
            self._waiting.append(frames)
            self.waiting_bytes += sum(map(len, frames))
        self._soon()  # sending can swallow the edge that zmq's descriptor gives for what has arrived

    def close(self, linger_ms: int) -> None:
        """Close; what zmq has taken goes out for so long."""
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close(linger_ms)

    def _has_sent(self, frames: list[bytes]) -> bool:
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK, copy=sum(map(len, frames)) < 1 << 16)
        except zmq.Again:
            return False
        return True

    def _soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._turn)

    def _retry(self) -> None:
        self._is_retry_due = False
        if not self._socket.closed:
            self._turn()

    def _flush(self) -> None:
        before = len(self._waiting)
        while self._waiting and self._has_sent(self._waiting[0]):
            self.waiting_bytes -= sum(map(len, self._waiting.popleft()))
        if self._waiting and not self._is_retry_due:  # zmq's descriptor is silent when the peer that blocked has left
            self._is_retry_due = True
            self._loop.call_later(_RETRY_S, self._retry)
        if len(self._waiting) < before and self._on_sent is not None:
            self._on_sent()

    def _turn(self) -> None:
        self._is_due = False
        for _ in range(_TURN):
            if self._socket.closed:
                return
            if self._waiting:
                self._flush()
            if not int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                return
            try:
                self._on_frames(self._socket.recv_multipart(zmq.NOBLOCK))
            except Exception:  # a loop edge: one message must not end the relay
                _LOG.exception("a message of the front end could not be handled")
        self._soon()  # others get their turn


class Front:
    """The five channels.

    Parameters
    ----------
    file : Path
        A connection file; ports that are 0 are chosen here and written back.
    listening : dict of str to int, optional
        Descriptors of sockets that listen on its ports already, from :func:`kale_magic.kernels.first.listen`; they are
        taken over.

    Raises
    ------
    ConnectionFileError
        It is none, or its addresses can't be bound.
    """

    def __init__(self, file: Path, listening: dict[str, int] | None = None) -> None:
        self.info = read_connection(file)
        self._listening = dict(listening or {})
        self._on_message: OnMessage
        self._on_room: Callable[[], None]
        self._signer = Signer(self.info)
        self._session = os.urandom(16).hex()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._ports: dict[Channel, Port] = {}
        self._bound: dict[Channel, zmq.Socket[bytes]] = {}
        before = dict(self.info)
        try:
            marks = {"XPUB_NODROP": 1, "XPUB_VERBOSE": 1, "SNDHWM": _HIGH_MESSAGES}
            self._bound[Channel.IOPUB] = self._bind(zmq.XPUB, _PORTS[Channel.IOPUB], **marks)
            for channel in (Channel.SHELL, Channel.CONTROL, Channel.STDIN):
                # a router drops silently what is over its mark
                self._bound[channel] = self._bind(zmq.ROUTER, _PORTS[channel], SNDHWM=0, RCVHWM=0, ROUTER_HANDOVER=1)
            beats = self._bind(zmq.ROUTER, _HEARTBEAT, SNDHWM=0)
        except zmq.ZMQError as exc:
            self._context.destroy(linger=0)
            raise ConnectionFileError(f"The addresses in {file} can't be used: {exc}.") from exc
        if self.info != before:
            _rewrite(file, self.info)
        self._heartbeat = Port(beats, self._beat)

    def open(self, on_message: OnMessage, on_room: Callable[[], None]) -> None:
        """Begin to hand on messages.

        Parameters
        ----------
        on_message : callable
            Called with (channel, identities, parts) for each well signed message.
        on_room : callable
            Called when the front end has taken most of what waited for it.
        """
        self._on_message, self._on_room = on_message, on_room
        for channel, socket in self._bound.items():
            if channel is Channel.IOPUB:
                self._ports[channel] = Port(socket, self._subscribed, self._check_room)
            else:
                self._ports[channel] = Port(socket, self._receiver(channel))

    @property
    def is_full(self) -> bool:
        """Whether so much waits for the front end that no more should be fetched."""
        return self._ports[Channel.IOPUB].waiting_bytes > HIGH_BYTES

    def reply(self, channel: Channel, identities: Sequence[bytes], parts: Sequence[bytes]) -> None:
        """Send a message to the client that has these identities."""
        self._ports[channel].send([*identities, DELIMITER, self._signer.sign(parts), *parts])

    def publish(self, kind: str, parts: Sequence[bytes]) -> None:
        """Send an iopub message of type ``kind`` to everyone."""
        self._ports[Channel.IOPUB].send([kind.encode(), DELIMITER, self._signer.sign(parts), *parts])

    def made(self, kind: str, parent: dict[str, Any], content: dict[str, Any]) -> list[bytes]:
        """Return the parts of a message of the relay's own."""
        header = request_header(kind, self._session)
        return [json.dumps(part).encode() for part in (header, parent, {}, content)]

    def close(self) -> None:
        """Close all sockets; what was sent before has a second to go out."""
        for port in (*self._ports.values(), self._heartbeat):
            port.close(_LINGER_MS)
        self._context.term()

    # -- sockets

    def _bind(self, kind: int, port: str, **options: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, _LINGER_MS)
        for name, value in options.items():
            socket.setsockopt(getattr(zmq, name), value)
        if self.info.get("curve_secretkey"):
            socket.setsockopt(zmq.CURVE_SERVER, 1)
            socket.setsockopt(zmq.CURVE_PUBLICKEY, str(self.info["curve_publickey"]).encode())
            socket.setsockopt(zmq.CURVE_SECRETKEY, str(self.info["curve_secretkey"]).encode())
        if port in self._listening:
            socket.setsockopt(zmq.USE_FD, self._listening.pop(port))
        number, ip = self.info[port], self.info["ip"]
        if self.info["transport"] == "ipc":
            number = self.info[port] = number or 1 + [*_PORTS.values(), _HEARTBEAT].index(port)
            socket.bind(f"ipc://{ip}-{number}")
        elif number:
            socket.bind(f"tcp://{ip}:{number}")
        else:
            self.info[port] = socket.bind_to_random_port(f"tcp://{ip}")
        return socket

    def _receiver(self, channel: Channel) -> Callable[[list[bytes]], None]:
        def receive(frames: list[bytes]) -> None:
            parts = self._signer.opened(frames)
            if parts is None:
                _LOG.warning("an ill signed message on %s was dropped", channel.name.lower())
                return
            self._on_message(channel, frames[: frames.index(DELIMITER)], parts)

        return receive

    def _beat(self, frames: list[bytes]) -> None:
        self._heartbeat.send(frames)

    def _subscribed(self, frames: list[bytes]) -> None:
        """Welcome a subscriber as ipykernel 7 does (JEP 65)."""
        if frames[0][:1] == b"\x01":
            topic = frames[0][1:]
            parts = self.made("iopub_welcome", {}, {"subscription": topic.decode("utf-8", "replace")})
            self._ports[Channel.IOPUB].send([topic, DELIMITER, self._signer.sign(parts), *parts])

    def _check_room(self) -> None:
        if self._ports[Channel.IOPUB].waiting_bytes < LOW_BYTES:
            self._on_room()


def _rewrite(file: Path, info: dict[str, Any]) -> None:
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        json.dump(info, stream, indent=1)
    temporary.replace(file)
