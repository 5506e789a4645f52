"""Workflows on a real Slurm, from its login host: what a person submits, sees, holds, stops and visits there."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kale_magic.api.find import where_in
from kale_magic.errors import SubmitError, UsageError
from kale_magic.kernels import general
from kale_magic.model.codec import workflow_to_dict
from kale_magic.model.step import Step
from kale_magic.model.workflow import Workflow as Model
from tests.integration.test_relay import Kernel, shown, text

if TYPE_CHECKING:
    from kale_magic import Run
    from tests.cluster.conftest import Login

pytestmark = [pytest.mark.slurm]

RAN = "with open('ran.txt', 'a') as file: print({!r}, file=file)\n"


def test_a_workflow_runs_as_batch_jobs_whose_order_slurm_keeps(login: Login) -> None:
    wf = login.workflow()
    wf.step("a", "x = 2", outputs=["x"])
    wf.step("b", "import os\ny = x * p\nnode = os.uname().nodename", each={"p": "range(6)"}, outputs=["y", "node"])
    wf.step("c", "z = sum(y)\nwhere = sorted(set(node))", outputs=["z", "where"])
    run = wf.submit()
    steps = login.completed(run)
    assert run["c"].pull("z") == 30
    assert set(run["c"].pull("where")) <= {"node1", "node2"}
    array = {point["native_id"].partition("_")[0] for point in steps["b"]["points"].values()}
    assert len(array) == 1
    assert steps["b"]["points"]["3"]["native_id"].endswith("_3")
    assert steps["a"]["node"] in {"node1", "node2"}
    folder = login.folder(run)
    script = (folder / "b" / "job.sh").read_text()
    assert "#SBATCH --array=0-5\n" in script
    assert (folder / "b" / "3" / "step.ipynb").exists()
    assert not list((login.home / "runtime").glob("*.json"))  # no key outlives its step


def test_a_workflow_goes_on_while_the_manager_is_dead(login: Login) -> None:
    wf = login.workflow()
    wf.step("a", "import time; time.sleep(1); x = 1", outputs=["x"])
    wf.step("b", RAN.format("b") + "y = x + 1", outputs=["y"])
    wf.step("c", RAN.format("c") + "z = y + 1", outputs=["z"])
    run = wf.submit()
    login.until(lambda: all(step["native_id"] for step in run.status()["steps"].values()))
    login.kill_manager()
    login.until(lambda: login.ran() == ["b", "c"], 60)
    login.completed(run)
    assert run["c"].pull("z") == 3
    assert login.ran() == ["b", "c"]


def test_the_schedulers_own_reason_and_the_queue_are_shown(login: Login) -> None:
    wf = login.workflow()
    wf.step("wide", "import time; time.sleep(100)", cpus=8, each={"i": "range(3)"})  # two nodes of eight
    run = wf.submit()
    reason = login.until(lambda: (found := run.status()["steps"]["wide"]["points"]["2"]["reason"]).startswith(("Resources", "Priority")) and found)
    assert "waits for nodes to become free" in reason or "jobs of higher priority are before it" in reason
    lines = {line["point"]: line for line in login.client.queue()}
    assert lines[0]["node"].startswith("node")
    assert lines[2]["native_id"].endswith("_2")
    own = login.client.survey("slurm")
    assert {line["state"] for line in own} == {"RUNNING", "PENDING"}
    run.cancel()
    assert run.wait(timeout=30) == "cancelled"
    login.until(lambda: not login.squeue())


def test_held_step_waits_in_slurm_until_it_is_released(login: Login) -> None:
    wf = login.workflow()
    wf.step("first", "import time; time.sleep(100)", cpus=8, each={"i": "range(2)"})
    run = wf.submit()
    login.until(lambda: run.states()["first"] == "running")
    other = login.workflow("other")
    other.step("s", "1", cpus=8)
    second = other.submit()
    login.until(lambda: second.status()["steps"]["s"]["native_id"])
    login.client.hold(second.name, "s")
    login.until(lambda: second.states()["s"] == "held")
    assert "JobHeldUser" in login.squeue("%r")
    run.cancel()
    time.sleep(1.5)
    assert second.states()["s"] == "held"
    login.client.release(second.name, "s")
    login.completed(second)


def test_a_running_step_is_visited_stopped_and_let_go(login: Login) -> None:
    wf = login.workflow()
    wf.step("md", "import time\nn = 0\nwhile True:\n    n += 1\n    time.sleep(0.01)")
    run = wf.submit()
    login.until(lambda: run["md"].target().kernel is not None)
    target = run["md"].target()
    assert target.reach is not None
    assert target.reach.route.node in {"node1", "node2"}
    assert visited(run, "n") > 0
    run["md"].stop()
    login.until(lambda: run.states()["md"] == "paused")
    assert visited(run, "n") > 0
    login.client.release(run.name, "md")
    assert login.ended(run)["md"]["reason"] == "stopped by the user"


def test_cancelled_step_ends_on_its_node_and_says_so(login: Login) -> None:
    wf = login.workflow()
    wf.step("s", "import subprocess, time\nsubprocess.Popen(['sleep', '987'])\nx = 1\ntime.sleep(100)")
    wf.step("t", "1", after=["s"])
    run = wf.submit()
    login.until(lambda: run["s"].target().kernel is not None)
    run["s"].cancel()
    steps = login.ended(run)
    assert steps["s"]["reason"] == "cancelled by you"
    assert steps["t"]["state"] == "cancelled"
    login.until(lambda: not login.squeue())
    assert subprocess.run(["pgrep", "-f", "sleep 987"], capture_output=True, check=False).returncode == 1


def test_scancel_by_hand_is_told_from_a_cancel_by_kale(login: Login) -> None:
    wf = login.workflow()
    wf.step("s", "import time; time.sleep(100)")
    run = wf.submit()
    login.until(lambda: run["s"].target().kernel is not None)
    login.run("scancel", run.status()["steps"]["s"]["native_id"])
    assert login.ended(run)["s"]["reason"] == "cancelled in Slurm's queue, not by Kale (by hand, or by an administrator)"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"queue": "nope"}, "invalid partition specified: nope"),
        ({"memory": "400GB"}, "Requested node configuration is not available"),
        ({"constraint": "quantum"}, "Invalid feature specification"),
        ({"gpus": 1}, r"Invalid generic resource \(gres\) specification"),
        ({"walltime": "4-00:00:00"}, "PartitionTimeLimit: --walltime is 4-00:00:00, and the default partition allows 1-00:00:00"),
        ({"native": ["#SBATCH --bogus"]}, "unrecognized option '--bogus'"),
        ({"native": ["#SBATCH --array=0-3"]}, "an array by an #SBATCH line"),
    ],
)
def test_what_slurm_would_refuse_is_refused_at_submit_and_nothing_is_submitted(login: Login, asked: dict[str, Any], words: str) -> None:
    wf = login.workflow()
    wf.step("good", "1")
    wf.step("big", "1", after=["good"], **asked)
    with pytest.raises(SubmitError, match=f"Step `big` (would be refused by Slurm|asks for).*{words}"):
        wf.submit()
    assert login.squeue() == ""
    assert not (login.home / ".kale").exists()


def test_setup_that_fails_on_the_node_fails_the_step_with_what_it_said(login: Login) -> None:
    wf = login.workflow()
    wf.step("m", "1", modules=["gcc/99"])
    wf.step("s", "1", setup=["source /nowhere/env.sh"])
    run = wf.submit()
    steps = login.ended(run)
    assert steps["m"]["reason"].startswith("`module load gcc/99` failed: ")
    assert "command not found" in steps["m"]["reason"]
    assert "`source /nowhere/env.sh` failed: " in steps["s"]["reason"]
    assert "No such file or directory" in steps["s"]["reason"]


def test_modules_setup_and_variables_make_the_environment_on_the_node(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_NAME", "the notebook's own")
    monkeypatch.setenv("SLURM_NTASKS", "77")
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "secret")
    monkeypatch.setenv("MPLBACKEND", "module://ipympl.backend_nbagg")
    monkeypatch.setenv("MINE", "kept")
    monkeypatch.setenv("BASH_FUNC_module%%", '() { [ "$1" = load ] && export LOADED="$2"; }')
    wf = login.workflow()
    code = "import os\nfound = {name: os.environ.get(name) for name in ('SLURM_NTASKS', 'JUPYTERHUB_API_TOKEN', 'MINE', 'LOADED', 'BOTH', 'SLURM_JOB_NAME')}\nbackend = os.environ.get('MPLBACKEND', '')"
    wf.step("s", code, outputs=["found", "backend"], modules=["gcc/12"], setup=["export A=1"], env={"BOTH": "$A and $LOADED"})
    run = wf.submit()
    login.completed(run)
    found = run["s"].pull("found")
    assert found["SLURM_JOB_NAME"].startswith("kale-")
    assert found["SLURM_NTASKS"] in {None, "1"}
    assert (found["JUPYTERHUB_API_TOKEN"], found["MINE"], found["LOADED"], found["BOTH"]) == (None, "kept", "gcc/12", "1 and gcc/12")
    assert "ipympl" not in run["s"].pull("backend")


def test_walltime_that_is_over_ends_the_step_in_those_words(login: Login) -> None:
    wf = login.workflow()
    wf.step("s", "import time; print('begun', flush=True); time.sleep(100)", walltime="2s")
    run = wf.submit()
    assert login.ended(run)["s"]["reason"] == "its walltime of 00:00:02 was reached (--walltime)"
    assert run["s"].logs() == "begun\n"


def test_batch_script_runs_as_it_stands(login: Login) -> None:
    wf = login.workflow()
    wf.step("s", "#!/bin/bash\n#SBATCH --ntasks=2\n#SBATCH --job-name=mine\nsrun bash -c 'echo rank $SLURM_PROCID of $SLURM_NTASKS'\n")
    run = wf.submit()
    login.completed(run)
    assert sorted(run["s"].logs().splitlines()) == ["rank 0 of 2", "rank 1 of 2"]


def test_interpreter_that_is_not_on_the_node_is_named(login: Login) -> None:
    python = login.home / "python"
    python.write_text(f'#!/bin/sh\n[ "$(uname -n)" = login ] || {{ echo "no libpython here" >&2; exit 66; }}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    workflow = Model(name="eos", executor="slurm", steps={"s": Step(name="s", code="1")})
    run = login.client.submit(workflow_to_dict(workflow), folder=login.home, python=str(python))["run"]
    status = login.client.wait(run, timeout=60)
    assert status["steps"]["s"]["reason"] == "its job script ended before the step began: no libpython here"


def test_a_key_on_the_shared_disk_is_the_owners_alone(login: Login) -> None:
    wf = login.workflow()
    wf.step("s", "import time; time.sleep(100)")
    run = wf.submit()
    login.until(lambda: run["s"].target().kernel is not None)
    [file] = (login.home / "runtime").glob("*.json")
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert not [path for path in login.folder(run).rglob("*") if path.is_file() and run["s"].target().reach.key in path.read_text(errors="ignore")]  # type: ignore[union-attr]
    run.cancel()
    run.wait(timeout=30)


def visited(run: Run, name: str) -> int:
    """Look at a variable of the running step `md` from the login host."""
    with contextlib.closing(run["md"]._visits):
        value: int = run["md"].pull(name)
        return value


def test_notebook_whose_own_kernel_is_a_slurm_job(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(login.home / "data"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(login.home / "rt"))
    monkeypatch.setenv("KALE_KERNEL_CPUS", "8")
    monkeypatch.chdir(login.home)
    (login.home / "rt").mkdir()
    general.install()
    blocker = login.workflow("blocker")
    blocker.step("full", "import time; time.sleep(100)", cpus=8, each={"i": "range(2)"})
    full = blocker.submit()
    login.until(lambda: full.states()["full"] == "running")
    with Kernel("kale-slurm") as kernel:
        known = ("Resources: waits for nodes", "Priority: jobs of higher priority")
        login.until(lambda: any(line["step"] == "kernel" and line["reason"].startswith(known) for line in login.client.queue()))
        full.cancel()
        said = text(shown(kernel.client, "import os; print(os.uname().nodename, os.environ['SLURM_JOB_NAME'])")[1])
        assert "node" in said
        assert "kale-" in said
    login.until(lambda: not login.squeue())


def test_doctor_sees_a_job_through(login: Login) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kale_magic.cli.main", "doctor", "--executor", "slurm"], capture_output=True, text=True, check=False, cwd=login.home
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"ok +slurm queue +answers in \d+ ms; your jobs there: 0", done.stdout)
    assert re.search(r"ok +slurm job +job \d+ ran on node\d: [\d.]+ s in the queue, [\d.]+ s in its kernel", done.stdout)
    assert login.run("squeue", "-h") == ""


def test_every_rank_of_a_python_step_runs_the_cell_and_each_is_visited(login: Login) -> None:
    wf = login.workflow()
    code = "import os, time\nrank, size = int(os.environ['SLURM_PROCID']), int(os.environ['SLURM_NTASKS'])\nwhile not os.path.exists('stop'):\n    time.sleep(0.02)\nnode = os.uname().nodename"
    wf.step("md", code, ntasks=3, nodes=2, outputs=["rank", "size", "node"])
    run = wf.submit()
    login.until(lambda: len(list((login.home / "runtime").glob("*.json"))) == 3 and run["md"].target().kernel is not None, 60)
    with contextlib.closing(run["md"]._visits) as visits:
        for rank in (2, 0, 1):
            target = where_in(login.client, run.name, "md", None, rank)
            assert visits.run(target, "print(rank, size)", timeout=30).text == f"{rank} 3\n"
        with pytest.raises(UsageError, match=r"no kernel of rank 3\. It has the ranks 0 to 2\."):
            where_in(login.client, run.name, "md", None, 3)
    (login.home / "stop").touch()
    login.completed(run)
    assert run["md"].pull("rank", "size") == (0, 3)
    login.until(lambda: (login.folder(run) / "md" / "ranks" / "2" / "step.ipynb").exists())
    login.until(lambda: not list((login.home / "runtime").glob("*.json")))


def test_all_ranks_are_frozen_and_stopped_together(login: Login) -> None:
    wf = login.workflow()
    wf.step("md", "import time\nwhile True:\n    time.sleep(0.01)", ntasks=2, nodes=2)
    run = wf.submit()
    login.until(lambda: len(list((login.home / "runtime").glob("*.json"))) == 2 and run["md"].target().kernel is not None, 60)
    kernels = [json.loads(file.read_bytes())["pid"] for file in (login.home / "runtime").glob("*.json")]
    login.client.freeze(run.name, "md", is_on=True)
    login.until(lambda: all(state_of(pid) == "T" for pid in kernels))
    login.until(lambda: run.states()["md"] == "paused")
    login.client.freeze(run.name, "md", is_on=False)
    login.until(lambda: all(state_of(pid) in "SR" for pid in kernels))
    login.until(lambda: run.states()["md"] == "running")
    login.client.stop(run.name, "md")
    login.until(lambda: run.states()["md"] == "paused")
    login.client.release(run.name, "md")
    assert login.ended(run)["md"]["reason"] == "stopped by the user"
    login.until(lambda: not login.squeue())


def state_of(pid: int) -> str:
    """Return the letter of proc(5) for a process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_job_that_is_held_while_it_is_being_submitted_does_not_start(login: Login) -> None:
    wf = login.workflow()
    wf.step("s", "1")
    run = wf.submit()
    login.client.hold(run.name, "s")  # no number is known yet
    login.until(lambda: run.states()["s"] == "held")
    time.sleep(1.5)
    assert run.states()["s"] == "held"
    login.client.release(run.name, "s")
    login.completed(run)


def test_rank_that_fails_ends_the_step_and_is_named(login: Login) -> None:
    wf = login.workflow()
    wf.step("md", "import os, time\nif os.environ['SLURM_PROCID'] == '1':\n    raise RuntimeError('no convergence')\ntime.sleep(100)", ntasks=2)
    assert login.ended(wf.submit())["md"]["reason"] == "rank 1: RuntimeError: no convergence"


def test_ranks_of_a_python_step_speak_mpi(login: Login) -> None:
    pytest.importorskip("mpi4py", reason="needs mpi4py and mpich: pip install 'kale-magic[test]'")
    wf = login.workflow()
    code = "from mpi4py import MPI\nworld = MPI.COMM_WORLD\ntotal = world.allreduce(world.rank + 1)\nnodes = world.gather(MPI.Get_processor_name())\nsize = world.size"
    wf.step("sum", code, ntasks=4, nodes=2, outputs=["total", "nodes", "size"], env={"SLURM_MPI_TYPE": "pmi2"})
    run = wf.submit()
    login.completed(run)
    assert run["sum"].pull("total", "size") == (10, 4)
    assert len(set(run["sum"].pull("nodes"))) == 2
