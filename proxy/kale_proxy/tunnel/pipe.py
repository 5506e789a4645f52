"""Joins stdin and stdout to a Unix socket: what ssh or srun runs on a host where sockets can't be forwarded.

Its text is sent along as the argument of ``python3 -c``, so nothing need be installed there. What a login shell prints
before it is passed over by whoever reads, up to MARK. Usage: ``python3 -c TEXT SOCKET MARK``.
"""

import contextlib
import os
import socket
import sys
import threading


def main(path: str, mark: str) -> None:
    """Copy both ways, neither waiting for the other, until the socket's end."""
    sock = socket.socket(socket.AF_UNIX)
    os.chdir(os.path.dirname(path))  # a path of any length will do
    sock.connect(os.path.basename(path))
    os.write(1, mark.encode())
    threading.Thread(target=take, args=(sock,), daemon=True).start()
    with contextlib.suppress(OSError):
        while data := sock.recv(1 << 18):
            while data:
                data = data[os.write(1, data) :]


def take(sock: socket.socket) -> None:
    """Copy stdin; its end closes that half."""
    with contextlib.suppress(OSError):
        while data := os.read(0, 1 << 18):
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    main(*sys.argv[1:])
