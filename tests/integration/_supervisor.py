"""A supervisor of one's own for tests, and a client that speaks its JSON lines."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import nbformat

from kale_proxy.spec import JobSpec, LimitSpec

__all__ = ["LimitSpec", "SupervisorClient"]
DEADLINE_S = 30.0


class SupervisorClient:
    """Starts ``python -m kale_proxy serve`` in ``folder`` and hands it steps."""

    def __init__(self, folder: Path, idle_s: float = 5.0) -> None:
        self.folder = folder
        self.work = folder / "run"
        self.work.mkdir(mode=0o700)
        self.count = 0
        command = [sys.executable, "-m", "kale_proxy", "serve", "--dir", str(folder / "w"), "--idle", str(idle_s)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(command, cwd="/", env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.connect()

    def connect(self) -> dict[str, Any]:
        end = time.monotonic() + DEADLINE_S
        while True:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(DEADLINE_S)
            try:
                self.socket.connect(str(self.folder / "w" / "s"))
                break
            except OSError:
                self.socket.close()
                assert self.process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < end, "the supervisor did not listen"
                time.sleep(0.02)
        self.lines = self.socket.makefile()
        self.hello = self.next()
        return self.hello

    def next(self) -> dict[str, Any]:
        line = self.lines.readline()
        assert line, "the supervisor closed the connection: " + (self.folder / "log").read_text()
        return json.loads(line)

    def send(self, **message: Any) -> None:
        self.socket.sendall(json.dumps(message).encode() + b"\n")

    def spec(self, code: str, kind: str = "python", **fields: Any) -> JobSpec:
        self.count += 1
        name = f"s{self.count}"
        base = {"run": "r", "step": name, "point": None, "attempt": 1, "uuid": uuid.uuid4().hex}
        base |= {"folder": str(self.work / name), "cwd": str(self.work), "kind": kind, "code": code}
        return JobSpec(**{**base, **fields})

    def start(self, code: str, kind: str = "python", **fields: Any) -> JobSpec:
        spec = self.spec(code, kind, **fields)
        self.send(op="start", spec=dataclasses.asdict(spec))
        return spec

    def event(self, spec: JobSpec, *kinds: str) -> dict[str, Any]:
        """Return the next event of this job that is of one of these kinds."""
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            message = self.next()
            if message.get("uuid") == spec.uuid and message["ev"] in kinds:
                return message
        raise AssertionError(f"no {kinds} within {DEADLINE_S} s")

    def run(self, code: str, kind: str = "python", **fields: Any) -> tuple[JobSpec, dict[str, Any]]:
        """Run a step to its end; return its specification and result."""
        spec = self.start(code, kind, **fields)
        return spec, self.event(spec, "ended")["result"]

    def close(self) -> None:
        self.lines.close()
        self.socket.close()
        self.process.kill()
        self.process.wait(10)


def outputs(spec: JobSpec) -> list[dict[str, Any]]:
    """Return the outputs of the step's own cell in its executed notebook, which must be valid."""
    notebook = nbformat.read(Path(spec.folder) / "step.ipynb", as_version=4)
    nbformat.validate(notebook)
    return notebook.cells[-1].outputs


def printed(spec: JobSpec, name: str = "stdout") -> str:
    """Return what the step printed, by its notebook; the log file must say the same."""
    text = "".join(output.text for output in outputs(spec) if output.output_type == "stream" and output.name == name)
    path = Path(spec.folder) / f"{name}.log"
    assert (path.read_text() if path.exists() else "") == text
    return text


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except FileNotFoundError:
        return False


def pid_in(path: Path) -> int:
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if path.exists() and path.read_text().strip():
            return int(path.read_text())
        time.sleep(0.02)
    raise AssertionError(f"{path} was not written")


