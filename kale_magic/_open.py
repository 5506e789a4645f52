"""How a client gets its connection: to the manager here, started if none runs, or to that of a login host."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from kale_magic._connection import Connection
from kale_magic.errors import ManagerUnavailable

if TYPE_CHECKING:
    from kale_magic.config import Settings


def open_connection(settings: Settings, *, start: bool, timeout: float) -> Connection:
    """Connect to the manager; start it first when none runs and ``start`` is True.

    Raises
    ------
    ManagerUnavailable, ProtocolVersionError
        As :meth:`Client.connect`.
    """
    if settings.host:
        from kale_magic._remote import open_remote  # most managers are here

        return open_remote(settings, start=start, timeout=timeout)
    with contextlib.suppress(ManagerUnavailable, EOFError):
        return Connection(settings.socket, timeout)
    from kale_magic._start import explain_absence, start_manager  # most commands find a manager

    explain_absence(settings)
    if not start:
        raise ManagerUnavailable("No manager runs.", "Start it with: jupyter kale manager start.")
    return start_manager(settings, lambda left: Connection(settings.socket, left), timeout=min(timeout, 10.0))
