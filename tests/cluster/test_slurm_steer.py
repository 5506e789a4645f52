"""Steering steps that run as jobs of a real Slurm, on nodes whose own disk is not ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kale_magic.errors import UsageError

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
    with pytest.raises(UsageError, match="executor slurm can't freeze"):
        step.pause(freeze=True)
    step.resume()
    login.until(lambda: step.state == "running" and step.pull("n") > before)
    step.stop()
    login.ended(run)
    again = step.rerun({"lr": 5.0})
    login.completed(again)
    assert int(again["md"].logs().split()[1]) >= before


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
