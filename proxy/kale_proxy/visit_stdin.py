"""One stdin socket for the step and all visitors: each gets the answers of its own client.

ipykernel lets one cell ask at a time and takes the next message on the socket for the answer. Here
several may wait, in several threads; an answer belongs to the client (the routing identity) that sent it.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from typing import Any

from .visit_context import current

_TURN_S = 0.01
_LET_OTHERS_S = 0.001


class InputDesk:
    """Asks clients for a line of input; used by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # a zmq socket is for one thread at a time
        self._boxes: dict[bytes, deque[str]] = {}

    def ask(self, kernel: Any, prompt: str, ident: Any, parent: dict[str, Any], *, is_password: bool) -> str:
        """Send ``input_request`` to the client ``ident`` and wait for its answer.

        Raises
        ------
        EOFError
            The person ended the input.
        KeyboardInterrupt
            The cell was interrupted.
        """
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        visit = current()
        if visit is None:
            answer = self._ask(kernel, prompt, ident, parent, is_password)
        else:
            with visit.window.shield():  # an interrupt amid this would leave the step's socket locked
                answer = self._ask(kernel, prompt, ident, parent, is_password)
        if answer == "\x04":
            raise EOFError
        return answer

    def _ask(self, kernel: Any, prompt: str, ident: Any, parent: dict[str, Any], is_password: bool) -> str:
        client = bytes(ident[0] if isinstance(ident, list) else ident)
        box = self._boxes.setdefault(client, deque())
        with self._lock:
            self._sort_mail(kernel)
            box.clear()  # answers to a question that was given up
            content = {"prompt": prompt, "password": is_password}
            kernel.session.send(kernel.stdin_socket, "input_request", content, parent, ident=ident)
        visit = current()
        while not box:
            if visit is not None:
                visit.window.check()
            with self._lock:
                if not box and kernel.stdin_socket.poll(_TURN_S * 1000):
                    self._sort_mail(kernel)
            time.sleep(_LET_OTHERS_S)  # a lock let go is taken again at once by the same thread
        return box.popleft()

    def _sort_mail(self, kernel: Any) -> None:
        while True:
            try:
                idents, message = kernel.session.recv(kernel.stdin_socket)
            except ValueError:  # a bad signature, or a message seen before
                kernel.log.warning("kale: an invalid message on the stdin channel was dropped")
                continue
            if message is None:
                return
            box = self._boxes.get(bytes(idents[0]))
            if box is not None:
                box.append(str(message["content"].get("value", "")))
