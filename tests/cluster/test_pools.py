"""Pools on a real Slurm: an allocation kept open, steps that go in without queueing, and all that can end it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from kale_magic.api.pools import open_pool
from kale_magic.errors import PoolError, SubmitError

if TYPE_CHECKING:
    from kale_magic import Run
    from tests.cluster.conftest import Cluster, Login

pytestmark = [pytest.mark.slurm]

RAN = "with open('ran.txt', 'a') as file: print({!r}, file=file)\n"
COUNT = "import time\nn = 0\nwhile True:\n    n += 1\n    time.sleep(0.01)"


def opened(login: Login, name: str = "fast", **asked: Any) -> dict[str, Any]:
    """Open a pool and wait until it is there."""
    open_pool(login.client, name, **{"cpus": 4, "walltime": "00:10:00", **asked})
    nodes = asked.get("nodes", 1)
    return login.until(lambda: (found := pool(login, name)) and found["state"] == "idle" and len(found["nodes"]) == nodes and found)


def pool(login: Login, name: str = "fast") -> dict[str, Any]:
    return next((line for line in login.client.pools() if line["name"] == name), {})


def submit(login: Login, *steps: tuple[str, str], name: str = "eos", **options: Any) -> Run:
    wf = login.workflow(name)
    for step, code in steps:
        wf.step(step, code, **options)
    return wf.submit(pool="fast", cache=False)


def test_a_workflow_goes_through_a_pool_without_one_more_job(login: Login) -> None:
    found = opened(login)
    assert found["nodes"][0]["cpus"] == 4
    assert 500 < found["time_left_s"] <= 600
    wf = login.workflow()
    wf.step("a", "x = 2", outputs=["x"])
    wf.step("b", "import os\ny = x * p\njob = os.environ['SLURM_JOB_ID']\nnode = os.uname().nodename", each={"p": "range(6)"}, outputs=["y", "node", "job"])
    wf.step("c", "z = sum(y)\njobs = sorted(set(job))\nwhere = sorted(set(node))", outputs=["z", "where", "jobs"])
    wf.step("d", "echo $SLURM_JOB_ID", shell=True, after=["c"])
    run = wf.submit(pool="fast")
    steps = login.completed(run)
    assert run["c"].pull("z") == 30
    assert run["c"].pull("where") == [found["nodes"][0]["node"]]
    assert run["c"].pull("jobs") == [found["native_id"]]
    assert run["d"].logs().strip() == found["native_id"]
    assert (steps["a"]["executor"], steps["a"]["native_id"], steps["a"]["node"]) == ("pool:fast", found["native_id"], found["nodes"][0]["node"])
    assert login.squeue("%i").split() == [found["native_id"]]
    assert not list((login.home / "runtime").glob("*.json"))  # no key outlives its step
    login.client.close_pool("fast")
    login.until(lambda: not login.squeue() and not pool(login))


def test_a_step_is_run_again_where_it_ran_before(login: Login) -> None:
    native_id = opened(login)["native_id"]
    job = "import os\njob = os.environ.get('SLURM_JOB_ID')"
    wf = login.workflow()
    wf.step("a", job, outputs=["job"])
    run = wf.submit(pool="fast")
    login.completed(run)
    again = run["a"].rerun()
    login.completed(again)
    assert again["a"].pull("job") == native_id
    elsewhere = run["a"].rerun(executor="slurm")
    login.completed(elsewhere)
    assert elsewhere["a"].pull("job") != native_id
    login.client.close_pool("fast")
    login.until(lambda: not pool(login))
    with pytest.raises(PoolError, match="There is no pool 'fast'"):
        run["a"].rerun()


def test_a_pool_that_waits_tells_slurms_own_reason_and_steps_wait_for_it(login: Login) -> None:
    login.run("sbatch", "--parsable", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 100")
    login.until(lambda: "RUNNING" in login.squeue())
    open_pool(login.client, "fast", cpus=2)
    reason = login.until(lambda: (found := pool(login)["reason"]).startswith(("Resources", "Priority")) and found)
    assert pool(login)["state"] == "waiting"
    run = submit(login, ("s", "1"))
    login.until(lambda: reason in run.status()["steps"]["s"]["reason"])
    assert run.states()["s"] == "queued"
    login.run("scancel", "--name=wrap")
    login.completed(run)


def test_a_step_in_a_pool_is_visited_stopped_let_go_and_cancelled(login: Login) -> None:
    node = opened(login)["nodes"][0]["node"]
    run = submit(login, ("md", COUNT), ("other", COUNT))
    login.until(lambda: run["md"].target().kernel is not None and run["other"].target().kernel is not None)
    found = pool(login)
    assert (found["state"], sorted(found["running"]), found["nodes"][0]["used"]) == ("active", [f"{run.name}/md", f"{run.name}/other"], 2)
    target = run["md"].target()
    assert target.reach is not None
    assert target.reach.route.node == node
    with contextlib.closing(run["md"]._visits):
        assert run["md"].pull("n") > 0
        run["md"].stop()
        login.until(lambda: run.states()["md"] == "paused")
        assert run["md"].pull("n") > 0
    login.client.release(run.name, "md")
    login.until(lambda: run.states()["md"] == "cancelled")
    run["other"].cancel()
    assert login.ended(run)["other"]["reason"].startswith("cancelled by")
    login.until(lambda: pool(login)["state"] == "idle")


def test_a_failed_step_is_tried_again_in_the_pool_and_a_bad_setup_line_is_told(login: Login) -> None:
    opened(login)
    wf = login.workflow()
    wf.step("flaky", RAN.format("flaky") + "import os\nassert os.environ['KALE_ATTEMPT'] == '2'", retries=1)
    wf.step("s", "1", setup=["source /nowhere/env.sh"])
    wf.step("t", "import os\nboth = os.environ['BOTH']", setup=["export A=1"], env={"BOTH": "$A in $SLURM_JOB_ID"}, outputs=["both"])
    run = wf.submit(pool="fast")
    steps = login.ended(run)
    assert (steps["flaky"]["state"], steps["flaky"]["attempt"], login.ran()) == ("completed", 2, ["flaky", "flaky"])
    assert steps["s"]["state"] == "failed"
    assert "`source /nowhere/env.sh` failed: " in steps["s"]["reason"]
    assert "No such file or directory" in steps["s"]["reason"]
    assert run["t"].pull("both") == f"1 in {pool(login)['native_id']}"


def test_steps_spread_over_the_nodes_of_a_pool(login: Login) -> None:
    opened(login, nodes=2, cpus=2)
    wf = login.workflow()
    wf.step("s", "import os, time\ntime.sleep(1)\nnode = os.uname().nodename", each={"i": "range(4)"}, outputs=["node"])
    run = wf.submit(pool="fast")
    login.completed(run)
    assert sorted(run["s"].pull("node")) == ["node1", "node1", "node2", "node2"]
    assert len(login.squeue("%i").split()) == 1


def test_what_a_pool_does_not_have_is_refused_at_submit_in_one_sentence(login: Login) -> None:
    with pytest.raises(PoolError, match=r"Pool fast would be refused by Slurm: invalid partition specified: nope"):
        open_pool(login.client, "fast", queue="nope")
    with pytest.raises(PoolError, match=r"There is no pool 'fast'\. Open it: %kale_pool open fast"):
        submit(login, ("s", "1"))
    opened(login)
    with pytest.raises(PoolError, match=r"Pool fast is idle already\. Close it first"):
        open_pool(login.client, "fast")
    for asked, words in (
        ({"cpus": 5}, "5 cores, and a node of it has 4"),
        ({"gpus": 1}, "1 gpus, and a node of it has none"),
        ({"walltime": "01:00:00"}, "01:00:00 of walltime, and all of it has 00:10:00"),
        ({"nodes": 2}, "2 nodes, and a step in a pool runs on one"),
    ):
        with pytest.raises(SubmitError, match=f"Step `s` asks pool fast for {words}"):
            submit(login, ("s", "1"), **asked)
    run = submit(login, ("s", "import time; time.sleep(2)"))
    login.until(lambda: run.states()["s"] == "running")
    login.client.close_pool("fast")
    with pytest.raises(SubmitError, match="Pool fast is being closed: it takes no more steps"):
        submit(login, ("t", "1"))
    login.completed(run)  # it drains
    login.until(lambda: not pool(login) and not login.squeue())


def test_close_now_cancels_what_runs_and_what_waits(login: Login) -> None:
    opened(login, cpus=1)
    wf = login.workflow()
    wf.step("a", COUNT)
    wf.step("b", "1", after=["a"])
    wf.step("c", "1")
    run = wf.submit(pool="fast")
    login.until(lambda: run.states()["a"] == "running")
    answer = login.client.close_pool("fast", is_now=True)
    assert answer["cancelled"]
    assert {step["state"] for step in login.ended(run).values()} == {"cancelled"}
    login.until(lambda: not pool(login) and not login.squeue())


@pytest.mark.parametrize("how", ["kill -9", "scancel"])
def test_steps_of_a_dead_pilot_are_lost_and_tried_again_in_another_allocation(login: Login, how: str) -> None:
    first = opened(login, cpus=1)["native_id"]
    code = RAN.format("a") + "import os, time\nif os.environ['KALE_ATTEMPT'] == '1': time.sleep(100)"
    run = submit(login, ("a", code), ("b", RAN.format("b")))
    login.until(lambda: login.ran() == ["a"])
    if how == "scancel":
        login.run("scancel", first)
    else:
        [pilot] = [process for process in psutil.process_iter(["cmdline"]) if "pilot" in (process.info["cmdline"] or []) and _is_of(process, first)]
        os.kill(pilot.pid, signal.SIGKILL)
    steps = login.ended(run)
    assert steps["a"]["state"] == "completed", steps["a"]["reason"] + (login.home / "manager.log").read_text()
    assert (steps["a"]["attempt"], steps["b"]["attempt"]) == (2, 1)  # b had not begun: it only waited on
    assert login.ran() == ["a", "a", "b"]
    assert steps["a"]["native_id"] != first
    log = (login.folder(run) / "a" / "attempts").is_dir()
    assert log


def _is_of(process: psutil.Process, job: str, node: str | None = None) -> bool:
    try:
        environ = process.environ()
        return environ.get("SLURM_JOB_ID") == job and node in {None, environ.get("SLURMD_NODENAME")} and process.name() != "srun"
    except psutil.Error:
        return False


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_step_that_does_not_fit_into_what_is_left_waits_for_the_next_allocation(login: Login) -> None:
    first = opened(login, cpus=1, walltime="00:01:00")["native_id"]
    run = submit(login, ("long", RAN.format("long") + "import time; time.sleep(15)"))
    login.until(lambda: run.states()["long"] == "running")
    second = submit(login, ("fits-not", RAN.format("fits-not")), name="two", walltime="00:00:45")
    reason = login.until(lambda: (found := second.status()["steps"]["fits-not"]["reason"]).startswith("does not fit") and found, 20)
    assert "waits for its next allocation" in reason
    assert second.states()["fits-not"] == "queued"
    steps = login.completed(second)
    assert steps["fits-not"]["native_id"] != first
    assert steps["fits-not"]["attempt"] == 1
    login.completed(run)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_step_that_outlives_its_pool_is_lost_and_tried_again(login: Login) -> None:
    first = opened(login, cpus=1, walltime="00:01:00")["native_id"]
    code = RAN.format("s") + "import os, time\nif os.environ['KALE_ATTEMPT'] == '1': time.sleep(100)"
    run = submit(login, ("s", code))
    login.until(lambda: run.states()["s"] == "running")
    steps = login.ended(run, 110)
    assert (steps["s"]["state"], steps["s"]["attempt"]) == ("completed", 2)
    assert steps["s"]["native_id"] != first


def test_the_next_manager_takes_up_a_pool_and_what_runs_in_it(login: Login) -> None:
    job = opened(login)["native_id"]
    run = submit(login, ("md", COUNT), ("done", "import time; time.sleep(1)" + "\nx = 1"))
    login.until(lambda: run["md"].target().kernel is not None)
    login.kill_manager()
    found = login.until(lambda: (line := pool(login)).get("state") == "active" and line)
    assert found["native_id"] == job, (login.home / "manager.log").read_text()
    login.until(lambda: run.states()["done"] == "completed")
    with contextlib.closing(run["md"]._visits):
        assert run["md"].pull("n") > 0
    assert run.status()["steps"]["md"]["attempt"] == 1
    run["md"].cancel()
    assert login.ended(run)["md"]["state"] == "cancelled"
    assert login.squeue("%i").split() == [job]


def test_allocations_of_a_killed_manager_that_no_pool_knows_are_cancelled_and_those_of_other_homes_are_not(login: Login) -> None:
    job = opened(login)["native_id"]
    other = login.run("sbatch", "--parsable", f"--job-name=kale-pool-{'0' * 32}", "--output=/dev/null", "--wrap", "sleep 100").strip()
    login.kill_manager()
    (login.home / "pools" / "fast.json").unlink()  # as if it had been killed right after
    assert login.client.pools() == []
    login.until(lambda: job not in login.squeue("%i"))
    assert other in login.squeue("%i")


def test_a_pool_of_the_cluster_is_opened_listed_and_closed_from_the_laptop(cluster: Cluster) -> None:
    assert "Pool fast is waiting" in cluster.kale("pool", "open", "fast", "--host", "login", "--cpus", "1", "--walltime", "00:05:00").stdout
    deadline = time.monotonic() + 60
    while (line := json.loads(cluster.kale("pool", "list", "--json", "--host", "login").stdout)[0])["state"] != "idle":
        assert time.monotonic() < deadline, line
    assert line["executor"] == "slurm"
    cluster.kale("pool", "close", "fast", "--host", "login")
    while json.loads(cluster.kale("pool", "list", "--json", "--host", "login").stdout):
        assert time.monotonic() < deadline


@pytest.mark.slow
def test_a_node_whose_pilot_died_gets_no_more_steps_and_its_own_are_tried_again_elsewhere(login: Login) -> None:
    opened(login, nodes=2, cpus=1)
    code = "import os, time\nnode = os.uname().nodename\nif os.environ['KALE_ATTEMPT'] == '1': time.sleep(100)"
    wf = login.workflow()
    wf.step("s", code, each={"i": "range(2)"}, outputs=["node"])
    run = wf.submit(pool="fast")
    points = login.until(lambda: (found := run.status()["steps"]["s"]["points"]) and all(point["state"] == "running" for point in found.values()) and found)
    kept = next(number for number, point in points.items() if point["node"] == "node1")
    [pilot] = [process for process in psutil.process_iter(["cmdline"]) if "pilot" in (process.info["cmdline"] or []) and _is_of(process, pool(login)["native_id"], "node2")]
    os.kill(pilot.pid, signal.SIGKILL)
    login.until(lambda: [line["node"] for line in pool(login)["nodes"]] == ["node1"])
    lost = str(1 - int(kept))
    login.until(lambda: run.status()["steps"]["s"]["points"][lost]["attempt"] == 2, 90)
    assert run.status()["steps"]["s"]["points"][kept]["attempt"] == 1
    login.client.cancel(run.name, "s", int(kept))
    login.until(lambda: run.status()["steps"]["s"]["points"][lost]["state"] == "completed")
    assert run.status()["steps"]["s"]["points"][lost]["node"] == "node1"
