"""The words that manager and client exchange: JSON lines over an owner-only Unix socket.

The server speaks first, ``{"hello": {...}}``. A request ``{"id": n, "op": OP, ...}`` is answered once, by
``{"id": n, "ok": true, "result": {...}}`` or ``{"id": n, "ok": false, "error": {...}}``. A connection that
asked for ``events`` also gets ``{"event": {...}}`` lines, in order of their ``seq``. Unknown keys are passed
over by both sides; an unknown op is an error that names it. Owns names and framing only; no sockets.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from kale_magic.errors import KaleError, ManagerError, ProtocolVersionError

PROTOCOL_VERSION = 1
MAX_LINE_BYTES = 256 << 20  # a sweep of 10,000 points with its code is a few MB

SUBMIT = "submit"
STATUS = "status"
RUNS = "runs"
EVENTS = "events"
WHERE = "where"
FIND = "find"
CANCEL = "cancel"
CONTINUE = "continue"
STOP = "stop"
RELEASE = "release"
HOLD = "hold"
SURVEY = "survey"
END = "end"
FILES = "files"
READ = "read"
SEARCH = "search"
FREEZE = "freeze"
POOL_OPEN = "pool_open"
POOL_LIST = "pool_list"
POOL_CLOSE = "pool_close"
REST = "rest"
QUEUE = "queue"
MANAGER = "manager"
SHUTDOWN = "shutdown"
OPS = (
    SUBMIT, STATUS, RUNS, EVENTS, WHERE, FIND, CANCEL, STOP, RELEASE, HOLD, FREEZE, CONTINUE, SURVEY, FILES, READ, SEARCH, QUEUE, MANAGER, SHUTDOWN,
    POOL_OPEN, POOL_LIST, POOL_CLOSE, REST, END,
)  # fmt: skip


class Hello(NamedTuple):
    """What a manager says of itself when a client connects."""

    protocol: int
    version: str
    pid: int
    host: str
    started_at: str

    def to_wire(self) -> dict[str, Any]:
        """Return the first line of a connection."""
        return {"hello": self._asdict()}


def one_version(host: str = "") -> str:
    """Return what to do so that the manager, of a login host if one is given, is of this version."""
    if host:
        return f"To have one version: jupyter kale doctor --host {host} --install, then jupyter kale manager stop --host {host}. Jobs go on."
    return "Stop it with: jupyter kale manager stop. Jobs go on, and the next command starts a manager of this version."


def read_hello(message: dict[str, Any], *, version: str, host: str = "") -> Hello:
    """Check the first line of a connection; ``version`` is the client's own and ``host`` the manager's, for the message.

    Raises
    ------
    ProtocolVersionError
        The manager speaks another protocol.
    ManagerError
        Whatever answered is no manager.
    """
    hello = message.get("hello")
    if not isinstance(hello, dict) or "protocol" not in hello:
        raise ManagerError(f"What answers at the manager's address is no Kale manager: {str(message)[:80]!r}.")
    if hello["protocol"] != PROTOCOL_VERSION:
        raise ProtocolVersionError(
            f"The running manager is Kale {hello.get('version', '?')} (protocol {hello['protocol']}), "
            f"this is Kale {version} (protocol {PROTOCOL_VERSION}).",
            one_version(host),
        )
    return Hello(
        int(hello["protocol"]),
        str(hello.get("version", "?")),
        int(hello.get("pid", 0)),
        str(hello.get("host", "?")),
        str(hello.get("started_at", "")),
    )


def encode(message: dict[str, Any]) -> bytes:
    """Return a message as one line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """Read one line; raises ManagerError if it is no JSON object."""
    try:
        message = json.loads(line)
    except ValueError as exc:
        raise ManagerError(f"A line between client and manager is not JSON: {line[:80]!r}.") from exc
    if not isinstance(message, dict):
        raise ManagerError(f"A line between client and manager is no JSON object: {line[:80]!r}.")
    return message


def request(number: int, op: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Return a request."""
    return {"id": number, "op": op, **fields}


class Encoded(NamedTuple):
    """A result that is JSON text already: a status of 1,000 steps is not written anew for every look at it."""

    text: str


def encode_answer(number: object, result: Any) -> bytes:
    """Return the answer to a request that went well, as one line."""
    if isinstance(result, Encoded):
        return f'{{"id":{json.dumps(number)},"ok":true,"result":{result.text}}}\n'.encode()
    return encode({"id": number, "ok": True, "result": result})


def refusal(number: object, error: KaleError) -> dict[str, Any]:
    """Return the answer to a request that failed."""
    return {"id": number, "ok": False, "error": error.to_wire()}
