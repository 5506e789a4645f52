"""The manager of a login host: found, started if need be, and reached through ssh.

Where its socket is, is asked by a command the first time, and kept in the state folder: later connections are one forward.
Called by the client alone; what goes wrong on the way is a ManagerUnavailable whose words are the tunnel's.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kale_magic._connection import Connection
from kale_magic.errors import ManagerUnavailable, UsageError
from kale_magic.version import __version__
from kale_proxy.tunnel.dialer import default
from kale_proxy.tunnel.errors import TunnelError
from kale_proxy.tunnel.route import Route

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kale_magic.config import Settings

_ASK_S = 60.0
_NO_PROGRAM = ("not found", "No such file", "No module named")


def open_remote(settings: Settings, *, start: bool, timeout: float) -> Connection:
    """Connect to the manager of ``settings.host``.

    Raises
    ------
    ManagerUnavailable
        The host can't be reached, or has no manager and none is to be started, or lacks Kale.
    ProtocolVersionError
        It is of another version.
    UsageError
        The name is no name of a host.
    """
    file = settings.state_dir / "hosts" / f"{settings.host}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TunnelError, EOFError, ManagerUnavailable):
        return _through(settings.host, str(json.loads(file.read_bytes())["address"]), timeout)
    address = _ask(settings, start=start)
    _keep(file, address)
    try:
        return _through(settings.host, address, timeout)
    except (TunnelError, EOFError) as exc:
        raise ManagerUnavailable(f"The manager on {settings.host} can't be reached: {exc}") from exc


def _through(host: str, address: str, timeout: float) -> Connection:
    deadline = time.monotonic() + timeout
    stream, _ = default().open(_route(host, address), deadline)
    return Connection(Path(address), max(0.1, deadline - time.monotonic()), stream, host)


def _route(host: str, address: str) -> Route:
    try:
        return Route(socket=address, login=host)
    except ValueError as exc:
        raise UsageError(str(exc), "Give a Host of your ssh configuration.") from exc


def _ask(settings: Settings, *, start: bool) -> str:
    """Return where the manager of a host listens, by a command there that starts it if it is to be started."""
    host = settings.host
    _route(host, "")
    line = line_there(settings, ["manager", "start" if start else "status", "--json"])
    try:
        said = _in_login_shell(host, line)
        return str(json.loads(said[said.index("{") :])["address"])
    except TunnelError as exc:
        hint = ""
        if any(word in str(exc) for word in _NO_PROGRAM):
            hint = (
                f"Make one there: jupyter kale doctor --host {host} --install. Or say where Kale is there, "
                f'in {settings.state_dir / "config.toml"}: [hosts.{host}] python = "/path/to/python"'
            )
        raise ManagerUnavailable(f"The manager on {host} can't be reached: {exc}", hint) from exc
    except (ValueError, KeyError) as exc:
        raise ManagerUnavailable(f"{host} said where its manager is in a way that is not understood: {said[-200:]!r}.") from exc


def run_there(settings: Settings, words: Sequence[str]) -> str:
    """Return what ``jupyter kale WORDS`` prints on ``settings.host``; raises ManagerUnavailable if it can't be run or fails."""
    _route(settings.host, "")
    try:
        return _in_login_shell(settings.host, line_there(settings, words))
    except TunnelError as exc:
        raise ManagerUnavailable(f"{settings.host} can't be asked: {exc}") from exc


def _in_login_shell(host: str, line: str) -> str:
    """Run a line in a login shell, since that is where people put a Python on the path."""
    return default().output(host, f"exec sh -lc {shlex.quote(line)}", time.monotonic() + _ASK_S)


def environment_name() -> str:
    """Return the name by which an environment of this version is found in its folder on a host."""
    return f"venv-{__version__}"


def environments_folder(settings: Settings) -> str:
    """Return where on ``settings.host`` environments are made and looked for; it may begin with ``~/``."""
    return settings.there.venvs or "~/.local/share/kale"


def line_there(settings: Settings, words: Sequence[str]) -> str:
    """Return the line of a login shell on ``settings.host`` that is ``jupyter kale WORDS``.

    By the Python that the configuration names, if that has Kale; else by the environment of this version that
    :mod:`kale_magic.api.provision` has made; else by what is on the path.
    """
    program = ["-m", "kale_magic.cli.main", *words]
    named = settings.there.python
    folder = environments_folder(settings)
    quoted = '"$HOME"' + shlex.quote(folder[1:]) if folder.startswith("~/") else shlex.quote(folder)
    lines = [f"v={quoted}/{shlex.quote(environment_name())}"]
    if named:
        lines.append(f"{shlex.join([named, '-c', 'import kale_magic'])} 2>/dev/null && exec {shlex.join([named, *program])}")
    lines.append(f'[ -e "$v/kale-environment.json" ] && exec "$(readlink -f "$v")/bin/python" {shlex.join(program)}')
    lines.append(f"exec {shlex.join([named, *program] if named else ['jupyter-kale', *words])}")
    if settings.there.home:
        lines.insert(0, f"KALE_HOME={shlex.quote(settings.there.home)}; export KALE_HOME")
    return "\n".join(lines)


def _keep(file: Path, address: str) -> None:
    with contextlib.suppress(OSError):
        file.parent.mkdir(mode=0o700, exist_ok=True)
        temporary = file.with_name(f"{file.name}.{os.getpid()}")
        temporary.write_text(json.dumps({"address": address}))
        temporary.replace(file)
