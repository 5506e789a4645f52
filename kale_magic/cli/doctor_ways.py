"""``doctor``'s look at the ways to other hosts: what is here, and with ``--host`` whether it leads there, and how fast."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from importlib import metadata
from typing import TYPE_CHECKING

from kale_magic import protocol
from kale_magic.cli import doctor_install
from kale_magic.cli.finding import Finding
from kale_magic.client import Client
from kale_magic.errors import ManagerUnavailable
from kale_magic.version import __version__
from kale_proxy.tunnel.dialer import NO_SSH, default
from kale_proxy.tunnel.errors import TunnelError
from kale_proxy.tunnel.openssh import Target
from kale_proxy.tunnel.route import Route

if TYPE_CHECKING:
    from collections.abc import Iterator

_VERSION_S = 5.0
_ROUND_TRIPS = 10


def transports() -> Iterator[Finding]:
    """Say by which ways steps can be reached from here, in the order in which they are tried."""
    found = ["this machine: socket"]
    dialer = default()
    if dialer.ssh is not None:
        said = subprocess.run([dialer.ssh.command[0], "-V"], capture_output=True, text=True, check=False, timeout=_VERSION_S)
        found.append(f"{shutil.which(dialer.ssh.command[0])} ({said.stderr.partition(',')[0].strip()})")
    if shutil.which("srun"):
        found.append("srun")
    with contextlib.suppress(metadata.PackageNotFoundError):
        found.append(f"paramiko {metadata.version('paramiko')}" + ("" if dialer.library is not None else " (where ssh is not)"))
    if dialer.ssh is None and dialer.library is None:
        yield Finding("transports", "warning", f"{', '.join(found)}; no ssh, so no other host can be reached", NO_SSH)
    else:
        yield Finding("transports", "ok", ", ".join(found))


def login(name: str) -> Iterator[Finding]:
    """Log in to a host."""
    dialer = default()
    Route(socket="", login=name)  # refuses what is no name
    if dialer.ssh is not None:
        had_master = dialer.ssh.has_master(Target(name))
        begun = time.monotonic()
        dialer.output(name, "true", begun + 120.0)
        took = time.monotonic() - begun
        how = "over a connection that was open" if had_master else "a login, kept open for the next ones"
        yield Finding("ssh", "ok", f"{name} answers after {took * 1e3:.0f} ms: {how}")


def host(name: str) -> Iterator[Finding]:
    """Find a login host's manager, and exchange words with it."""
    dialer = default()
    route = Route(socket="", login=name)
    try:
        client = Client.connect(host=name)
    except ManagerUnavailable as exc:
        if "--install" in exc.hint:  # it has no Kale
            yield from doctor_install.python(name)
        raise
    with client:
        times = []
        for _ in range(_ROUND_TRIPS):
            begun = time.perf_counter()
            about = client.manager()
            times.append(time.perf_counter() - begun)
        yield Finding(
            "manager there", "ok" if about["version"] == __version__ else "warning",
            f"Kale {about['version']}, pid {about['pid']} on {about['host']}, answers in {sorted(times)[_ROUND_TRIPS // 2] * 1e3:.1f} ms",
            "" if about["version"] == __version__ else protocol.one_version(name),
        )  # fmt: skip
    try:
        where = dialer.output(name, "command -v srun || true", time.monotonic() + 30.0).strip()
        yield Finding("srun there", "ok", where or "none: steps on nodes are reached by ssh alone")
    except TunnelError as exc:
        yield Finding("srun there", "warning", str(exc))
    node = Route(socket="", login=name, node="NODE", job_id="1" if where else "")
    yield Finding("ways", "ok", f"to steps on {name}: {_names(route)}; on its nodes: {_names(node)}")


def _names(route: Route) -> str:
    return ", then ".join(way.name for way in default().ways(route))
