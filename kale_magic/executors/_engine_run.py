"""One run that another engine runs: its process, and what its steps tell in the journal.

Files in the run's ``engine`` folder: ``process.json`` (who it is), ``engine.log`` (what it says), ``mirror`` (what steps
leave, see :mod:`kale_magic.engines.hook`). Called by :mod:`kale_magic.executors.engine`.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from kale_proxy import claim
from kale_proxy.spec import read_literal
from kale_proxy.values import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from kale_magic.abc import Environment
    from kale_proxy.spec import JobSpec

JOURNAL = "journal.jsonl"
_TAIL = 4096


class EngineRun:
    """The engine of one run, begun or taken up again.

    Parameters
    ----------
    folder : Path
        The run's folder.
    engine : str
        ``snakemake`` or ``cwltool``.
    """

    def __init__(self, folder: Path, engine: str) -> None:
        self.folder = folder
        self.engine = engine
        self.mirror = folder / "engine" / "mirror"
        self.has_failures = False  # whether a step has ended badly
        self._process: subprocess.Popen[bytes] | None = None
        self._ending: subprocess.Popen[bytes] | None = None
        self._offset = 0
        self._events: dict[tuple[str, object], list[dict[str, Any]]] = {}
        self._axes: dict[str, list[str]] = {}

    def begin(self, spec: JobSpec, environment: Environment) -> None:
        """Start the engine unless it runs; raises OSError if that fails."""
        if self.is_alive():
            return
        self.mirror.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.folder / "engine" / "temporary").mkdir(mode=0o700, exist_ok=True)
        variables = dict(environment.environ)
        beside = os.path.dirname(environment.python)
        variables["PATH"] = f"{beside}:{variables.get('PATH', os.defpath)}"
        variables |= {"KALE_MIRROR": str(self.mirror), "KALE_WORKFLOW_FOLDER": spec.cwd}
        command = [sys.executable, "-m", "kale_magic.engines", str(self.folder), self.engine]
        with open(os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "wb") as log:
            self._process = subprocess.Popen(
                command, env=variables, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        pid = self._process.pid
        owner = {"pid": pid, "pid_start": claim.pid_start(pid), "boot": claim.boot_id()}
        write_atomic(self._record, json.dumps(owner).encode())

    def is_alive(self) -> bool:
        """Whether the engine runs."""
        if self._process is not None:
            return self._process.poll() is None
        return claim.is_alive(self._owner())

    def end(self) -> None:
        """End the engine and what it started, once; the rest is done by :mod:`kale_magic.engines.end`."""
        if self._ending is None and self.is_alive():
            command = [sys.executable, "-m", "kale_magic.engines.end", str(self._record)]
            null = subprocess.DEVNULL
            self._ending = subprocess.Popen(command, stdin=null, stdout=null, stderr=null, start_new_session=True)

    def read(self) -> bool:
        """Take what the journal has that is new; return whether there was something."""
        try:
            with (self.mirror / JOURNAL).open("rb") as stream:
                stream.seek(self._offset)
                data = stream.read()
        except OSError:
            return False
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                event = json.loads(line)
                self.has_failures |= bool(event.get("code"))
                axes = event.get("axes")
                if axes:
                    self._axes[event["step"]] = list(axes)
                key = tuple(axes.values()) if axes else event.get("point")
                self._events.setdefault((event["step"], key), []).append(event)
        return bool(whole)

    def events(self, spec: JobSpec) -> list[dict[str, Any]]:
        """Take the new events of a job, oldest first."""
        key: object = spec.point
        if spec.step in self._axes:
            key = tuple(repr(read_literal(spec.params[name])) for name in self._axes[spec.step])
        return self._events.pop((spec.step, key), [])

    def place(self, event: dict[str, Any]) -> Path:
        """Return the folder in which a step left what it has."""
        return self.mirror / os.path.basename(str(event.get("place")))

    def last_words(self) -> str:
        """Return the last line that the engine said of itself."""
        try:
            with self._log.open("rb") as stream:
                stream.seek(max(0, self._log.stat().st_size - _TAIL))
                lines = stream.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    @property
    def _log(self) -> Path:
        return self.folder / "engine" / "engine.log"

    @property
    def _record(self) -> Path:
        return self.folder / "engine" / "process.json"

    def _owner(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found
