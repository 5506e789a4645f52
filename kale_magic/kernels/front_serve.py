"""The process of the kernel ``kale``: its sockets, signals, and the end with whoever wanted it."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from kale_magic.kernels.front import Switch
from kale_proxy.doorbell import ProcessWatch
from kale_proxy.relay_front import Front

if TYPE_CHECKING:
    from pathlib import Path


def serve(file: Path, owner: int | None, listening: dict[str, int] | None = None) -> None:
    """Be the kernel of a connection file until the front end shuts it down, ``owner`` ends, or a signal comes.

    ``listening`` is as for :class:`kale_proxy.relay_front.Front`.

    Raises
    ------
    ConnectionFileError
        The file is none, or its addresses are taken.
    """
    asyncio.run(_serve(file, owner, listening))


async def _serve(file: Path, owner: int | None, listening: dict[str, int] | None) -> None:
    front = Front(file, listening)
    switch = Switch(front)
    front.open(switch.take, switch.go_on)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, switch.interrupt)
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, switch.stop)
    watch = ProcessWatch(owner, switch.stop) if owner is not None else None
    try:
        await switch.run()
    finally:
        if watch is not None:
            watch.close()
        front.close()
