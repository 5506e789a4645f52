"""A byte stream as ZeroMQ messages, with a window: what the other side has not taken yet is bounded.

Messages are ``D`` and bytes, ``A`` and how many bytes were taken (u32), ``E`` at the stream's end, ``P`` to show that one is
there. Both ends of a :mod:`kale_proxy.door` speak it.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

WINDOW = 4 << 20
CHUNK = 256 << 10
MOST = CHUNK + 1024  # of a message, with what CURVE adds
PING = b"P"
END = b"E"
_U32 = struct.Struct(">I")


class Flow:
    """One stream: between a connected socket, which it owns and makes non-blocking, and ``send``.

    Parameters
    ----------
    sock : socket.socket
        One end.
    send : callable
        Takes a message for the other end, and never waits: the window bounds what there is.
    """

    def __init__(self, sock: socket.socket, send: Callable[[bytes], object]) -> None:
        sock.setblocking(False)
        self.descriptor = sock.fileno()
        self.is_over = False
        self._socket = sock
        self._send = send
        self._on_their_way = 0
        self._due: deque[memoryview] = deque()
        self._is_ending = False

    @property
    def may_read(self) -> bool:
        """Whether the other side takes more."""
        return not self.is_over and not self._is_ending and self._on_their_way < WINDOW

    @property
    def wants_write(self) -> bool:
        """Whether there is something for the socket."""
        return bool(self._due) and not self.is_over

    def read(self) -> None:
        """Take what the socket has and send it; its end ends the stream."""
        try:
            data = self._socket.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._send(END)
            self.close()
            return
        self._on_their_way += len(data)
        self._send(b"D" + data)

    def take(self, message: bytes) -> None:
        """Take a message of the other end."""
        kind = message[:1]
        if kind == b"D":
            self._due.append(memoryview(message)[1:])
            self.write()
        elif kind == b"A" and len(message) == 1 + _U32.size:
            self._on_their_way -= _U32.unpack_from(message, 1)[0]
        elif kind == END:
            self.end()

    def write(self) -> None:
        """Give the socket what it takes, and tell the other side how much that was."""
        taken = 0
        try:
            while self._due:
                part = self._due.popleft()
                count = self._socket.send(part)
                taken += count
                if count < len(part):
                    self._due.appendleft(part[count:])
        except BlockingIOError:
            self._due.appendleft(part)
        except OSError:
            self._send(END)
            self.close()
            return
        if taken:
            self._send(b"A" + _U32.pack(taken))
        if self._is_ending and not self._due:
            self.close()

    def end(self) -> None:
        """End the stream here when the socket has taken what has come; nothing comes any more."""
        if not self._is_ending:
            self._is_ending = True
            self.write()

    def close(self) -> None:
        """End the stream here."""
        self.is_over = True
        self._socket.close()
