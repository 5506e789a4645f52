"""A real Slurm that ends jobs, by their time limit and by preemption: they save, and the next attempt goes on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.integration.test_walltime_warning import LOOP

if TYPE_CHECKING:
    from tests.cluster.conftest import Login

pytestmark = [pytest.mark.slurm]


def event(login: Login, run, step: str, name: str, folder: str = "") -> list[dict]:
    path = login.folder(run) / step / folder / "events.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [found for found in map(json.loads, lines) if found["event"] == name]


def test_a_step_whose_walltime_ends_saves_and_its_retry_goes_on(login: Login) -> None:
    code = LOOP + "\n"
    wf = login.workflow()
    wf.step("md", code.replace("100_000", "2000"), walltime="16s", warn="12s", retries=3, outputs=["i"])
    run = wf.submit()
    login.until(lambda: run["md"].reason.startswith("its walltime of 00:00:16 ends in "), 60)
    steps = login.completed(run, 110)
    assert steps["md"]["attempt"] >= 2
    assert int(run["md"].logs().split()[1]) > 100
    assert run["md"].pull("i") == 2000
    [told] = event(login, run, "md", "warned", "attempts/1")
    assert told["reason"].startswith("its walltime of 00:00:16 ends in ")


def test_slurms_own_warning_reaches_a_step_that_named_no_walltime(login: Login) -> None:
    wf = login.workflow()
    wf.step("md", LOOP, native=["#SBATCH --time=1", "#SBATCH --signal=B:USR1@55"], setup=["true"])
    run = wf.submit()
    script = (login.folder(run) / "md" / "job.sh")
    login.until(script.exists)
    assert script.read_text().count("--signal") == 1
    login.until(lambda: event(login, run, "md", "checkpoint"), 100)
    login.until(lambda: run["md"].reason == "the batch system says that its time is nearly over")
    assert run["md"].state == "running"
    run.cancel()
    login.ended(run)


def test_a_preempted_step_saves_within_its_grace_and_goes_on_as_a_new_attempt(login: Login) -> None:
    wf = login.workflow()
    wf.step("md", LOOP.replace("100_000", "4000"), queue="spare", nodes=2, outputs=["i"], native=["#SBATCH --exclusive"])
    run = wf.submit()
    login.until(lambda: run["md"].state == "running" and "from 0" in run["md"].logs(), 60)
    job = login.run("sbatch", "--parsable", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 2").strip()
    login.until(lambda: event(login, run, "md", "checkpoint", "attempts/1") or event(login, run, "md", "checkpoint"), 60)
    steps = login.completed(run, 110)
    assert steps["md"]["attempt"] == 2, job
    assert int(run["md"].logs().split()[1]) > 10


def test_a_shell_steps_trap_is_told_by_slurm(login: Login) -> None:
    code = "trap 'touch saved' USR1\nsleep 100 & pid=$!\nwait $pid || true\n[ -e saved ] && kill $pid"
    wf = login.workflow()
    wf.step("sh", code, shell=True, native=["#SBATCH --time=1", "#SBATCH --signal=B:USR1@55"])
    run = wf.submit()
    login.completed(run, 100)
    assert (login.home / "saved").exists()
