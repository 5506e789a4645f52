"""The process around a relay: signals, and the end with whoever wanted it."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from kale_proxy.doorbell import ProcessWatch
from kale_proxy.relay import Relay
from kale_proxy.relay_front import Front
from kale_proxy.relay_role import visitor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kale_proxy.relay_line import Seek
    from kale_proxy.relay_role import Role


def serve(
    file: Path,
    name: str,
    seek: Seek,
    *,
    mode: str = "visit",
    owner: int | None = None,
    role: Role | None = None,
    listening: dict[str, int] | None = None,
) -> None:
    """Be the kernel of the connection file ``file`` until the front end shuts it down, ``owner`` ends, or a signal comes.

    Parameters
    ----------
    file : Path
        Written by the front end.
    name : str
        The step, for people.
    seek : callable
        Finds the step; raises nothing that a person should not read. Asked again whenever the kernel is out of reach.
    mode : str
        ``visit``, ``write`` or ``main``.
    owner : int, optional
        The process with which the relay ends.
    role : Role, optional
        What the front end is to the kernel: a visitor if none is given. Afterwards it says whether the kernel's end was
        asked for: by the front end, or by SIGTERM; who merely vanishes has not asked.
    listening : dict of str to int, optional
        As for :class:`kale_proxy.relay_front.Front`.

    Raises
    ------
    ConnectionFileError
        The file is none, or its addresses are taken.
    """
    role = role or visitor(name)

    def relay(front: Front) -> Relay:
        return Relay(front, name, seek, mode, role)

    asyncio.run(_serve(file, listening, relay, owner, role))


async def _serve(
    file: Path, listening: dict[str, int] | None, make: Callable[[Front], Relay], owner: int | None, role: Role
) -> None:
    front = Front(file, listening)
    relay = make(front)
    front.open(relay.take, relay.go_on)

    def end() -> None:
        role.finish()
        relay.stop()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, relay.interrupt)
    loop.add_signal_handler(signal.SIGTERM, end)
    loop.add_signal_handler(signal.SIGHUP, relay.stop)
    watch = ProcessWatch(owner, relay.stop) if owner is not None else None
    try:
        await relay.run()
    finally:
        if watch is not None:
            watch.close()
        front.close()
