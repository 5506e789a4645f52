"""What the GPUs of this node do, by ``nvidia-smi`` where there is one: asked now and then, and never waited for.

The program may take a second, or hang with its driver; so it is started at one look, and its answer is taken at a later one.
Used by the supervisor beside its samples of the node, and by the dashboard for its own host. Standard library only.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from typing import Any

_QUERY = "index,utilization.gpu,memory.used,memory.total,power.draw"
_EVERY_S = 4.0
_LIMIT_S = 30.0
_MB = 1 << 20


class GpuWatch:
    """The newest answer, and the program that gives the next one."""

    def __init__(self, every_s: float = _EVERY_S) -> None:
        self._every_s = every_s
        self._program: str | None = ""  # not looked for yet
        self._process: subprocess.Popen[str] | None = None
        self._begun = 0.0
        self._found: list[dict[str, Any]] = []

    def look(self) -> list[dict[str, Any]]:
        """Return what was found last, an object for each GPU; empty where there is none, or nothing is known yet."""
        if self._program == "":
            self._program = shutil.which("nvidia-smi")
        if self._program is None:
            return []
        now = time.monotonic()
        self._take(now)
        if self._process is None and (not self._begun or now - self._begun >= self._every_s):
            self._begun = now
            self._start(self._program)
        return self._found

    def _start(self, program: str) -> None:
        argv = [program, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
        with contextlib.suppress(OSError):  # it went away: the next look tries again
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def _take(self, now: float) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            if now - self._begun > _LIMIT_S:
                process.kill()
            return
        self._process = None
        assert process.stdout is not None
        with process.stdout:
            self._found = read(process.stdout.read())


def read(text: str) -> list[dict[str, Any]]:
    """Return what ``nvidia-smi --query-gpu`` printed: index, and those of busy_percent, memory and power that it knows."""
    found = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != len(_QUERY.split(",")) or not cells[0].isdigit():
            continue
        busy, used, total, power = (_number(cell) for cell in cells[1:])
        gpu = {
            "index": int(cells[0]),
            "busy_percent": busy,
            "memory_used_bytes": None if used is None else round(used * _MB),
            "memory_total_bytes": None if total is None else round(total * _MB),
            "power_w": power,
        }
        found.append({name: value for name, value in gpu.items() if value is not None})
    return found


def _number(text: str) -> float | None:
    """Return a number; None for ``[N/A]`` and ``[Not Supported]``."""
    try:
        return float(text)
    except ValueError:
        return None
