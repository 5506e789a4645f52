"""One connection of a relay to a step's agent: asyncio, frames in, frames out. It ends once; the relay makes the next."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import TYPE_CHECKING, Any, Self

from kale_proxy.visitor_stream import read_challenge, sentence
from kale_proxy.wire import (
    PROTOCOL,
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
    import socket
    from collections.abc import Callable

_ANSWER_S = 10.0


class AgentLink(asyncio.Protocol):
    """A stream to the agent; made by :meth:`open`.

    Attributes
    ----------
    welcome : dict
        The agent's WELCOME.
    ended : asyncio.Future of AgentGone
        Done when the stream is over; says why.
    heard_at : float
        When the last byte came, by ``time.monotonic()``.
    is_held : bool
        Whether nothing is read for now.
    """

    def __init__(self, on_frame: Callable[[Kind, bytes], None]) -> None:
        loop = asyncio.get_running_loop()
        self.welcome: dict[str, Any] = {}
        self.ended: asyncio.Future[AgentGone] = loop.create_future()
        self.heard_at = time.monotonic()
        self.is_held = False
        self._on_frame = on_frame
        self._greeting: asyncio.Queue[tuple[Kind, bytes]] | None = asyncio.Queue()
        self._decoder = Decoder()
        self._transport: asyncio.Transport

    @classmethod
    async def open(
        cls, sock: socket.socket, key: bytes, hello: dict[str, Any], on_frame: Callable[[Kind, bytes], None]
    ) -> Self:
        """Open the visit over a stream to the step's agent.

        A kernel that is in one long call opens it when the call returns: there is no deadline for that, as the
        front end's requests wait for just that. Cancel it to give up.

        Parameters
        ----------
        sock : socket.socket
            Connected; the link's from now on.
        key : bytes
            The kernel's.
        hello : dict
            Fields of HELLO besides ``protocol`` and ``nonce``.
        on_frame : callable
            Called from :meth:`start` on with each frame after WELCOME, but for those that end the stream.

        Raises
        ------
        AgentGone
            It declined, or it speaks something else.
        """
        sock.setblocking(False)
        _, link = await asyncio.get_running_loop().create_unix_connection(lambda: cls(on_frame), sock=sock)
        try:
            await link._shake_hands(key, hello)
        except BaseException:
            link.abort()
            raise
        return link

    def start(self) -> None:
        """Begin to hand on frames, with those that came right behind WELCOME."""
        frames, self._greeting = self._greeting, None
        while frames is not None and not frames.empty():
            self._on_frame(*frames.get_nowait())

    def send(self, data: bytes) -> None:
        """Send whole frames; what can't go out with the stream broken is the caller's to repeat."""
        if not self.ended.done():
            self._transport.write(data)

    def hold(self, is_held: bool) -> None:
        """Stop or go on reading."""
        self.is_held = is_held
        if not self.ended.done():
            (self._transport.pause_reading if is_held else self._transport.resume_reading)()

    def say_bye(self) -> None:
        """End the visit."""
        self.send(frame(Kind.BYE))
        self._transport.close()

    def give_up(self, why: str) -> None:
        """Hang up on a stream that has gone dead."""
        self._end(AgentGone(f"{why[:1].upper()}{why[1:]}."))

    def abort(self) -> None:
        """Hang up; the visit stays open for a while."""
        self._transport.abort()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Hand on each complete frame."""
        self.heard_at = time.monotonic()
        try:
            for kind, payload in self._decoder.feed(data):
                if self.ended.done():
                    return
                self._take(kind, payload)
        except WireError as exc:
            self._end(AgentGone(f"The agent sent what is not its protocol: {exc}."))

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note of the end."""
        self._end(AgentGone("The connection to the step's agent broke" + (f" ({exc})." if exc else ".")))

    def _take(self, kind: Kind, payload: bytes) -> None:
        if kind is Kind.END:
            self._end(AgentGone(sentence(parse_json(payload).get("reason")), ended=True))
        elif kind is Kind.ERROR:
            error = parse_json(payload)
            self._end(AgentRefused(str(error.get("code")), sentence(error.get("message"))))
        elif self._greeting is not None:
            self._greeting.put_nowait((kind, payload))
        else:
            self._on_frame(kind, payload)

    def _end(self, why: AgentGone) -> None:
        if not self.ended.done():
            self.ended.set_result(why)
            self._transport.abort()

    # -- handshake

    async def _shake_hands(self, key: bytes, hello: dict[str, Any]) -> None:
        assert self._greeting is not None
        frames = self._greeting
        greeting = json.dumps({"protocol": PROTOCOL, "nonce": os.urandom(16).hex()} | hello).encode()
        try:
            async with asyncio.timeout(_ANSWER_S):
                nonce = read_challenge(await self._expect(frames, Kind.CHALLENGE))
        except TimeoutError:
            raise AgentGone("The step's agent does not answer.") from None
        self.send(frame(Kind.HELLO, greeting) + json_frame(Kind.AUTH, {"proof": client_proof(key, nonce, greeting)}))
        self.welcome = await self._expect(frames, Kind.WELCOME)
        if not is_same(self.welcome.get("proof"), agent_proof(key, nonce, greeting)):
            raise AgentRefused("wrong_key", "What answers on the step's socket does not know the kernel's key.")

    async def _expect(self, frames: asyncio.Queue[tuple[Kind, bytes]], wanted: Kind) -> dict[str, Any]:
        coming = asyncio.ensure_future(frames.get())
        try:
            futures: set[asyncio.Future[Any]] = {coming, self.ended}
            await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                raise self.ended.result()
        finally:
            coming.cancel()
        kind, payload = coming.result()
        if kind is not wanted:
            raise AgentGone(f"The agent sent {kind.name} where its protocol has {wanted.name}.")
        return parse_json(payload)
