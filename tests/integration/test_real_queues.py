"""Whole workflows by a real OpenPBS or a real Flux, where this runs with one: both have no packages, and are built by hand (README.rst, Other batch systems).

::

    python -m tests.cluster.pbs [--no-history] python -m pytest -n0 tests/integration/test_real_queues.py
    KALE_TEST_QUEUE=flux flux start -s 2 python -m pytest -n0 tests/integration/test_real_queues.py
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from kale_magic import Workflow
from kale_magic.api.hold import hold, release
from kale_magic.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SYSTEM = os.environ.get("KALE_TEST_QUEUE", "")
NAMES = {"pbs": "PBS", "flux": "Flux"}
LOOP = "import os, time\nn = 0\nwhile not os.path.exists('go'):\n    n += 1\n    time.sleep(0.02)"
COUNT = "with open('ran.txt', 'a') as file: print('once', file=file)\n"

if SYSTEM not in NAMES:
    pytest.skip("needs a real PBS or Flux, built by hand (README.rst, Other batch systems): python -m tests.cluster.pbs python -m pytest -n0 tests/integration/test_real_queues.py", allow_module_level=True)

pytestmark = pytest.mark.timeout(180)
HAS_HISTORY = os.environ.get("KALE_TEST_HISTORY", "1") == "1"
with_history = pytest.mark.skipif(not HAS_HISTORY, reason="a server that keeps no history does not say it: run without --no-history")
on_pbs = pytest.mark.skipif(SYSTEM != "pbs", reason="of PBS alone: python -m tests.cluster.pbs python -m pytest -n0 tests/integration/test_real_queues.py")


@pytest.fixture
def work(kale_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder of a workflow, on the disk that nodes share; what is left in the queue is cancelled afterwards."""
    monkeypatch.setenv("KALE_SLURM_GRACE_S", "4")
    monkeypatch.setenv("KALE_SLURM_POLL_S", "0.3")
    monkeypatch.setenv("KALE_SSH", os.environ.get("KALE_TEST_SSH", "ssh"))
    (kale_home / "work").mkdir()
    yield kale_home / "work"
    if SYSTEM == "pbs":
        for job in say("qselect").split():
            subprocess.run(["qdel", job], check=False, capture_output=True, timeout=30)
    else:
        subprocess.run(["flux", "cancel", "--all"], check=False, capture_output=True, timeout=30)
    deadline = time.monotonic() + 30
    while live() and time.monotonic() < deadline:
        time.sleep(0.2)


@pytest.fixture
def wf(work: Path) -> Workflow:
    return Workflow("eos", executor=SYSTEM, folder=work)


def say(*words: str) -> str:
    """Return what a program of the system prints."""
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=30).stdout


def live() -> str:
    """Return the jobs in the queue that have not ended."""
    return say("qselect") if SYSTEM == "pbs" else say("flux", "jobs", "-n")


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody waits for stays as a zombie."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def filled() -> dict[str, Any]:
    """What a step asks for that leaves room for no other."""
    if SYSTEM == "pbs":
        return {"nodes": 2, "cpus": 8}
    nodes, cores = (int(word) for word in say("flux", "resource", "list", "-n", "-s", "all", "-o", "{nnodes} {ncores}").split())
    return {"cpus": cores // nodes, "nodes": nodes}


def test_a_workflow_with_a_sweep_goes_through_the_queue(wf: Workflow, work: Path) -> None:
    wf.step("make", "import os\nx = 2\nenv = dict(os.environ)", outputs=["x", "env"], cpus=1, walltime="00:05:00")
    wf.step("each", "y = x * p", outputs=["y"], each={"p": [1, 2, 3]})
    wf.step("sum", "echo $y > z.txt; z=done", shell=True, inputs=["y"], outputs=["z"], setup=["export FROM_SETUP=1"])
    run = wf.submit(cache=False)
    assert run.wait(100) == "completed", run.status()["steps"]
    assert run["each"].pull("y") == [2, 4, 6]
    steps = run.status()["steps"]
    assert len({point["native_id"] for point in steps["each"]["points"].values()}) == 3
    environ = run["make"].pull("env")
    mine = environ["PBS_JOBID"] if SYSTEM == "pbs" else environ["FLUX_ENCLOSING_ID"]
    assert mine.replace("ƒ", "f") == steps["make"]["native_id"].replace("ƒ", "f")
    assert "KALE_TEST_QUEUE" not in environ
    assert "make: completed" in (work / ".kale" / "runs" / run.name / "steps" / "make" / "job.log").read_text()


def test_what_needs_a_step_that_fails_is_cancelled_and_the_rest_goes_on(wf: Workflow) -> None:
    wf.step("bad", "1/0")
    wf.step("after", COUNT, after=["bad"])
    wf.step("other", "pass")
    run = wf.submit(cache=False)
    assert run.wait(60) == "failed"
    assert run.states() == {"bad": "failed", "after": "cancelled", "other": "completed"}
    assert "ZeroDivisionError" in run["bad"].reason


def test_the_queues_reason_is_shown_and_a_job_is_visited_stopped_and_cancelled(wf: Workflow, work: Path, until: Callable[..., Any]) -> None:
    wf.step("first", LOOP, shell=False, hold="1s", **filled())
    run = wf.submit(cache=False)
    until(lambda: run["first"].target().kernel is not None and run["first"].pull("n") > 5, "the first", 60)
    assert int(str(run["first"].execute("n"))) > 5
    others = Workflow("more", executor=SYSTEM, folder=work)
    others.step("second", "pass")
    others.step("third", "pass")
    more = others.submit(cache=False)
    words = "Not enough free nodes available" if SYSTEM == "pbs" else "is in Flux's queue"
    until(lambda: words in more["second"].reason, "the reason", 60)
    more["third"].cancel()
    until(lambda: more["third"].state == "cancelled", "the cancel", 60)
    assert more["third"].reason.startswith("cancelled by you")
    run["first"].stop()
    until(lambda: run["first"].state == "cancelled", "the stop", 60)
    assert run["first"].reason == "stopped by the user"
    until(lambda: more["second"].state == "completed", "the second", 60)


def test_a_running_job_is_cancelled_and_leaves_no_process(wf: Workflow, until: Callable[..., Any]) -> None:
    wf.step("md", "import os\npid = os.getpid()\n" + LOOP)
    run = wf.submit(cache=False)
    until(lambda: run["md"].target().kernel is not None, "the step", 60)
    pid = run["md"].pull("pid")
    run["md"].cancel()
    until(lambda: run["md"].state == "cancelled", "the cancel", 60)
    assert run["md"].reason == "cancelled by you"
    until(lambda: is_gone(pid), "its end", 30)


def test_a_job_that_is_cancelled_by_hand_says_so(wf: Workflow, until: Callable[..., Any]) -> None:
    wf.step("md", LOOP)
    run = wf.submit(cache=False)
    until(lambda: run["md"].target().kernel is not None, "the step", 60)
    number = run.status()["steps"]["md"]["native_id"]
    subprocess.run(["qdel", number] if SYSTEM == "pbs" else ["flux", "cancel", number], check=True, timeout=30)
    until(lambda: run["md"].state == "cancelled", "the cancel", 60)
    assert run["md"].reason == f"cancelled in {NAMES[SYSTEM]}'s queue, not by Kale (by hand, or by an administrator)"


@with_history
def test_a_job_that_is_cancelled_by_hand_before_it_began_says_so(wf: Workflow, until: Callable[..., Any]) -> None:
    wf.step("first", LOOP, **filled())
    run = wf.submit(cache=False)
    until(lambda: run["first"].target().kernel is not None, "the step", 60)
    wf = Workflow("more", executor=SYSTEM, folder=run.folder.parents[2])
    wf.step("md", COUNT)
    more = wf.submit(cache=False)
    number = until(lambda: more.status()["steps"]["md"]["native_id"], "its number", 30)
    subprocess.run(["qdel", number] if SYSTEM == "pbs" else ["flux", "cancel", number], check=True, timeout=30)
    until(lambda: more["md"].state == "cancelled", "the cancel", 60)
    assert more["md"].reason == f"cancelled in {NAMES[SYSTEM]}'s queue, not by Kale (by hand, or by an administrator)"


def test_a_job_is_held_and_released_in_the_queue(wf: Workflow, until: Callable[..., Any]) -> None:
    wf.step("first", LOOP, **filled())
    run = wf.submit(cache=False)
    until(lambda: run["first"].target().kernel is not None, "the step", 60)
    wf = Workflow("more", executor=SYSTEM, folder=run.folder.parents[2])
    wf.step("md", "pass")
    more = wf.submit(cache=False)
    until(lambda: more.status()["steps"]["md"]["native_id"], "its number", 60)
    hold(Client.connect(), more["md"].target())
    until(lambda: more["md"].state == "held", "the hold", 60)
    (run.folder.parents[2] / "go").touch()
    assert run.wait(60) == "completed"
    time.sleep(3)
    assert more["md"].state == "held"
    release(Client.connect(), more["md"].target())
    assert more.wait(60) == "completed"


def test_a_walltime_ends_a_job_and_is_named(wf: Workflow, until: Callable[..., Any]) -> None:
    wf.step("md", "import os\nopen('pid', 'w').write(str(os.getpid()))\n" + LOOP, walltime="00:00:12")
    run = wf.submit(cache=False)
    assert run.wait(150) == "failed"
    assert "walltime" in run["md"].reason
    pid = int((run.folder.parents[2] / "pid").read_text())
    until(lambda: is_gone(pid), "its end", 30)


def test_a_refusal_is_said_in_the_systems_own_words(wf: Workflow) -> None:
    wf.step("md", "pass", queue="nonesuch")
    run = wf.submit(cache=False)
    assert run.wait(60) == "failed"
    words = {"pbs": "PBS refused it: Unknown queue", "flux": "Flux refused it: 'nonesuch' is not a valid queue"}[SYSTEM]
    assert run["md"].reason == words


def test_more_than_there_is_is_said(wf: Workflow, until: Callable[..., Any]) -> None:
    wf.step("md", "pass", cpus=512)
    run = wf.submit(cache=False)
    words = {
        "pbs": "Can Never Run: Insufficient amount of resource: ncpus (R: 512 A: 16 T: 16)",
        "flux": "Flux refused it: unsatisfiable request: need 1 slot(s) of 512 core(s), only 0 such slot(s) available",
    }[SYSTEM]
    until(lambda: words in run["md"].reason, "a reason", 60)
    assert run["md"].state == {"pbs": "queued", "flux": "failed"}[SYSTEM]


def test_several_nodes_and_tasks_are_given(wf: Workflow) -> None:
    code = "sort $PBS_NODEFILE > nodes.txt" if SYSTEM == "pbs" else "flux resource list -n -s all -o '{nnodes} {ncores}' > nodes.txt; flux run -n 4 hostname > ranks.txt"
    wf.step("mpi", code, shell=True, nodes=2, ntasks=4, cpus=1)
    run = wf.submit(cache=False)
    assert run.wait(60) == "completed", run.status()["steps"]
    folder = run.folder.parents[2]
    if SYSTEM == "pbs":
        assert (folder / "nodes.txt").read_text().split() == ["node1", "node1", "node2", "node2"]
    else:
        assert (folder / "nodes.txt").read_text().split() == ["2", "4"]
        assert len((folder / "ranks.txt").read_text().split()) == 4


def test_a_batch_script_runs_as_it_stands(wf: Workflow) -> None:
    head = "#PBS -l select=1:ncpus=2\n#PBS -N mine\n" if SYSTEM == "pbs" else "# flux: -n1\n# flux: --cores-per-slot=2\n# flux: --job-name=mine\n"
    where = "cd $PBS_O_WORKDIR\n" if SYSTEM == "pbs" else ""
    wf.step("s", f"#!/bin/bash\n{head}{where}echo here is $0\npwd > where.txt\n")
    run = wf.submit(cache=False)
    assert run.wait(60) == "completed", run.status()["steps"]
    folder = run.folder.parents[2]
    assert (folder / "where.txt").read_text().strip() == str(folder)
    assert "here is" in run["s"].logs()


def test_a_job_that_is_there_is_found_by_a_new_manager(wf: Workflow, work: Path, until: Callable[..., Any]) -> None:
    wf.step("md", COUNT + LOOP)
    wf.step("after", COUNT, after=["md"])
    run = wf.submit(cache=False)
    until(lambda: run["md"].state == "running", "the step", 60)
    pid = Client.connect().manager()["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: is_gone(pid), "its end")
    (work / "go").touch()
    assert run.wait(60) == "completed"
    assert (work / "ran.txt").read_text() == "once\nonce\n"


def test_an_unanswered_submission_runs_once(wf: Workflow, work: Path, until: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    program = {"pbs": "qsub", "flux": "flux"}[SYSTEM]
    real = next(folder for folder in os.environ["PATH"].split(":") if (Path(folder) / program).exists())
    (work / "bin").mkdir()
    slow = "true" if SYSTEM == "pbs" else '[ "$1" = batch ]'
    (work / "bin" / program).write_text(f'#!/bin/sh\nif {slow} && [ ! -e {work}/answers ]; then {real}/{program} "$@" > {work}/number; sleep 60; fi\nexec {real}/{program} "$@"\n')
    (work / "bin" / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{work}/bin:{os.environ['PATH']}")
    wf.step("md", COUNT)
    run = wf.submit(cache=False)
    until(lambda: (work / "number").exists() and (work / "number").read_text(), "the submission", 30)
    pid = Client.connect().manager()["pid"]
    os.kill(pid, signal.SIGKILL)
    (work / "answers").touch()
    until(lambda: is_gone(pid), "its end")
    assert run.wait(90) == "completed"
    assert (work / "ran.txt").read_text() == "once\n"


def test_a_job_that_the_system_forgot_is_known_by_its_files(wf: Workflow, work: Path, until: Callable[..., Any]) -> None:
    wf.step("md", "x = 7\n" + LOOP, outputs=["x"])
    run = wf.submit(cache=False)
    until(lambda: run["md"].state == "running", "the step", 60)
    pid = Client.connect().manager()["pid"]
    os.kill(pid, signal.SIGKILL)
    (work / "go").touch()
    until(lambda: list((work / ".kale").rglob("result.json")), "the result", 30)
    until(lambda: not live(), "its end in the queue", 60)
    if SYSTEM == "pbs":
        for job in say("qselect", "-x").split():
            subprocess.run(["qdel", "-x", job], check=False, timeout=30)
        assert not HAS_HISTORY or not say("qselect", "-x")
    else:
        subprocess.run(["flux", "job", "purge", "--force", "--num-limit=0"], check=True, timeout=30)
        assert say("flux", "jobs", "-a", "-n") == ""
    assert run.wait(60) == "completed"
    assert run["md"].pull("x") == 7


@on_pbs
def test_while_the_server_is_away_states_stay_and_nothing_is_lost(wf: Workflow, work: Path, until: Callable[..., Any]) -> None:
    control = Path(os.environ["KALE_TEST_CONTROL"])
    wf.step("md", LOOP)
    wf.step("next", COUNT, after=["md"])
    run = wf.submit(cache=False)
    until(lambda: run["md"].state == "running", "the step", 60)
    (control / "down").touch()
    until(lambda: (control / "is-down").exists(), "the server's end", 60)
    try:
        others = Workflow("more", executor=SYSTEM, folder=work)
        others.step("b", "pass")
        more = others.submit(cache=False)
        until(lambda: "PBS has not answered since" in more["b"].reason, "that it is away", 60)
        time.sleep(5)  # longer than the grace
        assert run["md"].state == "running"
        (work / "go").touch()
        time.sleep(3)
    finally:
        (control / "down").unlink()
    until(lambda: not (control / "is-down").exists(), "the server", 60)
    assert run.wait(100) == "completed", run.status()["steps"]
    assert more.wait(60) == "completed"
    assert (work / "ran.txt").read_text() == "once\n"


@on_pbs
@with_history
def test_a_job_that_pbs_runs_again_is_a_new_attempt(wf: Workflow, work: Path, until: Callable[..., Any]) -> None:
    wf.step("md", COUNT + LOOP, native=["#PBS -r y"])
    run = wf.submit(cache=False)
    until(lambda: run["md"].target().kernel is not None, "the step", 60)
    number = run.status()["steps"]["md"]["native_id"]
    subprocess.run(["qrerun", number], check=False, capture_output=True, timeout=60)  # it gives up before the server has done it
    until(lambda: run.status()["steps"]["md"]["attempt"] == 2, "a new attempt", 90)
    (work / "go").touch()
    assert run.wait(60) == "completed"
    assert (work / "ran.txt").read_text() == "once\nonce\n"
