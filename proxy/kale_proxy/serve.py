"""Start the supervisor that serves until it is idle."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from kale_proxy import batch, children, places
from kale_proxy.claim import pid_start
from kale_proxy.managers import PROTOCOL
from kale_proxy.record import now
from kale_proxy.supervisor import IDLE_S, Supervisor
from kale_proxy.values import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from kale_proxy.stepkernel import StepApp


def serve(folder: Path, idle_s: float = IDLE_S, *, is_in_pool: bool = False) -> None:
    """Become a supervisor in ``folder``; returns when idle. The caller starts it with one thread.

    ``is_in_pool``: SIGTERM ends it with its steps, as the allocation that they are in is over.
    """
    os.umask(0o077)
    places.private_dir(folder)
    app = prepare(folder)
    supervisor = Supervisor(folder, app, idle_s)
    if is_in_pool:
        batch.end_by_sigterm(supervisor)
    info = {"pid": os.getpid(), "pid_start": pid_start(os.getpid()), "version": PROTOCOL, "python": sys.executable, "started_at": now()}
    write_atomic(folder / "serve.json", json.dumps(info).encode())
    supervisor.serve()


def prepare(folder: Path) -> StepApp:
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
