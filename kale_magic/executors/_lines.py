"""A stream of lines, as asyncio gives it in pieces: the supervisors' and the pilots' protocol."""

from __future__ import annotations

import asyncio

_LINE_MAX = 64 << 20


class LineStream(asyncio.Protocol):
    """Splits what comes into lines. A line that never ends is hung up on."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = b""

    def line_received(self, line: bytes) -> None:
        """Take one line, without its end."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (asyncio calls it)."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Split lines and pass them on (asyncio calls it)."""
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        if len(self._buffer) > _LINE_MAX and self._transport is not None:
            self._transport.abort()
        for line in lines:
            self.line_received(line)
