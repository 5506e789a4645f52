"""``manager start|stop|status|logs``: the manager, seen from a terminal."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kale_magic import config
from kale_magic.cli.console import Console, write
from kale_magic.cli.exits import Exit
from kale_magic.cli.shapes import manager_object
from kale_magic.client import Client
from kale_magic.errors import ManagerError, ManagerUnavailable, ProtocolVersionError

if TYPE_CHECKING:
    import argparse

_ENDS_WITHIN_S = 15.0


def start(arguments: argparse.Namespace, console: Console) -> int:
    """Start the manager, if none runs."""
    try:
        client, did = Client.connect(host=arguments.host, start=False), "runs already"
    except ManagerUnavailable:
        client, did = Client.connect(host=arguments.host), "has been started"
    with client:
        found = client.manager()
    if console.is_json:
        console.data(manager_object(found))
    console.say(f"The manager {did}: pid {found['pid']} on {found['host']}.")
    return Exit.OK


def stop(arguments: argparse.Namespace, console: Console) -> int:
    """End the manager, also one of another version; its jobs go on."""
    if arguments.host:
        from kale_magic._remote import run_there

        console.say(run_there(replace(config.load(), host=arguments.host), ["manager", "stop"]).strip())
        return Exit.OK
    try:
        with Client.connect(start=False) as client:
            pid, is_here = client.hello.pid, not client.login
            client.shutdown()
            _wait_until_gone(pid, is_here=is_here)  # so that `manager start` right after it meets no half-ended one
    except ProtocolVersionError:
        pid = _end_by_signal()
    except ManagerUnavailable:
        if not (settings := config.load()).socket.exists() or not _is_listening(settings.socket):
            console.say("No manager runs.")
            return Exit.OK
        raise
    console.say(f"The manager (pid {pid}) has ended; its jobs go on.")
    return Exit.OK


def manager_status(arguments: argparse.Namespace, console: Console) -> int:
    """Say whether the manager runs, and where; starts none."""
    from kale_magic.render.text import format_bytes

    with Client.connect(host=arguments.host, start=False) as client:
        found = client.manager()
    if console.is_json:
        console.data(manager_object(found))
        return Exit.OK
    rows = [
        *manager_object(found).items(),
        ("memory", format_bytes(found.get("rss_bytes") or 0)),
        *([] if arguments.host else [("log", config.load().log_file)]),
    ]
    for name, value in rows:
        shown = ", ".join(map(str, value)) or "none live" if isinstance(value, list) else value
        console.say(f"{name:<11}{shown}")
    return Exit.OK


def manager_logs(arguments: argparse.Namespace, console: Console) -> int:
    """Print the manager's log."""
    from kale_magic.api import files

    path = config.load().log_file
    if not path.exists():
        console.note(f"kale: there is no {path}: no manager has run yet.")
        return Exit.OK
    write(sys.stdout, files.log(path.parent, path.name, arguments.tail))
    return Exit.OK


def _is_listening(address: Path) -> bool:
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.settimeout(1.0)
        probe.connect(os.fspath(address))
    except OSError:
        return False
    finally:
        probe.close()
    return True


def _end_by_signal() -> int:
    """End a manager that speaks another protocol, by the id in its own file, after a look at what that process is.

    Raises
    ------
    ManagerError
        It is on another host, is no manager, or does not end.
    """
    settings = config.load()
    try:
        record = json.loads(settings.manager_file.read_text())
        pid, host = int(record["pid"]), str(record["host"])
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ManagerError(f"Who the manager is can't be read from {settings.manager_file}: {exc}.") from exc
    if host != socket.gethostname():
        raise ManagerError(
            f"The manager runs on {host}, not here.", f"Stop it there: ssh {host} jupyter kale manager stop"
        )
    if b"kale_magic" not in _command_line(pid):
        raise ManagerError(f"Process {pid}, named in {settings.manager_file}, is no manager.", "Remove that file.")
    os.kill(pid, signal.SIGTERM)
    _wait_until_gone(pid)
    return pid


def _wait_until_gone(pid: int, *, is_here: bool = True) -> None:
    """Wait until a manager has ended; one on another login host has when its own file in the shared home is gone."""
    settings = config.load()

    def is_there() -> bool:
        if is_here:
            return bool(_command_line(pid))
        try:
            return bool(json.loads(settings.manager_file.read_text())["pid"] == pid)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    deadline = time.monotonic() + _ENDS_WITHIN_S
    while is_there():
        if time.monotonic() > deadline:
            raise ManagerError(
                f"The manager (pid {pid}) did not end within {_ENDS_WITHIN_S:g} s.", f"Its log is {settings.log_file}."
            )
        time.sleep(0.05)


def _command_line(pid: int) -> bytes:
    """Return the words of a process of this user; empty when there is none, or it is a zombie."""
    folder = Path(f"/proc/{pid}")
    try:
        return (folder / "cmdline").read_bytes() if folder.stat().st_uid == os.getuid() else b""
    except OSError:
        return b""
