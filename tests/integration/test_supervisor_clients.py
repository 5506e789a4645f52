"""Several clients of one supervisor, and what happens when they go at awkward moments."""

import json
import os
import shutil
import signal
import socket
import tempfile
from pathlib import Path

import pytest

from tests.integration._supervisor import SupervisorClient


@pytest.fixture
def supervisor():
    folder = Path(tempfile.mkdtemp(prefix="kale-s-", dir="/tmp"))
    client = SupervisorClient(folder)
    yield client
    client.close()
    shutil.rmtree(folder, ignore_errors=True)


def test_a_client_that_goes_while_all_are_being_told_ends_nobody_elses_work(supervisor):
    others = []
    for _ in range(4):
        other = socket.socket(socket.AF_UNIX)
        other.connect(str(supervisor.folder / "w" / "s"))
        with other.makefile() as lines:
            assert json.loads(lines.readline())["ev"] == "hello"
        others.append(other)
    (supervisor.work / "blocker").write_text("")
    os.kill(supervisor.process.pid, signal.SIGSTOP)  # so that it finds the request and the closed sockets at once
    try:
        spec = supervisor.start("pass", folder=str(supervisor.work / "blocker" / "step"))
        for other in others:
            other.close()
    finally:
        os.kill(supervisor.process.pid, signal.SIGCONT)
    assert "blocker" in supervisor.event(spec, "refused")["reason"]
    _, result = supervisor.run("1 + 1")
    assert result["state"] == "completed"
