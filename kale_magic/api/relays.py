"""Relays for this process: ordinary connection files for any Jupyter client, for as long as it lives.

All are in one process of their own, :mod:`kale_magic.kernels.many`, started with the first.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kale_magic.errors import JobError
from kale_proxy.places import private_dir, socket_dir

if TYPE_CHECKING:
    from pathlib import Path

_START_S = 20.0
_END_S = 2.0
_PORTS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")


@dataclass(slots=True)
class _Process:
    """The process of relays that belongs to process ``owner``."""

    process: subprocess.Popen[bytes]
    log: Path
    owner: int
    files: dict[tuple[str, str, str], Path] = field(default_factory=dict)
    _said: bytes = b""

    @property
    def is_ours(self) -> bool:
        return self.owner == os.getpid() and self.process.poll() is None

    def ask(self, wanted: dict[str, str]) -> dict[str, str] | None:
        """Ask for a relay and return the answer; None if none came."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        deadline = time.monotonic() + _START_S
        with contextlib.suppress(OSError):
            os.write(stdin.fileno(), json.dumps(wanted).encode() + b"\n")
            while b"\n" not in self._said:
                if not select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                    return None
                more = os.read(stdout.fileno(), 1 << 16)
                if not more:
                    return None
                self._said += more
            line, _, self._said = self._said.partition(b"\n")
            return dict(json.loads(line))
        return None

    def last_words(self) -> str:
        """Return the end of its log."""
        lines = self.log.read_text("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def end(self) -> None:
        """End it, and so all visits; steps go on."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        if self.owner != os.getpid():  # a fork: the process is the parent's
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_END_S)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.log.parent, ignore_errors=True)


_running: list[_Process] = []
_one_at_a_time = threading.Lock()


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
    with _one_at_a_time:
        if _running and not _running[-1].is_ours:
            _running.pop().end()
        if not _running:
            _running.append(_start())
            atexit.register(end_all)
        relays = _running[-1]
        found = relays.files.get((step, mode, host))
        if found is not None and found.with_name(f"k-{len(_PORTS)}").exists():  # else its front end has shut it down
            return found
        if found is not None:
            shutil.rmtree(found.parent, ignore_errors=True)
        file = _new_file(relays.log.parent)
        answer = relays.ask({"step": step, "mode": mode, "host": host, "file": str(file)})
        if answer is None or "error" in answer:
            said = relays.last_words() if answer is None else answer["error"]
            shutil.rmtree(file.parent, ignore_errors=True)
            raise JobError(f"The relay to {step} did not start: {said}.")
        relays.files[step, mode, host] = file
        return file


def _start() -> _Process:
    home = private_dir(socket_dir() / "c")
    _sweep(home)
    folder = private_dir(home / f"{os.getpid()}-{os.urandom(3).hex()}")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "kale_magic.kernels", "relays"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # a Ctrl-C in the terminal is for this process
        )
    return _Process(process, folder / "log", os.getpid())


def _new_file(home: Path) -> Path:
    folder = private_dir(home / os.urandom(3).hex())
    file = folder / "kernel.json"
    info = {name: number for number, name in enumerate(_PORTS, 1)}
    keys = {"transport": "ipc", "ip": str(folder / "k"), "key": os.urandom(32).hex(), "signature_scheme": "hmac-sha256"}
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        json.dump(info | keys | {"kernel_name": ""}, stream)
    return file


def _sweep(home: Path) -> None:
    """Remove what processes that were killed have left."""
    for folder in home.iterdir():
        owner = folder.name.partition("-")[0]
        if owner.isdecimal() and not os.path.exists(f"/proc/{owner}"):
            shutil.rmtree(folder, ignore_errors=True)


def end_all() -> None:
    """End the relays of this process, and so their visits; the steps go on."""
    with _one_at_a_time:
        while _running:
            _running.pop().end()
