"""Asks a running ssh master for forwards over its control socket, which saves a process of ssh for each.

Speaks version 4 of OpenSSH's multiplexing protocol (PROTOCOL.mux in its sources), the part that ``ssh -O check``,
``forward`` and ``cancel`` use. What is not understood is a MuxError; the caller then has ssh do it.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

_VERSION = 4
_HELLO, _CHECK, _OPEN, _CLOSE = 0x00000001, 0x10000004, 0x10000006, 0x10000007
_OK, _DENIED, _FAILED, _ALIVE = 0x80000001, 0x80000002, 0x80000003, 0x80000005
_LOCAL = 1
_UNIX_PORT = 0xFFFFFFFE  # stands for the port where an address is a path
_MAX_BYTES = 1 << 16
_U32 = struct.Struct(">I")
Goal = str | tuple[str, int]


class MuxError(Exception):
    """The master does not answer, refuses, or speaks something else."""


class Mux:
    """A client of the master whose control socket is ``path``; use as a context manager.

    Raises
    ------
    MuxError
        Nothing listens there, or not in this version.
    """

    def __init__(self, path: Path, deadline: float) -> None:
        self._deadline = deadline
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            self._socket.connect(os.fspath(path))
            self._send(_HELLO, _VERSION)
            kind, body = self._receive()
        except OSError as exc:
            self._socket.close()
            raise MuxError(str(exc)) from exc
        if kind != _HELLO or body[:4] != _U32.pack(_VERSION):
            self._socket.close()
            raise MuxError("the master speaks another version")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def check(self) -> None:
        """Ask whether the master is alive; raises MuxError if not."""
        self._ask(_CHECK, _ALIVE)

    def forward(self, here: str, there: Goal) -> None:
        """Have the Unix socket ``here`` made, and joined to a Unix socket of the host, or to a (host, port) seen from there."""
        self._ask(_OPEN, _OK, *_forward(here, there))

    def cancel(self, here: str, there: Goal) -> None:
        """End the forward; streams that were made through it go on."""
        self._ask(_CLOSE, _OK, *_forward(here, there))

    def _ask(self, kind: int, wanted: int, *fields: int | str) -> None:
        try:
            self._send(kind, 1, *fields)
            got, body = self._receive()
        except OSError as exc:
            raise MuxError(str(exc)) from exc
        if got != wanted:
            words = body[8:].decode("utf-8", "replace") if got in {_DENIED, _FAILED} else f"an answer of kind {got:#x}"
            raise MuxError(words or "refused")

    def _send(self, kind: int, *fields: int | str) -> None:
        packet = _U32.pack(kind)
        for field in fields:
            packet += _U32.pack(field) if isinstance(field, int) else _U32.pack(len(field.encode())) + field.encode()
        self._socket.settimeout(max(0.001, self._deadline - time.monotonic()))
        self._socket.sendall(_U32.pack(len(packet)) + packet)

    def _receive(self) -> tuple[int, bytes]:
        size = _U32.unpack(self._read(4))[0]
        if not 4 <= size <= _MAX_BYTES:
            raise MuxError("a packet of impossible length")
        packet = self._read(size)
        return _U32.unpack_from(packet)[0], packet[4:]

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            self._socket.settimeout(max(0.001, self._deadline - time.monotonic()))
            more = self._socket.recv(size - len(data))
            if not more:
                raise MuxError("the master hung up")
            data += more
        return data


def _forward(here: str, there: Goal) -> tuple[int | str, ...]:
    host, port = (there, _UNIX_PORT) if isinstance(there, str) else there
    return _LOCAL, here, _UNIX_PORT, host, port
