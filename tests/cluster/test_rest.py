"""Steps and queue by Slurm's REST service alone: a real slurmrestd with real tokens, and no Slurm command on the path."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import pytest

from kale_magic import Workflow
from kale_magic.client import Client
from kale_magic.errors import ExecutorError, SubmitError, UsageError
from tests.cluster.hosts import missing_rest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.conftest import Login
    from tests.cluster.hosts import Hosts

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(180), pytest.mark.skipif(bool(missing_rest()), reason=missing_rest() or "there is all")]


@pytest.fixture(scope="module")
def url(hosts: Hosts) -> str:
    """Where slurmrestd of the module's cluster is."""
    return hosts.start_rest()


@pytest.fixture
def rest(hosts: Hosts, login: Login, url: str) -> Iterator[Login]:
    """Be on a host that has a disk with the cluster in common, and its REST service; logged in there."""
    login.client.shutdown()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "/usr/bin-without-slurm")  # for the manager: sbatch and squeue can't be what answers
        patch.delenv("SLURM_CONF")
        login.client.manager()
    login.client.rest("log_in", url=url, user="root", token=hosts.token())
    yield login
    login.client.rest("forget")


def workflow(rest: Login) -> Workflow:
    return Workflow("eos", executor="slurm-rest", folder=rest.home)


def test_workflow_runs_through_the_rest_service(rest: Login, url: str) -> None:
    found = rest.client.rest()
    assert (found["url"], found["user"], found["is_over"], found["answers"]) == (url, "root", False, True)
    wf = workflow(rest)
    wf.step("make", "import os\nnode = os.uname().nodename\nx = [1, 2]", outputs=["x", "node"], cpus=2, memory="300MB", walltime="00:05:00")
    wf.step("each", "y = 10 * x[p]", inputs=["x"], each={"p": "range(2)"}, outputs=["y"])
    wf.step("all", "total = sum(y)", inputs=["y"], outputs=["total"])
    wf.step("two", "import os\nnodes = os.environ['SLURM_JOB_NODELIST']", nodes=2, outputs=["nodes"])
    run = wf.submit(cache=False)
    steps = rest.completed(run)
    assert run["all"].pull("total") == 30
    assert run["two"].pull("nodes") == "node[1-2]"
    assert run["make"].pull("node").startswith("node")
    assert {step["executor"] for step in steps.values()} == {"slurm-rest"}
    assert steps["each"]["points"]["1"]["native_id"].endswith("_1")  # an array
    assert int(rest.run("scontrol", "show", "job", steps["make"]["native_id"]).split("NumCPUs=")[1].split()[0]) == 2


def test_queue_cancel_hold_and_stop_go_through_it_too(rest: Login) -> None:
    wf = workflow(rest)
    wf.step("md", "import time\nfor n in range(1000): time.sleep(0.1)", hold="5m")
    run = wf.submit(cache=False)
    rest.until(lambda: run.states()["md"] == "running")
    after = workflow(rest)
    after.step("wide", "pass", cpus=8, nodes=2)
    waits = after.submit(cache=False)
    rest.until(lambda: waits.states()["wide"] == "queued" and "Resources" in waits.status()["steps"]["wide"]["reason"])
    lines = {line["state"]: line for line in rest.client.survey("slurm-rest")}
    assert (lines["RUNNING"]["user"], lines["RUNNING"]["partition"], lines["RUNNING"]["nodes"]) == ("root", "debug", "1")
    assert "waits for nodes to become free" in lines["PENDING"]["reason"]
    rest.client.hold(waits.name, "wide")
    rest.until(lambda: waits.states()["wide"] == "held")
    rest.client.release(waits.name, "wide")
    rest.until(lambda: waits.states()["wide"] == "queued")
    rest.until(lambda: run["md"].target().kernel is not None)
    with contextlib.closing(run["md"]._visits):
        assert int(str(run["md"].execute("n"))) >= 0  # its kernel is visited as that of any step
    rest.client.stop(run.name, "md")
    rest.until(lambda: run.states()["md"] != "running" or "interrupted" in run.status()["steps"]["md"]["reason"])
    for name in (waits.name, run.name):
        rest.client.cancel(name)
    assert rest.ended(waits)["wide"]["state"] == "cancelled"
    assert rest.ended(run)["md"]["state"] in {"cancelled", "failed"}
    rest.until(lambda: not rest.squeue())


def test_points_that_share_kernels_are_jobs_of_it_and_one_is_stopped(rest: Login) -> None:
    wf = workflow(rest)
    wf.step("each", "import time\nwhile n == 3: time.sleep(0.02)\ny = n", each={"n": "range(24)"}, outputs=["y"], reuse_kernel=True)
    run = wf.submit(cache=False)
    rest.until(lambda: run["each[3]"].target().kernel is not None)
    with contextlib.closing(run["each[3]"]._visits):
        assert str(run["each[3]"].execute("n", timeout=60)) == "3"
    rest.client.stop(run.name, "each", 3)
    rest.ended(run)
    assert run["each"].status()["counts"] == {"completed": 23, "cancelled": 1}
    assert len({point["native_id"] for point in run["each"].status()["points"].values()}) == 8


@pytest.mark.parametrize("executor", ["slurm-rest", "slurm"])
def test_job_that_is_not_of_kale_is_ended_by_its_number(rest: Login, executor: str) -> None:
    if executor == "slurm":
        rest.client.shutdown()  # the next one has Slurm's commands
    job = rest.run("sbatch", "--parsable", "--array=0-1", "--output=/dev/null", "--wrap", "sleep 100").strip()
    rest.until(lambda: {line["native_id"] for line in rest.client.survey(executor)} == {f"{job}_0", f"{job}_1"})
    rest.client.end_job(executor, f"{job}_1")
    rest.until(lambda: [line["native_id"] for line in rest.client.survey(executor) if line["state"] == "RUNNING"] == [f"{job}_0"])
    rest.client.end_job(executor, job)
    rest.until(lambda: not rest.squeue())
    with pytest.raises(UsageError, match="'--user=root' is no job"):
        rest.client.end_job(executor, "--user=root")


def test_what_slurm_refuses_is_said_at_submit_and_what_rest_cannot_ask_too(rest: Login) -> None:
    wf = workflow(rest)
    wf.step("s", "pass", queue="nope")
    with pytest.raises(SubmitError, match="Step `s` would be refused by Slurm: .*partition"):
        wf.submit(cache=False)
    wf.step("s", "pass", cpus=1000)
    with pytest.raises(SubmitError, match="Step `s` would be refused by Slurm: Requested"):
        wf.submit(cache=False)
    wf.step("s", "pass", native=["--exclude=node1"])
    with pytest.raises(SubmitError, match="--exclude can't be asked through slurmrestd"):
        wf.submit(cache=False)
    rest.until(lambda: not rest.squeue())  # what was asked only to see is gone


def test_token_that_is_wrong_or_over_is_said_and_a_new_one_goes_on(rest: Login, hosts: Hosts, url: str) -> None:
    token = hosts.token()
    head, _, signature = token.rpartition(".")
    with pytest.raises(ExecutorError, match="Slurm does not take the token of root"):
        rest.client.rest("log_in", url=url, user="root", token=f"{head}.{signature[::-1]}")
    with pytest.raises(UsageError, match="no address of a REST service"):
        rest.client.rest("log_in", url="login:6820", user="root", token=token)
    assert rest.client.rest()["url"] == url  # the login before is still there
    rest.client.rest("log_in", url=url, user="root", token=hosts.token(4))
    wf = workflow(rest)
    wf.step("s", "import time\ntime.sleep(6)\nx = 1", outputs=["x"])
    run = wf.submit(cache=False)
    rest.until(lambda: rest.client.rest()["is_over"])
    with pytest.raises(SubmitError, match="the token of root .* has ended. Log in"):
        wf.submit(cache=False)
    time.sleep(2)
    rest.client.rest("log_in", url=url, user="root", token=token)
    rest.completed(run)
    rest.client.rest("forget")
    with pytest.raises(SubmitError, match="Executor slurm-rest: there is no login to a REST service"):
        wf.submit(cache=False)


def test_next_manager_goes_on_with_the_login_and_the_token_is_in_one_file(rest: Login, hosts: Hosts, url: str) -> None:
    token = hosts.token()
    rest.client.rest("log_in", url=url, user="root", token=token)
    wf = workflow(rest)
    wf.step("s", "import time\ntime.sleep(4)")
    run = wf.submit(cache=False)
    rest.until(lambda: run.states()["s"] == "running")
    rest.kill_manager()
    with Client.connect() as client:
        assert client.rest()["user"] == "root"
    rest.completed(run)
    holders = [path for path in rest.home.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]
    assert [(path.name, path.stat().st_mode & 0o777) for path in holders] == [("rest.json", 0o600)]
