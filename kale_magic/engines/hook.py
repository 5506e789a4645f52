"""Tell Kale's manager of a step that another engine runs: called by an export's ``kale_step.py`` if KALE_HOOK names this file.

Keeps the step's logs (as hard links, so that they are live and stay), values and files where the manager finds them, and
appends a line to its journal. Standard library only: the step's own Python runs it.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import resource
import shutil
import socket
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

JOURNAL = "journal.jsonl"


def tell(step: Any, event: str, reason: str = "", code: int = 0) -> None:
    """Note that a step begins (``running``) or has ended (``ended``); ``step`` is the runner's."""
    root = Path(os.environ["KALE_MIRROR"])
    place = root / f"{step.name}-{os.getpid()}"
    line: dict[str, Any] = {
        "event": event, "step": step.name, "point": step.point, "place": place.name, "at": _now(), "pid": os.getpid(),
        "node": socket.gethostname(),
    }  # fmt: skip
    if step.is_alone:
        line["axes"] = {name: repr(step.params[name]) for name in step.data.get("axes", ())}
    if event == "running":
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number, name in ((1, "stdout.log"), (2, "stderr.log")):
            with contextlib.suppress(OSError):  # a terminal or pipe, or another file system
                os.link(os.readlink(f"/proc/self/fd/{number}"), place / name)
    else:
        usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        line |= {
            "code": code, "reason": reason, "cpu_s": round(sum(item.ru_utime + item.ru_stime for item in usage), 4),
            "peak_rss_bytes": max(item.ru_maxrss for item in usage) * 1024,
        }  # fmt: skip
        if code == 0:
            _keep(step, place)
    with open(os.open(root / JOURNAL, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w", encoding="utf-8") as journal:
        journal.write(json.dumps(line) + "\n")


def _keep(step: Any, place: Path) -> None:
    """Copy values beside the logs, and the files the step promised into the workflow's own folder."""
    outputs = place / "outputs"
    outputs.mkdir(mode=0o700, exist_ok=True)
    for path in step.outputs.iterdir():
        if path.is_file() and path.suffix != ".log":
            shutil.copyfile(path, outputs / path.name)
            os.chmod(outputs / path.name, 0o600)
    home = Path(os.environ["KALE_WORKFLOW_FOLDER"])
    for pattern in step.data.get("files_out", ()):
        for match in glob.glob(pattern, recursive=True):
            target = home / match
            target.parent.mkdir(parents=True, exist_ok=True)
            if os.path.isfile(match):
                shutil.copyfile(match, target)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")  # noqa: UP017 - the step's Python may be 3.9
