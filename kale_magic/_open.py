"""How a client gets its connection: to the manager of this home, started if none runs, or to that of a login host.

The manager of this home is on this host, or on another one that has the same home.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

from kale_magic import protocol
from kale_magic._connection import Connection
from kale_magic._notice import tell_once
from kale_magic.errors import ManagerUnavailable
from kale_magic.version import __version__

if TYPE_CHECKING:
    from kale_magic.config import Settings


def open_connection(settings: Settings, *, start: bool, timeout: float) -> Connection:
    """Connect to the manager; start it first when none runs and ``start`` is True.

    Raises
    ------
    ManagerUnavailable, ProtocolVersionError
        As :meth:`Client.connect`.
    """
    connection = _open(settings, start=start, timeout=timeout)
    if connection.hello.version != __version__:
        where = f" on {settings.host or connection.login}" if settings.host or connection.login else ""
        tell_once(f"the manager{where} is Kale {connection.hello.version}, this is Kale {__version__}. {protocol.one_version(settings.host)}")
    return connection


def _open(settings: Settings, *, start: bool, timeout: float) -> Connection:
    if settings.host:
        from kale_magic._remote import open_remote  # most managers are here

        return open_remote(settings, start=start, timeout=timeout)
    with contextlib.suppress(ManagerUnavailable, EOFError):
        return Connection(settings.socket, timeout)
    from kale_magic import _sibling  # most commands find a manager here

    if (record := _sibling.elsewhere(settings)) is not None:
        return _sibling.open_sibling(settings, record, start=start, timeout=timeout)
    if not start:
        raise ManagerUnavailable("No manager runs.", "Start it with: jupyter kale manager start.")
    if (last := _sibling.left_elsewhere(settings)) is not None:  # steps may run there
        with contextlib.suppress(ManagerUnavailable):
            return _sibling.start_sibling(settings, str(last["host"]), timeout=timeout)
    if settings.manager_host and settings.manager_host != socket.gethostname().partition(".")[0]:
        try:
            return _sibling.start_sibling(settings, settings.manager_host, timeout=timeout)
        except ManagerUnavailable as exc:
            tell_once(f"[manager] host = {settings.manager_host!r} is of no use here, so the manager is started on this host. {exc.message}")
    return _start_here(settings, timeout)


def _start_here(settings: Settings, timeout: float) -> Connection:
    from kale_magic import _batchjob
    from kale_magic._start import start_manager

    connection = start_manager(settings, lambda left: Connection(settings.socket, left), timeout=min(timeout, 10.0))
    if (job := _batchjob.current(os.environ)) is not None:
        tell_once(
            f"this notebook is in {job}, and the manager that was started here ends with it: what is in the queue goes on, "
            "and the next client on any host starts a manager that takes it up. "
            f'To have it on a login host: [manager] host = "LOGIN" in {settings.state_dir / "config.toml"}.'
        )
    return connection
