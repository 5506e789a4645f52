"""``doctor --executor E``: whether a batch system answers, and what becomes of a job of one line there."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_magic import config
from kale_magic.cli.finding import Finding
from kale_magic.client import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

_WAIT_S = 120.0
_REMOVE_S = 30.0
_PROBE = "import os, sys\nnode, version = os.uname().nodename, '.'.join(map(str, sys.version_info[:3]))\n"


def executor(name: str, host: str) -> Iterator[Finding]:
    """Ask for the queue, then run a step; a job that waits for long is cancelled, and its reason said."""
    from kale_magic.api.workflow import submit
    from kale_magic.model.step import Step
    from kale_magic.model.workflow import Workflow

    folder = Path(tempfile.mkdtemp(prefix="kale-doctor-", dir=config.load().state_dir))
    there = ""
    workflow = Workflow(name="doctor", steps={"look": Step(name="look", code=_PROBE, outputs=("node", "version"))})
    try:
        with Client.connect(host=host) as client:
            there = client.folder_there(folder)
            begun = time.monotonic()
            mine = client.survey(name)
            yield Finding(f"{name} queue", "ok", f"answers in {(time.monotonic() - begun) * 1e3:.0f} ms; your jobs there: {len(mine)}")
            run = submit(workflow, client=client, folder=folder, executor=name)
            yield _see_through(client, run.name, name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if host and there:
            _remove_there(host, there)


def _remove_there(host: str, folder: str) -> None:
    """Remove the probe's folder on a host; a host that is out of reach by now keeps it."""
    from kale_proxy.tunnel.dialer import default
    from kale_proxy.tunnel.errors import TunnelError

    with contextlib.suppress(TunnelError):
        default().output(host, shlex.join(["rm", "-rf", "--", folder]), time.monotonic() + _REMOVE_S)


def _see_through(client: Client, run: str, name: str) -> Finding:
    part = f"{name} job"
    try:
        found = client.wait(run, timeout=_WAIT_S)
    except TimeoutError:
        reason = client.status(run)["steps"]["look"]["reason"]
        client.cancel(run)
        return Finding(part, "warning", f"has waited {_WAIT_S:g} s and was cancelled: {reason}", "Submit when the queue is shorter, or ask for another partition.")
    step: dict[str, Any] = found["steps"]["look"]
    if step["state"] != "completed":
        return Finding(part, "wrong", f"is {step['state']}: {step['reason']}", f"jupyter kale logs {run}/look --script")
    waited, ran = _seconds(step["queued_at"], step["started_at"]), _seconds(step["started_at"], step["ended_at"])
    return Finding(part, "ok", f"job {step['native_id']} ran on {step['node']}: {waited:.1f} s in the queue, {ran:.1f} s in its kernel")


def _seconds(start: str, end: str) -> float:
    from datetime import datetime

    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
