"""Whole workflows by PBS, LSF and Flux, whose programs are fakes that run the scripts here (``tests/fakes/queue_programs.py``)."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from kale_magic import Workflow
from kale_magic.client import Client
from kale_magic.errors import SubmitError
from tests.fakes.queue_programs import install

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SYSTEMS = {"pbs": "PBS", "lsf": "LSF", "flux": "Flux"}
LOOP = "import time\nn = 0\nwhile True:\n    n += 1\n    time.sleep(0.02)"


@pytest.fixture(params=list(SYSTEMS))
def system(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of an executor whose programs are on the path; what they have started ends with the test."""
    (tmp_path / "queue").mkdir()
    monkeypatch.setenv("PATH", f"{install(tmp_path / 'bin')}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_QUEUE", str(tmp_path / "queue"))
    monkeypatch.setenv("KALE_SLURM_GRACE_S", "3")
    monkeypatch.setenv("KALE_SLURM_POLL_S", "0.3")
    yield str(request.param)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("FAKE_QUEUE") == str(tmp_path / "queue"):
                process.kill()


@pytest.fixture
def wf(system: str, kale_home: Path, tmp_path: Path) -> Workflow:
    (tmp_path / "work").mkdir()
    return Workflow("eos", executor=system, folder=tmp_path / "work")


def test_a_workflow_with_a_sweep_goes_through_the_queue(wf: Workflow, system: str, tmp_path: Path) -> None:
    wf.step("make", "x = 2", outputs=["x"], cpus=2, walltime="00:05:00")
    wf.step("each", "y = x * p", outputs=["y"], each={"p": [1, 2, 3]})
    wf.step("sum", "echo $y > z.txt; z=done", shell=True, inputs=["y"], outputs=["z"], setup=["export FROM_SETUP=1"])
    run = wf.submit(cache=False)
    assert run.wait(100) == "completed", run.status()["steps"]
    assert run["each"].pull("y") == [2, 4, 6]
    steps = run.status()["steps"]
    assert steps["make"]["native_id"] == {"pbs": "101.pbs01", "lsf": "101", "flux": "f1z1"}[system]
    script = (tmp_path / "work" / ".kale" / "runs" / run.name / "steps" / "make" / "job.sh").read_text()
    assert {"pbs": "#PBS -l walltime=0:05:00", "lsf": "#BSUB -W 0:05", "flux": "# flux: --time-limit=300s"}[system] in script


def test_points_that_share_kernels_are_shared_out_among_few_jobs(wf: Workflow, system: str, tmp_path: Path, until: Callable) -> None:
    code = "import time\nwhile k == 3:\n    time.sleep(0.02)\nif k == 5: raise ValueError('five')\ny = k"
    wf.step("each", code, outputs=["y"], each={"k": "range(40)"}, reuse_kernel=True)
    run = wf.submit(cache=False)
    until(lambda: run["each[3]"].target().kernel is not None and run["each[3]"].pull("k") == 3, "the third", 60)
    run["each[3]"].stop()
    assert run.wait(100) == "failed", run["each"].status()
    assert run["each"].status()["counts"] == {"completed": 38, "failed": 1, "cancelled": 1}
    assert (run["each[3]"].reason, run["each[5]"].reason) == ("stopped by the user", "ValueError: five")
    points = run["each"].status()["points"].values()
    assert 2 <= len({point["native_id"] for point in points}) <= 8
    folder = tmp_path / "work" / ".kale" / "runs" / run.name / "steps" / "each"
    assert "in warm kernels" in (folder / "job-1.sh").read_text()
    assert not [path for path in folder.iterdir() if path.name.isdigit()]


def test_the_queues_reason_is_shown_and_a_job_is_visited_stopped_and_cancelled(wf: Workflow, system: str, tmp_path: Path, until: Callable) -> None:
    (tmp_path / "queue" / "slots").write_text("1")
    wf.step("first", LOOP, hold="1s")
    run = wf.submit(cache=False)
    until(lambda: run["first"].target().kernel is not None and run["first"].pull("n") > 5, "the first", 60)
    others = Workflow("more", executor=system, folder=tmp_path / "work")  # submitted once the first has the only slot
    others.step("second", "pass")
    others.step("third", "pass")
    more = others.submit(cache=False)
    if system != "flux":  # which gives no reason
        until(lambda: "Not enough free nodes available" in more["second"].reason or "Job slot limit reached" in more["second"].reason, "the reason", 60)
    else:
        until(lambda: "is in Flux's queue" in more["second"].reason, "the reason", 60)
    more["third"].cancel()
    until(lambda: more["third"].state == "cancelled", "the cancel", 60)
    run["first"].stop()
    until(lambda: run["first"].state == "cancelled", "the stop", 60)
    assert run["first"].reason == "stopped by the user"
    until(lambda: more["second"].state == "completed", "the second", 60)


def test_a_running_job_is_cancelled_with_its_reason(wf: Workflow, until: Callable) -> None:
    wf.step("md", LOOP)
    run = wf.submit(cache=False)
    until(lambda: run["md"].target().kernel is not None, "the step", 60)
    run["md"].cancel()
    until(lambda: run["md"].state == "cancelled", "the cancel", 60)
    assert run["md"].reason == "cancelled by you"


def test_a_job_is_held_and_released_in_the_queue(wf: Workflow, tmp_path: Path, until: Callable) -> None:
    from kale_magic.api.hold import hold, release

    (tmp_path / "queue" / "slots").write_text("0")
    wf.step("md", "pass")
    run = wf.submit(cache=False)
    until(lambda: run.status()["steps"]["md"]["native_id"], "its number", 60)
    hold(Client.connect(), run["md"].target())
    until(lambda: run["md"].state == "held", "the hold", 60)
    (tmp_path / "queue" / "slots").write_text("1")
    time.sleep(1)
    assert run["md"].state == "held"
    release(Client.connect(), run["md"].target())
    assert run.wait(60) == "completed"


def test_a_refusal_is_said_in_the_systems_own_words(wf: Workflow, system: str) -> None:
    wf.step("md", "pass", queue="nonesuch")
    run = wf.submit(cache=False)
    assert run.wait(60) == "failed"
    words = {"pbs": "Unknown queue", "lsf": "nonesuch: No such queue. Job not submitted", "flux": "'nonesuch' is not a valid queue"}[system]
    assert run["md"].reason == f"{SYSTEMS[system]} refused it: {words}"


def test_while_the_server_is_away_states_stay_and_nothing_is_lost(wf: Workflow, system: str, tmp_path: Path, until: Callable) -> None:
    wf.step("md", "import time, os\nwhile not os.path.exists('go'): time.sleep(0.05)")
    run = wf.submit(cache=False)
    until(lambda: run["md"].state == "running", "the step", 60)
    (tmp_path / "queue" / "down").touch()
    time.sleep(5)  # longer than the grace
    assert run["md"].state == "running"
    (tmp_path / "queue" / "down").unlink()
    (tmp_path / "work" / "go").touch()
    assert run.wait(60) == "completed"


def test_a_pbs_server_that_keeps_no_history_and_says_so_with_exit_code_0_is_understood(wf: Workflow, system: str, tmp_path: Path) -> None:
    if system != "pbs":
        return
    (tmp_path / "queue" / "no-history").touch()
    wf.step("a", "import time; time.sleep(6); x = 1", outputs=["x"])  # longer than the grace
    wf.step("b", "y = x + 1", outputs=["y"])
    run = wf.submit(cache=False)
    assert run.wait(60) == "completed", run.status()["steps"]
    assert [step["attempt"] for step in run.status()["steps"].values()] == [1, 1]
    assert len(list((tmp_path / "queue").glob("job-*"))) == 2


def test_a_job_whose_submission_was_not_answered_is_found_by_its_name_and_runs_once(wf: Workflow, tmp_path: Path, until: Callable) -> None:
    (tmp_path / "queue" / "silent").touch()
    wf.step("md", "with open('ran.txt', 'a') as file: print('once', file=file)")
    run = wf.submit(cache=False)
    until(lambda: list((tmp_path / "queue").glob("job-*")), "the submission")
    pid = Client.connect().manager()["pid"]
    os.kill(pid, signal.SIGKILL)
    (tmp_path / "queue" / "silent").unlink()
    until(lambda: not Path(f"/proc/{pid}/exe").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text(), "its end")
    assert run.wait(60) == "completed"
    assert (tmp_path / "work" / "ran.txt").read_text() == "once\n"
    assert len(list((tmp_path / "queue").glob("job-*"))) == 1


def test_what_a_system_can_not_be_told_is_refused_before_a_submit(wf: Workflow, system: str) -> None:
    wf.step("md", "pass", qos="high") if system != "flux" else wf.step("md", "pass", memory="4GB")
    with pytest.raises(SubmitError, match=r"Step `md` asks for --(qos, which|memory, which Flux)"):
        wf.submit(cache=False)
    wf.step("md", "pass", ntasks=4)
    with pytest.raises(SubmitError, match="4 ranks of a Python cell"):
        wf.submit(cache=False)


def test_without_the_programs_one_sentence_says_so(kale_home: Path, tmp_path: Path) -> None:
    for name, program in (("pbs", "qsub"), ("lsf", "bsub"), ("flux", "flux")):
        wf = Workflow("w", executor=name, folder=tmp_path)
        wf.step("a", "pass")
        with pytest.raises(SubmitError, match=f"There is no program {program} on "):
            wf.submit(cache=False)
