"""The ports of a connection file, listened on at once: before what answers there has been loaded.

A front end connects as soon as it has started its kernel's process, and libzmq tries again only 100 to 200 ms after a port
was found closed (``ZMQ_RECONNECT_IVL`` and its jitter). A kernel that binds when its modules are loaded makes it
wait twice; one that listens first is found by the first try, and the kernel of the system keeps what comes until then.
Light: it loads nothing but the standard library's sockets.
"""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PORTS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
_BACKLOG = 100  # ZMQ_BACKLOG's default


def listen(file: Path) -> dict[str, int]:
    """Return the descriptors of listening sockets by the ports' names in a connection file, for ``ZMQ_USE_FD``.

    Those that can't be listened on are left out, and so are all of a file that can't be read, of a transport other than
    tcp, and of an address that is no IPv4 number: whoever binds them says what is wrong.
    """
    found: dict[str, int] = {}
    try:
        info = json.loads(file.read_bytes())
        if info["transport"] != "tcp":
            return found
        socket.inet_pton(socket.AF_INET, info["ip"])
        wanted = [(name, info[name]) for name in PORTS if info[name] > 0]
    except (OSError, ValueError, KeyError, TypeError):
        return found
    for name, port in wanted:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((info["ip"], port))
            listener.listen(_BACKLOG)
        except (OSError, OverflowError):
            listener.close()
        else:
            found[name] = listener.detach()
    return found
