"""One client's sockets to the kernel: three DEALERs of one identity, signing, and calls with a deadline.

ipykernel answers ``input()`` on stdin to the identity that sent the shell request, so the three share
one. Nothing here waits: what does not go out at once is an error of that client alone.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import zmq

from kale_proxy.wire import Channel, WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DELIMITER = b"<IDS|MSG>"
AGENT_SESSION = "kale-agent"  # in the headers of the agent's own requests
_PORTS = {Channel.SHELL: "shell_port", Channel.STDIN: "stdin_port", Channel.CONTROL: "control_port"}


class Signer:
    """Signs messages as Jupyter's messaging protocol says, with the key of a connection file.

    Parameters
    ----------
    connection : dict
        The connection file's content.
    """

    def __init__(self, connection: dict[str, Any]) -> None:
        self.key: bytes = str(connection.get("key", "")).encode()
        self._digest = str(connection.get("signature_scheme") or "hmac-sha256").removeprefix("hmac-")

    def sign(self, parts: Sequence[bytes]) -> bytes:
        """Return the signature of header, parent_header, metadata and content; no key, no signature."""
        if not self.key:
            return b""
        return hmac.digest(self.key, b"".join(parts[:4]), self._digest).hex().encode()

    def opened(self, frames: Sequence[bytes]) -> list[bytes] | None:
        """Return the parts behind the signature of a multipart from the kernel; None if it is not well signed."""
        try:
            at = frames.index(DELIMITER)
        except ValueError:
            return None
        parts = list(frames[at + 2 :])
        if len(parts) < 4 or not hmac.compare_digest(frames[at + 1], self.sign(parts)):
            return None
        return parts


class KernelLink:
    """A client's way to the kernel.

    Parameters
    ----------
    context : zmq.Context
        The agent's.
    connection : dict
        Content of ``kernel.json``.
    client_id : str
        Becomes the identity, the same after a reconnect or under another agent.
    on_message : callable
        Called with (channel, parts) for each well signed message that is not the answer to :meth:`ask`.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        connection: dict[str, Any],
        client_id: str,
        on_message: Callable[[Channel, list[bytes]], None],
    ) -> None:
        self.signer = Signer(connection)
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        self._asked: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._sockets: dict[Channel, zmq.Socket[bytes]] = {}
        joint = "-" if connection["transport"] == "ipc" else ":"
        for channel, port in _PORTS.items():
            socket = context.socket(zmq.DEALER)
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.RCVHWM, 0)  # replies are bounded by what the client has asked
            socket.setsockopt(zmq.IDENTITY, b"kale-" + client_id.encode())
            socket.connect(f"{connection['transport']}://{connection['ip']}{joint}{connection[port]}")
            self._sockets[channel] = socket
            self._loop.add_reader(socket.fileno(), self._drain, channel)

    def send(self, channel: Channel, parts: Sequence[bytes]) -> None:
        """Sign and send a message.

        Raises
        ------
        WireError
            A thousand messages wait already: the kernel takes none.
        """
        try:
            socket = self._sockets[channel]
            frames = [DELIMITER, self.signer.sign(parts), *parts]
            socket.send_multipart(frames, zmq.NOBLOCK, copy=sum(map(len, parts)) < 1 << 16)
        except KeyError as exc:
            raise WireError("garbage", f"nothing can be sent on {channel.name.lower()}") from exc
        except zmq.Again as exc:
            raise WireError("kernel_busy", "the kernel takes no more requests for now") from exc
        self._drain(channel)  # sending can swallow the edge that zmq's descriptor gives for what has arrived

    async def ask(
        self, kind: str, content: dict[str, Any], *, deadline_s: float, header: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Send a request of the agent's own on control and return the reply's content.

        Raises
        ------
        TimeoutError
            The kernel has not answered in ``deadline_s`` seconds.
        """
        made = request_header(kind) | (header or {})
        future: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._asked[made["msg_id"]] = future
        try:
            self.send(Channel.CONTROL, [json.dumps(made).encode(), b"{}", b"{}", json.dumps(content).encode()])
            return await asyncio.wait_for(future, deadline_s)
        finally:
            self._asked.pop(made["msg_id"], None)

    def close(self) -> None:
        """Close the sockets; what was asked stays unanswered."""
        for socket in self._sockets.values():
            self._loop.remove_reader(socket.fileno())
            socket.close(0)
        self._sockets.clear()
        for future in self._asked.values():
            future.cancel()

    def _drain(self, channel: Channel) -> None:
        while (socket := self._sockets.get(channel)) is not None and int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            parts = self.signer.opened(socket.recv_multipart(zmq.NOBLOCK))
            if parts is not None and not self._answers(channel, parts):
                self._on_message(channel, parts)

    def _answers(self, channel: Channel, parts: list[bytes]) -> bool:
        if channel is not Channel.CONTROL or not self._asked:
            return False
        future = self._asked.get(json.loads(parts[1]).get("msg_id"))
        if future is None:
            return False
        if not future.done():
            future.set_result(json.loads(parts[3]))
        return True


def request_header(kind: str, session: str = AGENT_SESSION) -> dict[str, Any]:
    """Return a fresh header for a message of type ``kind``."""
    return {
        "msg_id": uuid.uuid4().hex,
        "msg_type": kind,
        "session": session,
        "username": "kale",
        "date": datetime.now(UTC).isoformat(),
        "version": "5.4",
        "pid": os.getpid(),
    }
