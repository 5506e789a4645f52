"""Joins stdin and stdout to a Unix socket: what ssh or srun runs on a host where sockets can't be forwarded.

Its text is sent along as the argument of ``python3 -c``, so nothing need be installed there. What a login shell prints
before it is passed over by whoever reads, up to MARK. Usage: ``python3 -c TEXT SOCKET MARK``.
"""

import _socket  # the module socket alone takes longer to load than all the rest
import _thread
import os
import sys


def main(path: str, mark: str) -> None:
    """Copy both ways, neither waiting for the other, until the socket's end."""
    sock = _socket.socket(_socket.AF_UNIX)
    os.chdir(os.path.dirname(path))  # a path of any length will do
    sock.connect(os.path.basename(path))
    os.write(1, mark.encode())
    _thread.start_new_thread(take, (sock,))
    try:
        while data := sock.recv(1 << 18):
            while data:
                data = data[os.write(1, data) :]
    except OSError:
        return


def take(sock: _socket.socket) -> None:
    """Copy stdin; its end closes that half."""
    try:
        while data := os.read(0, 1 << 18):
            sock.sendall(data)
        sock.shutdown(_socket.SHUT_WR)
    except OSError:
        return


if __name__ == "__main__":
    main(*sys.argv[1:])
