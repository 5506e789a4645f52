"""Relays that this process has started: ordinary connection files for any Jupyter client, for as long as it lives."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kale_magic.errors import JobError
from kale_proxy.places import private_dir, socket_dir

if TYPE_CHECKING:
    from pathlib import Path

_START_S = 20.0
_END_S = 2.0
_POLL_S = 0.01
_PORTS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")


@dataclass(frozen=True, slots=True)
class _Relay:
    process: subprocess.Popen[bytes]
    file: Path
    owner: int


_running: dict[tuple[str, str, str], _Relay] = {}


def connection_file(step: str, mode: str, host: str = "") -> Path:
    """Return the connection file of a relay to ``RUN/STEP``; one is started unless this process has one.

    Parameters
    ----------
    step : str
        The step's full name.
    mode : str
        ``visit``, ``write`` or ``main``.
    host : str
        The login host whose manager knows the step; empty: this machine's.

    Raises
    ------
    JobError
        The relay did not start; the message is what it said.
    """
    found = _running.get((step, mode, host))
    if found is not None and found.owner == os.getpid() and found.process.poll() is None:
        return found.file
    if found is not None:
        shutil.rmtree(found.file.parent, ignore_errors=True)
    relay = _running[step, mode, host] = _start(step, mode, host)
    return relay.file


def _start(step: str, mode: str, host: str) -> _Relay:
    home = private_dir(socket_dir() / "c")
    _sweep(home)
    folder = private_dir(home / f"{os.getpid()}-{os.urandom(3).hex()}")
    file = folder / "kernel.json"
    info = {name: number for number, name in enumerate(_PORTS, 1)}
    keys = {"transport": "ipc", "ip": str(folder / "k"), "key": os.urandom(32).hex(), "signature_scheme": "hmac-sha256"}
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        json.dump(info | keys | {"kernel_name": ""}, stream)
    option = [*([] if mode == "visit" else [f"--{mode}"]), *(["--host", host] if host else [])]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "kale_magic.kernels", "attach", step, "-f", str(file), *option],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | {"JPY_PARENT_PID": str(os.getpid())},
            start_new_session=True,  # a Ctrl-C in the terminal is for this process
        )
    if not _running:
        atexit.register(end_all)
    deadline = time.monotonic() + _START_S
    while not (folder / f"k-{len(_PORTS)}").exists():  # the last that it binds
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            said = (folder / "log").read_text("utf-8", "replace").strip().splitlines()
            shutil.rmtree(folder, ignore_errors=True)
            raise JobError(f"The relay to {step} did not start: {said[-1] if said else 'it said nothing'}.")
        time.sleep(_POLL_S)
    return _Relay(process, file, os.getpid())


def _sweep(home: Path) -> None:
    """Remove what processes that were killed have left."""
    for folder in home.iterdir():
        owner = folder.name.partition("-")[0]
        if owner.isdecimal() and not os.path.exists(f"/proc/{owner}"):
            shutil.rmtree(folder, ignore_errors=True)


def end_all() -> None:
    """End the relays of this process, and so their visits; the steps go on."""
    mine = [relay for relay in _running.values() if relay.owner == os.getpid()]
    _running.clear()
    for relay in mine:
        relay.process.terminate()
    for relay in mine:
        with contextlib.suppress(subprocess.TimeoutExpired):
            relay.process.wait(_END_S)
        if relay.process.poll() is None:
            relay.process.kill()
            relay.process.wait()
        shutil.rmtree(relay.file.parent, ignore_errors=True)
