"""The ways in which Slurm misleads a manager, each on the real Slurm: nothing is lost, nothing runs twice.

Each of these fails on a manager that trusts job numbers, exit codes of commands, or silence. The numbers are those of the
list in the README, "What Slurm does".
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kale_proxy.spec import JobSpec, ParentSpec

if TYPE_CHECKING:
    from tests.cluster.conftest import Login
    from tests.cluster.hosts import Hosts

pytestmark = [pytest.mark.slurm]

NOTE = "with open('ran.txt', 'a') as file: print({!r}, file=file)\n"


class Shim:
    """An sbatch before the real one on the manager's path: a script that finds the real one in ``$REAL``."""

    def __init__(self, login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = login.home / "bin"
        self.folder.mkdir()
        monkeypatch.setenv("PATH", f"{self.folder}:{os.environ['PATH']}")
        login.client.shutdown()  # the next one has this path
        self.real = subprocess.run(["which", "-a", "sbatch"], capture_output=True, text=True, check=True).stdout.split()[0]

    def write(self, body: str) -> None:
        """Do something once instead of the real sbatch; probes pass."""
        path = self.folder / "sbatch"
        used = self.folder / "used"
        used.unlink(missing_ok=True)
        path.write_text(
            f'#!/bin/bash\nREAL={self.real}\n[ "$1" = --test-only ] && exec $REAL "$@"\n[ -e {used} ] && exec $REAL "$@"\ntouch {used}\n{body}\n'
        )
        path.chmod(0o755)

    @property
    def is_used(self) -> bool:
        return (self.folder / "used").exists()


@pytest.fixture
def shim(login: Login, monkeypatch: pytest.MonkeyPatch) -> Shim:
    return Shim(login, monkeypatch)


def test_1_job_whose_parent_slurm_has_forgotten_is_started_by_slurm_and_refuses_to_run(login: Login) -> None:
    folder = login.home / "steps"
    (folder / "parent").mkdir(parents=True)
    (folder / "child").mkdir()
    (folder / "parent" / "result.json").write_text(json.dumps({"state": "failed"}))
    parent = ParentSpec(step="parent", folder=str(folder / "parent"))
    spec = JobSpec(
        run="r", step="child", point=None, attempt=1, uuid=uuid.uuid4().hex, folder=str(folder / "child"), cwd=str(login.home),
        kind="python", code=NOTE.format("child"), parents=(parent,),
    )  # fmt: skip
    (login.home / "job.json").write_text(spec.to_json())
    run = f"{sys.executable} -m kale_proxy run {login.home}/job.json"
    job = login.run("sbatch", "--parsable", "--dependency=afterok:99999", "--kill-on-invalid-dep=yes", f"--output={login.home}/out", "--wrap", run).strip()
    login.until(lambda: login.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T").strip() in {"FAILED", "COMPLETED", "CANCELLED"})
    assert login.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T").strip() == "FAILED"  # so Slurm did start it
    assert "`parent`, which it needs, is failed" in (login.home / "out").read_text()
    assert login.ran() == []
    assert not list((folder / "child").glob("*.claim"))


def test_2_number_that_slurm_gave_twice_is_not_taken_for_our_job(login: Login, hosts: Hosts) -> None:
    wf = login.workflow()
    wf.step("s", NOTE.format("s"))
    login.run("sbatch", "--hold", "--wrap", "true", "--output=/dev/null")
    time.sleep(6)  # slurmctld writes its state every 5 s: what comes now is lost with it
    for node in hosts.nodes:
        login.run("scontrol", "update", f"nodename={node.name}", "state=drain", "reason=test")
    run = wf.submit()
    number = login.until(lambda: run.status()["steps"]["s"]["native_id"])
    hosts.kill_controller()
    hosts.start_controller()
    login.until(lambda: login.answers())
    foreign = ""
    while foreign != number:
        foreign = login.run("sbatch", "--parsable", "--wrap", "sleep 300", "--output=/dev/null", "--job-name=foreign").strip()
        assert int(foreign) <= int(number), "Slurm did not forget: nothing was tested"
    login.resume_nodes()
    steps = login.completed(run)
    assert steps["s"]["native_id"] != number
    assert login.ran() == ["s"]
    assert "foreign RUNNING" in login.squeue()  # nobody cancelled it


@pytest.mark.timeout(400)
def test_3_controller_that_is_down_for_a_minute_freezes_what_is_known_and_loses_nothing(login: Login, hosts: Hosts) -> None:
    wf = login.workflow()
    wf.step("a", f"import time; time.sleep(105)\n{NOTE.format('a')}")
    wf.step("b", NOTE.format("b"), after=["a"])
    run = wf.submit()
    login.until(lambda: run.states()["a"] == "running")
    time.sleep(6)  # slurmctld writes its state every 5 s: to forget jobs is another fact
    hosts.kill_controller()
    other = login.workflow("other")
    other.step("c", NOTE.format("c"))
    second = other.submit()
    reason = login.until(lambda: (found := second.status()["steps"]["c"]["reason"]).startswith("Slurm has not answered since") and found, 60)
    assert "it is asked again and again" in reason
    time.sleep(60)
    assert (run.states()["a"], run.states()["b"], second.states()["c"]) == ("running", "waiting", "queued")
    hosts.start_controller()
    login.completed(run, 200)  # slurmd tells of jobs that ended meanwhile when it thinks of it
    login.completed(second, 90)
    assert sorted(login.ran()) == ["a", "b", "c"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_4_controller_that_is_killed_during_sbatch_costs_no_job_and_doubles_none(login: Login, hosts: Hosts, shim: Shim, when: str) -> None:
    assert hosts.controller is not None
    kill = f"kill -9 {hosts.controller.pid}"
    lost = 'echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2; exit 1'
    shim.write(f'{kill}; exec $REAL "$@"' if when == "before" else f'$REAL "$@" >/dev/null; {kill}; {lost}')
    wf = login.workflow()
    wf.step("a", NOTE.format("a"))
    wf.step("b", NOTE.format("b"), after=["a"])
    run = wf.submit()
    login.until(lambda: hosts.controller is not None and hosts.controller.poll() is not None)
    hosts.forget_controller()
    time.sleep(2)
    hosts.start_controller()
    login.completed(run, 120)
    assert login.ran() == ["a", "b"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_5_sbatch_that_hangs_is_ended_and_the_queue_is_asked_for_the_name(login: Login, shim: Shim, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KALE_SLURM_COMMAND_S", "3")
    shim.write("sleep 1000" if when == "before" else '$REAL "$@" >/dev/null; sleep 1000')
    wf = login.workflow()
    wf.step("a", NOTE.format("a"))
    run = wf.submit()
    login.until(lambda: shim.is_used)
    login.completed(run)
    assert login.ran() == ["a"]
    names = login.run("squeue", "-h", "-t", "all", "-o", "%j").split()
    assert len([name for name in names if name == f"kale-{run.status()['steps']['a']['job']}"]) == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_6_manager_that_is_killed_between_sbatch_and_its_answer_finds_the_job_by_name(login: Login, shim: Shim, when: str) -> None:
    kill = "kill -9 $PPID"
    shim.write(f"{kill}; exit 1" if when == "before" else f'$REAL "$@" >/dev/null; {kill}')
    wf = login.workflow()
    wf.step("a", NOTE.format("a"))
    wf.step("b", NOTE.format("b"), each={"i": "range(3)"}, after=["a"])
    run = wf.submit()
    login.until(lambda: shim.is_used)
    login.completed(run)
    assert sorted(login.ran()) == ["a", "b", "b", "b"]


def test_7_children_of_a_step_that_is_tried_again_are_submitted_again_and_run_once(login: Login) -> None:
    wf = login.workflow()
    first = "import os\nif not os.path.exists('once'):\n    open('once', 'w').close()\n    raise RuntimeError('the first time')\n"
    wf.step("a", first + NOTE.format("a"), retries=1)
    wf.step("b", NOTE.format("b"), after=["a"])
    wf.step("c", NOTE.format("c"), after=["b"])
    run = wf.submit()
    steps = login.completed(run)
    assert login.ran() == ["a", "b", "c"]
    assert [steps[name]["attempt"] for name in "abc"] == [2, 2, 2]
    assert (Path(str(login.folder(run))) / "a" / "attempts" / "1" / "result.json").exists()


def test_8_kill_9_of_the_manager_at_any_time_runs_each_job_once(login: Login) -> None:
    wf = login.workflow()
    wf.step("a", NOTE.format("a"), each={"i": "range(5)"})
    wf.step("b", NOTE.format("b"), after=["a"])
    wf.step("c", NOTE.format("c"), each={"i": "range(5)"}, after=["b"])
    run = wf.submit()
    for pause in (0.05, 0.2, 0.4, 0.8, 1.3):
        time.sleep(pause)
        login.kill_manager()
    login.completed(run)
    assert sorted(login.ran()) == ["a"] * 5 + ["b"] + ["c"] * 5


def test_9_worker_that_is_killed_is_lost_and_tried_once_more(login: Login) -> None:
    wf = login.workflow()
    wf.step("a", f"import os, time\n{NOTE.format('a')}\ntime.sleep(2 if os.environ['KALE_ATTEMPT'] == '2' else 100)")
    run = wf.submit()
    login.until(lambda: login.ran() and run["a"].target().kernel is not None)
    [file] = (login.home / "runtime").glob("*.json")
    kernel = json.loads(file.read_bytes())["pid"]
    worker = int(Path(f"/proc/{kernel}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(worker, signal.SIGKILL)
    os.kill(kernel, signal.SIGKILL)
    steps = login.completed(run)
    assert steps["a"]["attempt"] == 2
    assert login.ran() == ["a", "a"]
