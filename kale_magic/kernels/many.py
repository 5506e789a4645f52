"""Many relays in one process: what a program that wants connection files starts once.

Lines of JSON come in on stdin, ``{"step", "mode", "host", "file"}``, and each is answered on stdout, by ``{"file"}`` when
its sockets are bound or ``{"file", "error"}``. A relay ends when its front end sends shutdown, all end with stdin.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from kale_magic.errors import KaleError
from kale_magic.kernels.seek import Seeker
from kale_magic.model.address import parse_address
from kale_proxy.relay import Relay
from kale_proxy.relay_front import ConnectionFileError, Front


async def serve() -> None:
    """Serve until stdin ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    relays: set[asyncio.Task[None]] = set()
    try:
        while line := await reader.readline():
            wanted = json.loads(line)
            answer = {"file": wanted["file"]}
            try:
                task = loop.create_task(_joined(wanted))
                relays.add(task)
                task.add_done_callback(relays.discard)
            except (KaleError, ConnectionFileError) as exc:
                answer["error"] = str(exc)
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
    finally:
        for task in relays:
            task.cancel()
        await asyncio.gather(*relays, return_exceptions=True)


def _joined(wanted: dict[str, Any]) -> Any:
    """Bind the sockets of a connection file now, and return what serves them."""
    name = str(parse_address(wanted["step"]))
    front = Front(Path(wanted["file"]))
    relay = Relay(front, name, Seeker(name, wanted["host"]), wanted["mode"])
    front.open(relay.take, relay.go_on)

    async def run() -> None:
        try:
            await relay.run()
        finally:
            front.close()

    return run()


def main() -> None:
    """Run it."""
    with suppress(KeyboardInterrupt):
        asyncio.run(serve())
