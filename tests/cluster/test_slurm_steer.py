"""Steering steps that run as jobs of a real Slurm, on nodes whose own disk is not ours."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cluster.conftest import Login

pytestmark = [pytest.mark.slurm]

LOOP = """
import time
from pathlib import Path
from kale_magic.inside import checkpoint, metric, params
state = checkpoint.load(n=0)
n = state["n"]
print("from", n, "lr", params.lr)
while params.lr < 3:
    n += 1
    metric(step=n, lr=params.lr)
    checkpoint(n=n)
    time.sleep(0.05)
"""


def test_a_step_on_a_node_is_steered_paused_stopped_and_goes_on_from_its_checkpoint(login: Login) -> None:
    wf = login.workflow()
    wf.step("md", LOOP, params={"lr": 1.0}, hold="1s")
    run = wf.submit()
    step = run["md"]
    login.until(lambda: step.target().kernel is not None and step.metrics())
    step.push(lr=2.0)
    login.until(lambda: step.metrics()[-1]["lr"] == 2.0)
    step.pause()
    login.until(lambda: step.state == "paused")
    assert step.reason.startswith("held at line ")
    before = step.pull("n")
    assert step.pull("n") == before
    step.resume()
    login.until(lambda: step.state == "running" and step.pull("n") > before)
    step.stop()
    login.ended(run)
    again = step.rerun({"lr": 5.0})
    login.completed(again)
    assert int(again["md"].logs().split()[1]) >= before


def test_a_frozen_job_stands_on_its_node_with_what_srun_started_there_and_on_others(login: Login) -> None:
    code = "srun --overlap -N 2 -n 2 bash -c 'for i in $(seq 2000); do echo $i >> rank$SLURM_PROCID.txt; sleep 0.05; done'"
    wf = login.workflow()
    wf.step("mpi", code, shell=True, nodes=2)
    run = wf.submit()
    step = run["mpi"]
    files = [login.home / f"rank{rank}.txt" for rank in (0, 1)]
    login.until(lambda: step.state == "running" and all(file.exists() for file in files), 60)
    step.pause(freeze=True)
    login.until(lambda: step.state == "paused")
    assert step.reason.startswith("frozen")
    time.sleep(1)
    before = [file.read_text() for file in files]
    time.sleep(1)
    assert [file.read_text() for file in files] == before
    step.resume()
    login.until(lambda: step.state == "running" and all(len(file.read_text()) > len(text) for file, text in zip(files, before, strict=True)))
    step.cancel()
    login.ended(run)


def test_a_gate_on_a_node_is_opened_from_the_login_host_and_what_was_done_is_cached(login: Login) -> None:
    wf = login.workflow()
    wf.step("make", "x = [1, 2, 3]", outputs=["x"])
    wf.step("pick", "chosen = x[index]", outputs=["chosen"], params={"index": 0}, gate=True)
    run = wf.submit()
    login.until(lambda: run["pick"].state == "gated", 60)
    run["pick"].proceed(index=2)
    login.completed(run)
    assert run["pick"].pull("chosen") == 3
    second = wf.submit()
    assert second["make"].state == "cached"
    login.until(lambda: second["pick"].state == "gated", 60)
    second["pick"].proceed()
    login.completed(second)
    assert second["pick"].pull("chosen") == 1
