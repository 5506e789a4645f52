"""The blocking byte stream under a visitor: finding the agent, shaking hands, frames with deadlines.

Standard library only. What does not come in time is a ``TimeoutError`` and leaves the stream whole; any
other failure ends it, and every later use says why.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from kale_proxy.wire import (
    CONNECTION_NAME,
    PROTOCOL,
    SOCKET_NAME,
    AgentGone,
    AgentRefused,
    Decoder,
    Kind,
    WireError,
    agent_proof,
    client_proof,
    frame,
    is_same,
    json_frame,
    parse_json,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kale_proxy.tunnel.route import Reach

_READ_BYTES = 256 << 10
_RETRY_S = 0.02
_LAST_WORDS_S = 0.05
_MAX_WAIT_S = 86400.0  # poll(2) counts milliseconds in an int
_SILENT = "its code may be in one long call that holds the interpreter, or the process is frozen"


class Stream:
    """Frames over a blocking socket. A failure of any kind is final.

    Attributes
    ----------
    on_wait : callable or None
        Called by :meth:`read` when it is about to wait for more.
    """

    on_wait: Callable[[], None] | None = None

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._decoder = Decoder()
        self._frames: Iterator[tuple[Kind, bytes]] = iter(())
        self._sending = threading.Lock()
        self._why: AgentGone | None = None

    def send(self, data: bytes, deadline: float) -> None:
        """Send whole frames; from any thread. What did not go out whole ends the stream."""
        with self._sending:
            self._check()
            try:
                self._socket.settimeout(min(_MAX_WAIT_S, max(0.001, deadline - time.monotonic())))
                self._socket.sendall(data)
            except TimeoutError as exc:
                raise self.fail(AgentGone("The step's agent takes nothing: it hangs or is overloaded.")) from exc
            except OSError as exc:
                raise self._last_words(exc) from exc
            except BaseException:  # KeyboardInterrupt: perhaps half a frame is out
                self.fail(AgentGone("The connection to the agent was given up in the middle of a request."))
                raise

    def read(self, deadline: float) -> tuple[Kind, bytes]:
        """Return the next frame; END and ERROR are raised as AgentGone; TimeoutError leaves the stream whole."""
        while True:
            self._check()
            try:
                for kind, payload in self._frames:
                    if kind is Kind.END:
                        raise self.fail(AgentGone(sentence(parse_json(payload).get("reason")), ended=True))
                    if kind is Kind.ERROR:
                        error = parse_json(payload)
                        raise self.fail(AgentRefused(str(error.get("code")), sentence(error.get("message"))))
                    return kind, payload
                if self.on_wait is not None:
                    self.on_wait()
                self._frames = self._decoder.feed(self._receive(deadline))
            except WireError as exc:
                raise self.fail(AgentGone(f"The agent sent what is not its protocol: {exc}.")) from exc

    def fail(self, why: AgentGone) -> AgentGone:
        """Close, and remember why; returns the first reason."""
        if self._why is None:
            self._why = why
            self._socket.close()
        return self._why

    def _last_words(self, exc: OSError) -> AgentGone:
        """Return why the agent hung up, which it may have said before we noticed."""
        try:
            while True:
                self.read(time.monotonic() + _LAST_WORDS_S)
        except AgentGone as why:
            return why
        except TimeoutError:
            return self.fail(AgentGone(f"The connection to the step's agent is broken ({exc})."))

    def _receive(self, deadline: float) -> bytes:
        data = None
        try:
            while data is None:
                if (left := deadline - time.monotonic()) <= 0:  # also when frames come without an end
                    raise TimeoutError
                with contextlib.suppress(TimeoutError):
                    self._socket.settimeout(min(_MAX_WAIT_S, left))
                    data = self._socket.recv(_READ_BYTES)
        except TimeoutError:
            raise
        except OSError as exc:
            raise self.fail(AgentGone(f"The connection to the step's agent is broken ({exc}).")) from exc
        if not data:
            raise self.fail(AgentGone("The step's agent has gone without a word: its process ended or was killed."))
        return data

    def _check(self) -> None:
        if self._why is not None:
            raise AgentGone(str(self._why), ended=self._why.ended) from self._why


def is_acknowledged_at_once(way: str) -> bool:
    """Tell whether what comes by a way is to be acknowledged as it comes, for as long as more is waited for.

    Slurm leaves Nagle's algorithm on between its daemon and srun: a message waits until the one before it is acknowledged,
    which TCP puts off by 40 ms unless something is sent the other way.
    """
    return way.startswith("srun")


def shake_hands(stream: Stream, key: bytes, hello: dict[str, Any], deadline: float) -> dict[str, Any]:
    """Go through CHALLENGE, HELLO, AUTH, WELCOME and return what WELCOME says; both sides prove the key.

    ``hello`` is what the caller wants of the HELLO of ``proxy/README.rst``; protocol and nonce are added.

    Raises
    ------
    AgentRefused
        The agent declined, or could not prove that it knows the key.
    AgentGone, TimeoutError
        As in :meth:`Stream.read`.
    """
    greeting = json.dumps({"protocol": PROTOCOL, "nonce": os.urandom(16).hex()} | hello).encode()
    waits_for = "the step's agent did not answer"
    try:
        nonce = read_challenge(_expect(stream, Kind.CHALLENGE, deadline))
        proof = json_frame(Kind.AUTH, {"proof": client_proof(key, nonce, greeting)})
        stream.send(frame(Kind.HELLO, greeting) + proof, deadline)
        waits_for = f"the step's kernel did not open a visit: {_SILENT}"
        welcome = _expect(stream, Kind.WELCOME, deadline)
    except TimeoutError:
        raise TimeoutError(f"Waited in vain: {waits_for}.") from None
    if not is_same(welcome.get("proof"), agent_proof(key, nonce, greeting)):
        raise AgentRefused("wrong_key", "What answers on the step's socket does not know the kernel's key.")
    return welcome


def read_challenge(challenge: dict[str, Any]) -> str:
    """Return the agent's nonce; raises AgentRefused if it speaks another protocol."""
    if challenge.get("protocol") != PROTOCOL:
        theirs = str(challenge.get("protocol"))[:20]
        raise AgentRefused("protocol", f"This step's agent speaks protocol {theirs}, and this Kale protocol {PROTOCOL}.")
    return str(challenge.get("nonce"))


def _expect(stream: Stream, wanted: Kind, deadline: float) -> dict[str, Any]:
    kind, payload = stream.read(deadline)
    if kind is not wanted:
        raise AgentGone(f"The agent sent {kind.name} where its protocol has {wanted.name}.")
    return parse_json(payload)


def reach(where: Path | Reach, deadline: float) -> tuple[socket.socket, bytes, str]:
    """Return a stream to a step's agent, the kernel's key, and the name of the way, empty for this machine's.

    Parameters
    ----------
    where : Path or Reach
        The step's live folder on this machine, or what is known of one that may be elsewhere.
    deadline : float
        By ``time.monotonic()``.

    Raises
    ------
    AgentGone, TimeoutError
        There is no agent, or no way there.
    """
    from pathlib import Path

    if isinstance(where, Path):
        key = read_key(where, deadline)
        return open_socket(where, deadline), key, ""
    if where.route.is_here:
        return open_socket(where.folder, deadline), where.key.encode(), ""
    from kale_proxy.tunnel.dialer import default  # most steps are on this machine

    sock, way = default().open(where.route, deadline)
    return sock, where.key.encode(), way


def read_key(live: Path, deadline: float) -> bytes:
    """Return the kernel's key; waits for a kernel that is still starting."""
    while True:
        try:
            return str(json.loads((live / CONNECTION_NAME).read_bytes())["key"]).encode()
        except FileNotFoundError:
            if not live.is_dir():
                raise AgentGone(f"The step is not running: its folder {live} is gone.", ended=True) from None
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"The step's kernel has not become ready: there is no {CONNECTION_NAME} in {live}."
                ) from None
            time.sleep(_RETRY_S)


def open_socket(live: Path, deadline: float) -> socket.socket:
    """Connect to the agent's socket; a full queue of others who connect is waited for."""
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            sock.connect(str(live / SOCKET_NAME))
        except (BlockingIOError, TimeoutError):
            sock.close()
            if time.monotonic() > deadline:
                raise TimeoutError("Waited in vain: the step's agent accepts no connection.") from None
            time.sleep(_RETRY_S)
        except OSError as exc:
            sock.close()
            raise AgentGone(f"Nothing listens for visitors of this step at {live / SOCKET_NAME} ({exc}).") from exc
        else:
            return sock


def sentence(text: object) -> str:
    """Return ``text`` with a capital and a full stop."""
    words = str(text or "the agent gave no reason").strip()
    return words[0].upper() + words[1:] + ("" if words.endswith((".", "!", "?")) else ".")
