"""The manager's socket: one owner-only Unix socket, JSON lines, one answer per request, a stream of events.

A connection's requests are answered in order. A client that does not read its events is hung up on when too
much has piled up: it comes back and asks for what came after the last one it saw.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from typing import TYPE_CHECKING, Any

from kale_magic import protocol
from kale_magic.errors import KaleError, ManagerError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kale_magic.manager.requests import Requests
    from kale_magic.manager.service import Service
    from kale_magic.model.events import Event

_log = logging.getLogger(__name__)
_REPLAY = 2_000  # events per piece
_MAX_BEHIND_BYTES = 32 << 20


class Server:
    """Listens, and serves every client until it hangs up.

    Parameters
    ----------
    service, requests : Service, Requests
        Who does the work.
    hello : Hello
        The greeting.
    shutdown : callable
        Called when a client asks the manager to end.
    """

    def __init__(
        self, service: Service, requests: Requests, hello: protocol.Hello, shutdown: Callable[[], None]
    ) -> None:
        self._service, self._requests, self._hello, self._shutdown = service, requests, hello, shutdown
        self._clients: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._path: Path | None = None
        self._inode = 0

    @property
    def client_count(self) -> int:
        """How many clients are connected."""
        return len(self._clients)

    async def open(self, path: Path) -> None:
        """Listen; an old socket in the way is removed (the caller holds the manager's lock)."""
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        mask = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(
                self._serve, os.fspath(path), limit=protocol.MAX_LINE_BYTES, backlog=128
            )
        finally:
            os.umask(mask)
        self._path, self._inode = path, path.stat().st_ino

    async def reopen(self) -> None:
        """Listen again if the socket is gone or another's: whoever cleans /tmp takes it from a living manager."""
        if self._server is None or self._path is None:
            return
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                return
        self._server.close()
        await self.open(self._path)
        _log.info("serves at %s again, where the socket was gone", self._path)

    async def close(self) -> None:
        """Stop listening and hang up."""
        if self._server is not None:
            self._server.close()
        if self._path is not None:
            with contextlib.suppress(OSError):
                if self._path.stat().st_ino == self._inode:  # a later manager's is not ours to remove
                    self._path.unlink()
        for task in list(self._clients):
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if _peer_uid(writer) != os.getuid():
            writer.close()
            return
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        client = _Client(self._service, self._requests, self._shutdown, writer)
        try:
            writer.write(protocol.encode(self._hello.to_wire()))
            while line := await reader.readline():
                await client.answer(line)
        except (ConnectionError, ValueError, asyncio.LimitOverrunError, asyncio.CancelledError) as exc:
            _log.debug("a client was hung up on: %s", exc)  # close() alone cancels, and asyncio would log a traceback
        finally:
            client.close()
            self._clients.discard(task)
            writer.close()


class _Client:
    """One connection."""

    def __init__(
        self, service: Service, requests: Requests, shutdown: Callable[[], None], writer: asyncio.StreamWriter
    ) -> None:
        self._service, self._requests, self._shutdown, self._writer = service, requests, shutdown, writer
        self._run: str | None = None
        self._seen = 0

    def close(self) -> None:
        self._service.unlisten(self._tell)

    async def answer(self, line: bytes) -> None:
        number: object = None
        try:
            message = protocol.decode(line)
            number = message.get("id")
            op = str(message.get("op"))
            if op == protocol.EVENTS:
                await self._stream(number, message)
                return
            result = {} if op == protocol.SHUTDOWN else await self._requests.handle(op, message)
            reply = protocol.encode_answer(number, result)
            if op == protocol.SHUTDOWN:
                self._shutdown()
        except KaleError as exc:
            reply = protocol.encode(protocol.refusal(number, exc))
        except Exception as exc:  # the edge of a request: one client's bad luck must not end everybody's manager
            _log.exception("a request failed, of %d bytes", len(line))  # which may hold what is nobody's business
            error = ManagerError(
                f"The manager failed at this request: {type(exc).__name__}: {exc}",
                "Its log has the details: jupyter kale manager logs.",
            )
            reply = protocol.encode(protocol.refusal(number, error))
        self._writer.write(reply)
        await self._writer.drain()

    async def _stream(self, number: object, fields: dict[str, Any]) -> None:
        """Answer ``events``: what was, then what comes."""
        since, run = fields.get("since", 0), fields.get("run")
        if not isinstance(since, int) or (run is not None and not isinstance(run, str)):
            raise UsageError("events: since is a number and run a text.")
        service = self._service
        self.close()
        await service.committed()  # so that memory and store are at the same number
        missed = max(0, service.store.first_seq() - 1 - since) if since < service.seq else 0
        result = {"seq": service.seq, "missed": missed}
        self._writer.write(protocol.encode_answer(number, result))
        self._run, self._seen = run, since
        while True:
            events = service.store.events(self._seen, run, _REPLAY)
            for event in events:
                self._writer.write(protocol.encode({"event": event.to_wire()}))
            if len(events) < _REPLAY:
                break
            self._seen = events[-1].seq
            await self._writer.drain()
        self._seen = service.seq  # no await since the last look: nothing can have come in between
        service.listen(self._tell)
        await self._writer.drain()

    def _tell(self, events: list[Event]) -> None:
        lines = [
            protocol.encode({"event": event.to_wire()})
            for event in events
            if event.seq > self._seen and self._run in {None, event.run}
        ]
        self._seen = events[-1].seq
        transport = self._writer.transport
        if lines and not transport.is_closing():
            self._writer.write(b"".join(lines))
            if transport.get_write_buffer_size() > _MAX_BEHIND_BYTES:
                transport.abort()


def _peer_uid(writer: asyncio.StreamWriter) -> int:
    connection = writer.get_extra_info("socket")
    return int(struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1])
