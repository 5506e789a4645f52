"""The stream to the pilot on one node of a pool, and what is known of the supervisors at its other end.

How the stream gets there is :mod:`kale_proxy.tunnel`'s business: this machine, ssh, or srun into the allocation.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any, Protocol

from kale_magic.executors._lines import LineStream
from kale_proxy.tunnel import dialer
from kale_proxy.tunnel.errors import TunnelError

if TYPE_CHECKING:
    from kale_magic.executors._pool_launch import Launch
    from kale_proxy.tunnel.route import Route

_DIAL_S = 30.0


class Listener(Protocol):
    """Who is told what comes."""

    def heard(self, link: Link, key: str, message: dict[str, Any]) -> None:
        """Take what the supervisor ``key`` says, or the pilot itself, whose key is ``-``."""

    def hung_up(self, link: Link) -> None:
        """Take the end of a stream that had begun."""


class Link(LineStream):
    """One stream. ``open_keys`` are the supervisors that have said hello, ``is_open`` says whether the pilot has."""

    def __init__(self, node: str, listener: Listener) -> None:
        super().__init__()
        self.node = node
        self.way = ""
        self.is_open = False
        self.open_keys: set[str] = set()
        self.expected: set[str] = set()  # supervisors that are there and have not said hello yet
        self._listener = listener
        self._pending: dict[str, dict[str, bytes]] = {}  # what waits for a supervisor that is being started

    async def connect(self, route: Route) -> str:
        """Connect; return why not, empty if it is."""
        loop = asyncio.get_running_loop()
        try:
            sock, self.way = await asyncio.to_thread(lambda: dialer.default().open(route, time.monotonic() + _DIAL_S))
            sock.setblocking(False)
            await loop.create_connection(lambda: self, sock=sock)
        except (TunnelError, OSError) as exc:
            return str(exc)
        return ""

    def start(self, launch: Launch, uuid: str, spec_json: str) -> None:
        """Hand a job over to a supervisor, which is started if it is not there."""
        line = f'{{"op":"start","spec":{spec_json}}}\n'.encode()
        if launch.key in self.open_keys:
            self._write(launch.key, line)
            return
        is_first = launch.key not in self._pending
        self._pending.setdefault(launch.key, {})[uuid] = line
        if is_first:
            self._write("-", json.dumps({"op": "open", "key": launch.key, "argv": launch.argv, "environ": launch.environ}).encode() + b"\n")

    def withdraw(self, key: str, uuid: str) -> None:
        """Take back a job that waits for its supervisor to start."""
        self._pending.get(key, {}).pop(uuid, None)

    def tell(self, key: str, message: dict[str, Any]) -> None:
        """Say something to a supervisor that has said hello."""
        if key in self.open_keys:
            self._write(key, json.dumps(message).encode() + b"\n")

    def end(self) -> None:
        """Ask the pilot to end, with all that it runs."""
        self._write("-", b'{"op":"end"}\n')

    def close(self) -> None:
        """Hang up; what runs goes on."""
        if self._transport is not None:
            self._transport.close()

    def _write(self, key: str, line: bytes) -> None:
        if self._transport is not None:
            self._transport.write(key.encode() + b" " + line)

    # -- asyncio.Protocol --------------------------------------------------------------------------------

    def line_received(self, line: bytes) -> None:
        """Take one thing that a supervisor, or the pilot, says."""
        key, _, body = line.partition(b" ")
        try:
            message = json.loads(body)
        except ValueError:
            return  # what it told is in the step's folder
        if isinstance(message, dict):
            self._take(key.decode(errors="replace"), message)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Tell the listener (asyncio calls it)."""
        self._transport, self.is_open = None, False
        self.open_keys.clear()
        self._listener.hung_up(self)

    def _take(self, key: str, message: dict[str, Any]) -> None:
        kind = message.get("ev")
        if key == "-" and kind == "pilot":
            self.is_open = True
            self.expected = set(map(str, message.get("keys") or ()))
        elif key == "-" and kind == "gone":
            self.open_keys.discard(str(message.get("key")))
            self.expected.discard(str(message.get("key")))
            self._pending.pop(str(message.get("key")), None)
        elif kind == "hello":
            self.open_keys.add(key)
            self.expected.discard(key)
        self._listener.heard(self, key, message)
        if kind == "hello":
            for line in self._pending.pop(key, {}).values():
                self._write(key, line)
