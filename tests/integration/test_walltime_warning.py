"""A step is told that its end is near, saves what it keeps, and the next one goes on from there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from kale_proxy import values
from tests.integration._supervisor import LimitSpec, SupervisorClient

LOOP = """
import time
from kale_magic.inside import checkpoint
state = checkpoint.load(i=0, twice=0)
print("from", state["i"], flush=True)
i, twice = state["i"], state["twice"]
while i < 100_000:
    i += 1
    time.sleep(0.01)
    twice += 2
    checkpoint.keep(i=i, twice=twice)
"""


@pytest.fixture
def shared():
    folder = Path(tempfile.mkdtemp(prefix="kw-", dir="/tmp"))
    client = SupervisorClient(folder)
    yield client
    client.process.terminate()
    client.process.wait(10)
    client.socket.close()
    client.lines.close()
    shutil.rmtree(folder, ignore_errors=True)


def kept(spec):
    """What is in the checkpoint of a step."""
    home = Path(spec.folder) / "checkpoint"
    files = home / str(json.loads((home / "current.json").read_text())["number"])
    return {name: values.load(files, name) for name in values.read_index(files)}


def events(spec, name):
    lines = (Path(spec.folder) / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_kept_values_are_saved_together_before_the_walltime_ends_and_the_next_step_goes_on(shared):
    spec = shared.start(LOOP, limits=LimitSpec(walltime_s=4), warn_s=2.0)
    told = shared.event(spec, "state")
    assert told["state"] == "running"
    assert told["reason"].startswith("its walltime of 00:00:04 ends in ")
    result = shared.event(spec, "ended")["result"]
    assert result["reason"] == "its walltime of 00:00:04 was reached (--walltime)"
    found = kept(spec)
    assert found["i"] > 50
    assert found["twice"] == 2 * found["i"]
    assert [event["reason"] for event in events(spec, "checkpoint")] == ["saved, since the end of the step is near"]
    assert len(events(spec, "warned")) == 1
    again = shared.start(LOOP, env={"KALE_CHECKPOINT": spec.folder})
    wait_for(lambda: (Path(again.folder) / "stdout.log").exists() and (Path(again.folder) / "stdout.log").read_text().endswith("\n"))
    assert (Path(again.folder) / "stdout.log").read_text() == f"from {found['i']}\n"
    shared.send(op="cancel", uuid=again.uuid)
    shared.event(again, "ended")


def test_nothing_is_saved_while_there_is_time(shared):
    spec, result = shared.run(LOOP.replace("100_000", "20"), limits=LimitSpec(walltime_s=60))
    assert result["state"] == "completed"
    assert not (Path(spec.folder) / "checkpoint").exists()


@pytest.mark.parametrize("kind", ["python", "kernel"])
def test_a_kept_function_is_called_amid_code_that_keeps_nothing_itself(shared, kind):
    code = """
import time
from kale_magic.inside import checkpoint
n = 0
def library():
    global n
    while True:
        n += 1
        time.sleep(0.01)
checkpoint.keep(lambda: {"n": n})
library()
"""
    spec = shared.start(code, kind, limits=LimitSpec(walltime_s=8), warn_s=3.0)
    assert shared.event(spec, "ended")["result"]["reason"] == "its walltime of 00:00:08 was reached (--walltime)"
    assert kept(spec)["n"] > 10


def test_a_function_that_fails_is_told_and_does_not_end_the_step(shared):
    code = """
import time
from kale_magic.inside import checkpoint
def broken():
    raise RuntimeError("no state yet")
checkpoint.keep(broken)
end = time.monotonic() + 2
while time.monotonic() < end:
    time.sleep(0.01)
"""
    spec, result = shared.run(code, limits=LimitSpec(walltime_s=60), warn_s=59.0)
    assert result["state"] == "completed"
    assert [event["error"] for event in events(spec, "checkpoint")] == ["RuntimeError: no state yet"]
    assert "no state yet" in (Path(spec.folder) / "stderr.log").read_text()


def test_sigterm_to_all_processes_lets_a_keeping_step_save_and_then_ends_it(shared):
    spec = shared.start(LOOP + "\nimport subprocess\n")
    pid = shared.event(spec, "running")["pid"]
    wait_for(lambda: (Path(spec.folder) / "stdout.log").exists())
    time.sleep(0.3)
    os.kill(pid, signal.SIGTERM)
    result = shared.event(spec, "ended")["result"]
    assert (result["state"], result["signal"]) == ("failed", signal.SIGTERM)
    assert kept(spec)["twice"] == 2 * kept(spec)["i"] > 0


def test_sigterm_ends_a_step_that_keeps_nothing_at_once(shared):
    spec = shared.start("import time\nprint('go', flush=True)\ntime.sleep(60)")
    pid = shared.event(spec, "running")["pid"]
    wait_for(lambda: (Path(spec.folder) / "stdout.log").exists())
    os.kill(pid, signal.SIGTERM)
    assert shared.event(spec, "ended")["result"]["signal"] == signal.SIGTERM


def test_a_shell_steps_trap_is_told_and_one_without_a_trap_is_left_alone(shared):
    trapped = "trap 'echo saving; touch saved' USR1\nsleep 30 & pid=$!\nwait $pid || true\n[ -e saved ] && kill $pid"
    spec, result = shared.run(trapped, "shell", limits=LimitSpec(walltime_s=20), warn_s=18.0)
    assert (result["state"], (Path(spec.folder) / "stdout.log").read_text()) == ("completed", "saving\n")
    spec, result = shared.run("for i in $(seq 30); do sleep 0.1; done; echo whole", "shell", limits=LimitSpec(walltime_s=20), warn_s=18.5)
    assert (result["state"], (Path(spec.folder) / "stdout.log").read_text()) == ("completed", "whole\n")
    assert len(events(spec, "warned")) == 1


def test_the_worker_of_a_batch_job_tells_its_step_and_gives_it_time(tmp_path):
    from kale_proxy.spec import JobSpec

    folder = Path(tempfile.mkdtemp(prefix="kw-", dir="/tmp"))
    spec = JobSpec(run="r", step="md", point=None, attempt=1, uuid="a" * 32, folder=str(tmp_path / "s"), cwd=str(tmp_path), kind="python", code=LOOP.replace("0.01", "1.5"))
    Path(spec.folder).mkdir()
    job = tmp_path / "job.json"
    job.write_text(spec.to_json())
    worker = subprocess.Popen([sys.executable, "-m", "kale_proxy", "run", str(job)], env={**os.environ, "KALE_HOME": str(folder)}, stdout=subprocess.PIPE, text=True)
    wait_for(lambda: (tmp_path / "s" / "stdout.log").exists())
    worker.send_signal(signal.SIGUSR1)
    wait_for(lambda: (tmp_path / "s" / "checkpoint" / "current.json").exists())
    assert events(spec, "warned")[0]["reason"] == "the batch system says that its time is nearly over"
    before = kept(spec)["i"]
    worker.send_signal(signal.SIGTERM)  # in the midst of 1.5 s that are not cut short
    assert worker.wait(20) == 1
    assert kept(spec)["i"] > before
    assert json.loads((tmp_path / "s" / "result.json").read_text())["reason"] == "ended by the batch system (SIGTERM)"
    worker.communicate()
    shutil.rmtree(folder, ignore_errors=True)


def test_each_point_of_a_kept_kernel_is_told_by_its_own_walltime(kale_home, tmp_path):
    from kale_magic import Workflow

    code = """
import time
from kale_magic.inside import checkpoint
i, near = 0, False
while not near:
    i += 1
    time.sleep(0.01)
    near = checkpoint.keep(i=i, p=p)
kept = checkpoint.load()["p"]
"""
    wf = Workflow("w", folder=tmp_path)
    wf.step("s", code, each={"p": [1, 2]}, reuse_kernel=True, walltime="4s", warn="3s", outputs=["kept", "i"])
    run = wf.submit(cache=False)
    assert run.wait(60) == "completed", run.status()["steps"]
    assert run["s"].pull("kept") == [1, 2]
    assert min(run["s"].pull("i")) > 20
