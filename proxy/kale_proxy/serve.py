"""Start a supervisor: the one that serves until it is idle, and the one that runs a single job by hand."""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

from kale_proxy import children, places
from kale_proxy.claim import pid_start
from kale_proxy.record import now
from kale_proxy.spec import JobSpec
from kale_proxy.supervisor import IDLE_S, PROTOCOL, Supervisor
from kale_proxy.values import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from kale_proxy.stepkernel import StepApp


def serve(folder: Path, idle_s: float = IDLE_S) -> None:
    """Become a supervisor in ``folder``; returns when idle. The caller starts it with one thread."""
    os.umask(0o077)
    places.private_dir(folder)
    app = _prepare(folder)
    supervisor = Supervisor(folder, app, idle_s)
    info = {"pid": os.getpid(), "pid_start": pid_start(os.getpid()), "version": PROTOCOL, "python": sys.executable, "started_at": now()}
    write_atomic(folder / "serve.json", json.dumps(info).encode())
    supervisor.serve()


def _prepare(folder: Path) -> StepApp:
    """Make the kernel application, without the debugger's remarks about frozen modules and no trace of that for steps."""
    name = "PYDEVD_DISABLE_FILE_VALIDATION"
    given = os.environ.get(name)
    os.environ[name] = "1"
    try:
        from kale_proxy import stepkernel

        app = stepkernel.prepare(folder)
    finally:
        if given is None:
            del os.environ[name]
    children.preload()
    return app


def run_one(job: Path) -> int:
    """Run one job in the foreground, as its ``job.sh`` does; return 0 when it completed.

    The attempt must not have been begun before: remove its ``attempt-N.claim`` to run it again by hand.
    """
    os.umask(0o077)
    spec = JobSpec.from_json(job.read_bytes())
    folder = places.private_dir(places.socket_dir() / "j" / f"{os.getpid()}")
    app = _prepare(folder)
    supervisor = Supervisor(folder, app, idle_s=0.0, spares=0)
    ended: list[dict[str, Any]] = []
    supervisor.on_tell = lambda message: ended.append(message) if message["ev"] in {"ended", "refused"} else None
    supervisor.begin(spec)
    supervisor.serve()
    shutil.rmtree(folder, ignore_errors=True)
    outcome: dict[str, Any] = ended[-1] if ended else {"reason": "it could not be started"}
    result: dict[str, str] = outcome.get("result", {"state": "refused", "reason": outcome.get("reason", "")})
    hint = " (remove that file to run it again by hand)" if result["state"] == "refused" else ""
    print(f"{spec.step}: {result['state']} {result['reason']}{hint}".rstrip())
    return 0 if result["state"] == "completed" else 1
