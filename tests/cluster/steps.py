"""Steps on compute nodes, as a batch job runs them: the worker, started by a real sbatch on node1."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import uuid
from typing import TYPE_CHECKING, NamedTuple

import pytest

from kale_proxy.places import socket_dir
from kale_proxy.spec import JobSpec
from kale_proxy.tunnel.route import Reach

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cluster.hosts import Hosts

LOOP = "import time\nn = 0\nwhile True:\n    n += 1\n    time.sleep(0.01)\n"


class NodeStep(NamedTuple):
    """A running step: its live folder on node1, its kernel's key, its job."""

    folder: Path
    key: str
    job: str

    def reach(self, *, by_srun: bool = False, **words: str) -> Reach:
        """How to get there from the laptop."""
        job = {"job_id": self.job} if by_srun else {}
        return Reach.of(self.folder, self.key, node="node1", **{"login": "login", "python": sys.executable, **job, **words})


@contextlib.contextmanager
def node_step(hosts: Hosts, home: Path, code: str = LOOP) -> Iterator[NodeStep]:
    """Run a step on node1 until the end of the block; ``home`` is the KALE_HOME there."""
    work = home / uuid.uuid4().hex[:8]
    (work / "run").mkdir(parents=True)
    spec = JobSpec(
        run="r", step="md", point=None, attempt=1, uuid=uuid.uuid4().hex, folder=str(work / "run"), cwd=str(work), kind="python", code=code
    )
    (work / "job.json").write_text(spec.to_json())
    script = f"#!/bin/sh\nexec {sys.executable} -m kale_proxy run {work}/job.json\n"
    (work / "job.sh").write_text(script)
    environ = hosts.environ(KALE_HOME=str(work))
    submit = hosts.login.argv("sbatch", "--parsable", "--nodelist=node1", f"--output={work}/out", str(work / "job.sh"))
    job = subprocess.run(submit, capture_output=True, text=True, check=True, env=environ, cwd=work).stdout.strip()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KALE_HOME", str(work))
        sockets = socket_dir()
    try:
        yield NodeStep(*_live(sockets, work), job)
    finally:
        subprocess.run(hosts.login.argv("scancel", job), check=False, env=environ)


def _live(sockets: Path, work: Path) -> tuple[Path, str]:
    deadline = time.monotonic() + 60
    while True:
        for file in sockets.glob("j/*/p/*/kernel.json"):
            with contextlib.suppress(OSError, ValueError):
                return file.parent, str(json.loads(file.read_text())["key"])
        said = (work / "out").read_text() if (work / "out").exists() else "it has not begun"
        assert time.monotonic() < deadline, f"the step on node1 has no kernel: {said}"
        time.sleep(0.05)
