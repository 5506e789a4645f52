"""One connection to the manager's socket: lines out, lines in, a deadline on each. Used by the client alone."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any

from kale_magic import protocol
from kale_magic.errors import ManagerUnavailable, from_wire
from kale_magic.version import __version__

if TYPE_CHECKING:
    from pathlib import Path



class Connection:
    """One connection to the manager: a socket, and the lines read from it. Not for two threads at once.

    Parameters
    ----------
    address : Path
        The manager's socket, for messages also where ``stream`` is given.
    timeout : float
        Longest wait for the connection and the greeting, in seconds.
    stream : socket.socket, optional
        Connected already, by way of another host.
    host : str
        The login host that is meant, for messages.

    Raises
    ------
    ManagerUnavailable
        Nobody listens there, or does not answer in time.
    ProtocolVersionError
        The manager is of another version.
    """

    def __init__(self, address: Path, timeout: float, stream: socket.socket | None = None, host: str = "") -> None:
        self._buffer = bytearray()
        self._socket = stream or socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._number = 0
        self.login = ""  # the name by which ssh reached the manager's host, where that has our home
        try:
            self._socket.settimeout(timeout)
            if stream is None:
                self._socket.connect(os.fspath(address))
            self.hello = protocol.read_hello(self.read(timeout), version=__version__, host=host)
        except OSError as exc:
            self.close()
            raise ManagerUnavailable(f"No manager answers at {address} ({exc.strerror or exc}).") from exc
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Return the socket's descriptor, for select."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def __del__(self) -> None:
        # A Run or Workflow that a program simply drops is no leak worth a ResourceWarning.
        self._socket.close()

    def ask(self, op: str, fields: dict[str, Any], timeout: float) -> Any:
        """Send one request and return its result; raises what the manager says, or OSError/EOFError."""
        deadline = time.monotonic() + timeout
        self._number += 1
        self._socket.settimeout(timeout)
        self._socket.sendall(protocol.encode(protocol.request(self._number, op, fields)))
        while True:
            message = self.read(deadline - time.monotonic())
            if message.get("id") == self._number:
                break
        if message.get("ok"):
            return message.get("result")
        raise from_wire(message.get("error") or {})

    def read(self, timeout: float | None) -> dict[str, Any]:
        """Return the next line; raises TimeoutError, or EOFError when the manager hung up."""
        deadline = None if timeout is None else time.monotonic() + timeout
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if deadline is not None and (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError("timed out")
            self._socket.settimeout(None if deadline is None else left)
            chunk = self._socket.recv(1 << 18)
            if not chunk:
                raise EOFError("the manager hung up")
            self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return protocol.decode(line)
