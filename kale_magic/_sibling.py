"""The manager on another host of the same home: a second login node, or the host that ``[manager] host`` names.

There is one manager for a home. A client on another host of it reaches that one by ssh, and has the same files. Called by
:mod:`kale_magic._open` alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_magic._batchjob import BatchJob, is_over
from kale_magic._connection import Connection
from kale_magic.errors import ManagerUnavailable
from kale_proxy.tunnel.errors import TunnelError

if TYPE_CHECKING:
    from kale_magic.config import Settings

_ASK_S = 60.0


def elsewhere(settings: Settings) -> dict[str, Any] | None:
    """Return the record of a manager that has told of itself from another host; None if there is none, or its batch job is over."""
    return _of_another_host(settings.manager_file)


def left_elsewhere(settings: Settings) -> dict[str, Any] | None:
    """Return the record of a manager of another host that ended while runs were live; None as for :func:`elsewhere`."""
    return _of_another_host(settings.last_file)


def ended_with_a_job(settings: Settings) -> BatchJob | None:
    """Return the batch job of a manager of another host, which :func:`elsewhere` found to be over, where that manager has not taken note of it yet."""
    try:
        record = json.loads(settings.manager_file.read_text())
        return BatchJob.from_words(record.get("job")) if record["host"] != socket.gethostname() else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _of_another_host(file: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(file.read_text())
        host = str(record["host"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if host == socket.gethostname() or is_over(BatchJob.from_words(record.get("job"))):
        return None
    return dict(record)


def open_sibling(settings: Settings, record: dict[str, Any], *, start: bool, timeout: float) -> Connection:
    """Connect to the manager that ``record`` tells of; where it is gone, have one started on its host if ``start``.

    Raises
    ------
    ManagerUnavailable
        Its host can't be reached; the message says what to do.
    ProtocolVersionError
        It is of another version.
    """
    host, address = str(record["host"]), str(record.get("address", ""))
    failures: list[str] = []
    for name in dict.fromkeys(filter(None, (settings.manager_host, host))):
        with contextlib.suppress(ManagerUnavailable, EOFError, ValueError):
            try:
                connection = _through(name, address, timeout)
            except TunnelError as exc:
                failures.append(str(exc))
                continue
            if connection.hello.host == host:
                return connection
            connection.close()
    if start and host != socket.gethostname():
        with contextlib.suppress(ManagerUnavailable):
            return start_sibling(settings, host, timeout=timeout)
    said = f": {failures[-1]}" if failures else "."
    raise ManagerUnavailable(
        f"Your manager runs on {host} (pid {record.get('pid', '?')}), not on {socket.gethostname()}, and can't be reached from here{said}",
        f"Work on {host}, or end it there with: jupyter kale manager stop. "
        f"If {host} is gone for good, remove {settings.state_dir}/manager.json and manager.lock.*",
    )


def start_sibling(settings: Settings, name: str, *, timeout: float) -> Connection:
    """Connect to the manager of this home on a host that ssh knows as ``name``, started there by this very Python.

    Raises
    ------
    ManagerUnavailable
        It can't be reached or started.
    """
    from kale_proxy.tunnel.dialer import default

    words = ["KALE_MANAGER_HOST=", *([f"KALE_HOME={os.path.abspath(home)}"] if (home := os.environ.get("KALE_HOME")) else [])]
    line = shlex.join(["exec", "env", *words, sys.executable, "-m", "kale_magic.cli.main", "manager", "start", "--json"])
    try:
        said = default().output(name, f"exec sh -lc {shlex.quote(line)}", time.monotonic() + _ASK_S)
        record = json.loads(said[said.index("{") :])
        if record["host"] == socket.gethostname():  # ``name`` means this host
            return Connection(settings.socket, timeout)
        return _through(name, str(record["address"]), timeout)
    except (TunnelError, EOFError) as exc:
        raise ManagerUnavailable(f"The manager can't be had on {name}: {exc}") from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise ManagerUnavailable(f"{name} said where its manager is in a way that is not understood: {said[-200:]!r}.") from exc


def _through(name: str, address: str, timeout: float) -> Connection:
    from kale_proxy.tunnel.dialer import default
    from kale_proxy.tunnel.route import Route

    deadline = time.monotonic() + timeout
    stream, _ = default().open(Route(socket=address, login=name), deadline)
    connection = Connection(Path(address), max(0.1, deadline - time.monotonic()), stream)
    connection.login = name
    return connection
