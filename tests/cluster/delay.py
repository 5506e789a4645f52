"""A line that takes its time: ``python delay.py PORT TO_PORT MILLISECONDS`` holds bytes back so long, each way.

By threads that sleep to a moment: an event loop's clock has steps of a millisecond, of which a round trip would have two.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import sys
import threading
import time


def carry(source: socket.socket, sink: socket.socket, seconds: float) -> None:
    """Copy what comes, later; as much as is under way at once."""
    under_way: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def fill() -> None:
        data = b"-"
        while data:
            try:
                data = source.recv(1 << 16)
            except OSError:
                data = b""
            under_way.put((time.monotonic() + seconds, data))

    threading.Thread(target=fill, daemon=True).start()
    with contextlib.suppress(OSError):  # one end has hung up
        while True:
            due, data = under_way.get()
            time.sleep(max(0.0, due - time.monotonic()))
            if not data:
                break
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def main(port: int, to_port: int, milliseconds: float) -> None:
    """Serve for ever."""
    server = socket.create_server(("0.0.0.0", port), backlog=64)
    while True:
        here, _ = server.accept()
        there = socket.create_connection(("127.0.0.1", to_port))
        for one in (here, there):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for source, sink in ((here, there), (there, here)):
            threading.Thread(target=carry, args=(source, sink, milliseconds / 1e3), daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
