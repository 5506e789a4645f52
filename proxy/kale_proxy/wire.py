"""The frames between a visitor and a step's agent: the one place that knows their bytes.

A frame is ``u32 length | u8 kind | payload``, big endian, ``length`` that of the payload. Everything
that can be wrong with bytes from outside is a :class:`WireError` here; nothing else is raised for
them. Both sides use this file: the agent (asyncio) and the visitor (blocking, standard library
only). The protocol itself, with its handshake and limits, is written down in ``proxy/README.rst``.
"""

from __future__ import annotations

import hmac
import json
import re
import struct
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PROTOCOL = 2
MAX_FRAME = 256 << 20
MAX_JSON = 1 << 20
MAX_GREETING = 64 << 10  # until the other side has proved the key
SOCKET_NAME = "a"
CONNECTION_NAME = "kernel.json"
CLIENT_ID = re.compile(r"[A-Za-z0-9-]{8,64}")

_HEAD = struct.Struct(">IB")
_MESSAGE = struct.Struct(">BQH")
_SIZE = struct.Struct(">I")
_ACK = struct.Struct(">QQ")


class Kind(IntEnum):
    """What a frame is; numbers are part of the protocol."""

    HELLO = 1
    CHALLENGE = 2
    AUTH = 3
    WELCOME = 4
    MSG = 5
    ACK = 6
    PING = 7
    PONG = 8
    CONTROL = 9
    END = 10
    ERROR = 11
    BYE = 12
    GAP = 13


class Channel(IntEnum):
    """A Jupyter channel inside a MSG frame."""

    SHELL = 0
    IOPUB = 1
    STDIN = 2
    CONTROL = 3


_JSON_KINDS = frozenset(
    {Kind.HELLO, Kind.CHALLENGE, Kind.AUTH, Kind.WELCOME, Kind.CONTROL, Kind.END, Kind.ERROR, Kind.GAP}
)


class WireError(Exception):
    """Bytes that are not of this protocol; ``code`` is one word for the ERROR frame that answers them."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class AgentGone(Exception):  # noqa: N818 - what happened is that it went, which need not be an error
    """The stream to a step's agent ended or was never there; the text is one sentence for a person.

    ``ended`` says whether the step's kernel is known to be over, so that coming back is in vain.
    """

    def __init__(self, message: str, *, ended: bool = False) -> None:
        super().__init__(message)
        self.ended = ended


class AgentRefused(AgentGone):
    """The agent answered, and declined; ``code`` is the one word of its ERROR frame."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Message(NamedTuple):
    """One Jupyter message: ``parts`` are header, parent_header, metadata, content, then buffers, as raw bytes.

    ``seq`` is the journal's number on iopub; on the other channels the agent numbers its replies to
    one client from 1, and a client writes 0.
    """

    channel: Channel
    seq: int
    parts: list[bytes]


def frame(kind: Kind, payload: bytes = b"") -> bytes:
    """Return the bytes of a frame."""
    return _HEAD.pack(len(payload), kind) + payload


def json_frame(kind: Kind, data: dict[str, Any]) -> bytes:
    """Return the bytes of a frame whose payload is a JSON object."""
    return frame(kind, json.dumps(data).encode())


def message_size(parts: Sequence[bytes]) -> int:
    """Return the length of the payload that :func:`message_frame` would make of ``parts``."""
    return _MESSAGE.size + sum(_SIZE.size + len(part) for part in parts)


def message_frame(channel: Channel, seq: int, parts: Sequence[bytes]) -> bytes:
    """Return the bytes of a MSG frame."""
    chunks = [_HEAD.pack(message_size(parts), Kind.MSG), _MESSAGE.pack(channel, seq, len(parts))]
    for part in parts:
        chunks += (_SIZE.pack(len(part)), part)
    return b"".join(chunks)


def ack_frame(seq: int, replies: int) -> bytes:
    """Return an ACK: iopub is seen up to ``seq``, replies up to number ``replies``."""
    return frame(Kind.ACK, _ACK.pack(seq, replies))


def parse_json(payload: bytes) -> dict[str, Any]:
    """Return the JSON object of a frame.

    Raises
    ------
    WireError
        It is none.
    """
    try:
        data = json.loads(payload)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise WireError("garbage", "a frame that should hold a JSON object does not")
    return data


def parse_message(payload: bytes) -> Message:
    """Return the message of a MSG frame.

    Raises
    ------
    WireError
        Lengths don't fit, there are fewer than the four parts, or the channel is unknown.
    """
    try:
        channel, seq, count = _MESSAGE.unpack_from(payload)
        parts: list[bytes] = []
        at = _MESSAGE.size
        for _ in range(count):
            (size,) = _SIZE.unpack_from(payload, at)
            at += _SIZE.size + size
            parts.append(payload[at - size : at])
        known = Channel(channel)
    except (struct.error, ValueError) as exc:
        raise WireError("garbage", f"a message frame is cut short or names an unknown channel ({exc})") from exc
    if at != len(payload) or count < 4:
        raise WireError("garbage", "the parts of a message don't fill its frame")
    return Message(known, seq, parts)


def parse_ack(payload: bytes) -> tuple[int, int]:
    """Return the two numbers of an ACK; raises WireError as :func:`parse_message`."""
    if len(payload) != _ACK.size:
        raise WireError("garbage", "an acknowledgement has the wrong length")
    seq, replies = _ACK.unpack(payload)
    return seq, replies


class Decoder:
    """Cuts a byte stream into frames; holds at most one unfinished frame.

    Parameters
    ----------
    limit : int
        Longest payload taken, in bytes; ``limit`` may be raised once the other side is known.
    """

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self.limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> Iterator[tuple[Kind, bytes]]:
        """Add bytes and yield each frame that is complete.

        Raises
        ------
        WireError
            A frame is longer than allowed or of unknown kind; frames before it have been yielded.
        """
        buffer = self._buffer
        buffer += data
        at = 0
        try:
            while len(buffer) - at >= _HEAD.size:
                size, number = _HEAD.unpack_from(buffer, at)
                kind = self._checked(number, size)
                end = at + _HEAD.size + size
                if end > len(buffer):
                    break
                payload = bytes(memoryview(buffer)[at + _HEAD.size : end])
                at = end
                yield kind, payload
        finally:
            del buffer[:at]

    def _checked(self, number: int, size: int) -> Kind:
        try:
            kind = Kind(number)
        except ValueError as exc:
            raise WireError("garbage", f"frames of kind {number} are not of this protocol") from exc
        limit = min(self.limit, MAX_JSON) if kind in _JSON_KINDS else self.limit
        if size > limit:
            raise WireError("oversized", f"a {kind.name} frame of {size} bytes; at most {limit} are taken here")
        return kind


def client_proof(key: bytes, nonce: str, hello: bytes) -> str:
    """Return what a client answers to the agent's ``nonce``: it knows the kernel's key and sent this HELLO."""
    return hmac.digest(key, b"kale client\0" + nonce.encode() + b"\0" + hello, "sha256").hex()


def agent_proof(key: bytes, nonce: str, hello: bytes) -> str:
    """Return the agent's own proof for a client, whose nonce is in ``hello``."""
    return hmac.digest(key, b"kale agent\0" + nonce.encode() + b"\0" + hello, "sha256").hex()


def is_same(given: object, expected: str) -> bool:
    """Compare two proofs in constant time."""
    return isinstance(given, str) and hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())
