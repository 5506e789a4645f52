"""Sweeps with ``--reuse-kernel`` on a real Slurm: a few jobs that run all points, and all that can end one of them; and in pools."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from kale_magic.api.pools import open_pool

if TYPE_CHECKING:
    from pathlib import Path

    from kale_magic import Run, Workflow
    from tests.cluster.conftest import Login
    from tests.cluster.hosts import Hosts

pytestmark = [pytest.mark.slurm]

NOTE = "open('ran.txt', 'a').write(f'{n}\\n')\n"  # appended whole: a line for each point that was run to its end


def sweep(login: Login, code: str, count: int = 40, **options: Any) -> Workflow:
    workflow = login.workflow("many")
    workflow.step("fit", code, **({"each": {"n": f"range({count})"}, "reuse_kernel": True} | options))
    return workflow


def fit(run: Run) -> dict[str, Any]:
    return run["fit"].status()


def folder_of(login: Login, run: Run) -> Path:
    return login.folder(run) / "fit"


def jobs(login: Login) -> list[str]:
    """The numbers of all jobs in the queue, each once."""
    return sorted(set(login.squeue("%i").split()), key=int)


def kernels(login: Login, run: Run) -> list[dict[str, Any]]:
    """What each kernel said when it began: pid and number."""
    path = folder_of(login, run) / "events.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in lines if line["event"] == "running"]


def running(run: Run) -> dict[str, dict[str, Any]]:
    """The points that run now."""
    return {number: point for number, point in fit(run)["points"].items() if point["state"] == "running"}


def once_each(login: Login, count: int, *, but: int = 0) -> None:
    """Each point ran to its end; at most ``but`` of them once more."""
    ran = Counter(login.ran())
    assert set(ran) == {str(n) for n in range(count)}
    assert sum(ran.values()) - count <= but, ran


def test_a_sweep_is_few_jobs_and_what_follows_waits_for_them_in_slurms_queue(login: Login) -> None:
    wf = login.workflow("many")
    wf.step("first", "base = 10", outputs=["base"])
    wf.step("fit", "import os\ny, job = base + n, os.environ['SLURM_JOB_ID']\nprint('point', n)\n" + NOTE, each={"n": "range(200)"}, outputs=["y", "job"], reuse_kernel=True)
    wf.step("total", "t, jobs = sum(y), sorted(set(job))", outputs=["t", "jobs"])
    run = wf.submit()
    login.until(lambda: len(jobs(login)) == 10)  # all of it is with Slurm
    login.kill_manager()
    login.until(lambda: len(login.ran()) == 200, 60)
    steps = login.completed(run)
    assert run["total"].pull("t") == sum(range(200)) + 2000
    assert len(run["total"].pull("jobs")) == 8
    assert {point["native_id"] for point in steps["fit"]["points"].values()} == set(run["total"].pull("jobs"))
    assert {point["node"] for point in steps["fit"]["points"].values()} <= {"node1", "node2"}
    assert run["fit[123]"].logs() == "point 123\n"
    assert steps["total"]["attempt"] == 1
    once_each(login, 200)
    files = [path for path in folder_of(login, run).rglob("*") if path.is_file()]
    assert len(files) <= 10 + 5 * 8, files
    assert not list((login.home / "runtime").glob("*.json"))  # no key outlives its kernel
    script = run["fit[3]"].script()
    assert "#SBATCH --job-name=kale-" in script
    assert "in warm kernels" in script


@pytest.fixture(autouse=True)
def _few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two jobs for a sweep, but where the default is meant."""
    if "few" not in request.node.name:
        monkeypatch.setenv("KALE_SLURM_KERNELS", "2")


def test_points_that_fail_fail_alone_and_those_that_may_are_tried_again(login: Login) -> None:
    code = f"import os\nif n == 3: raise ValueError('no three')\nif n == 5 and os.environ['KALE_ATTEMPT'] == '1': os._exit(7)\n{NOTE}y = n\n"
    wf = sweep(login, code, 30, outputs=["y"], retries=1)
    wf.step("after", "1", after=["fit"])
    run = wf.submit()
    steps = login.ended(run)
    assert fit(run)["counts"] == {"completed": 29, "failed": 1}, fit(run)
    assert run["fit[3]"].reason == "ValueError: no three"
    assert (run["fit[3]"].status()["attempt"], run["fit[5]"].status()["attempt"]) == (2, 2)
    assert run["fit[5]"].pull("y") == 5
    assert steps["after"]["state"] == "cancelled"
    login.until(lambda: not login.squeue())


def test_what_follows_runs_once_though_a_point_was_tried_again(login: Login) -> None:
    code = f"import os\nif n == 5 and os.environ['KALE_ATTEMPT'] == '1': raise RuntimeError\n{NOTE}y = n\n"
    wf = sweep(login, code, 12, outputs=["y"], retries=1)
    wf.step("total", "t = sum(y)\nopen('ran.txt', 'a').write('total\\n')\n", outputs=["t"])
    run = wf.submit()
    login.completed(run, 90)
    assert run["total"].pull("t") == sum(range(12))
    assert login.ran().count("total") == 1


def test_one_point_is_visited_and_stopped_and_others_are_cancelled_while_the_rest_runs(login: Login) -> None:
    code = f"import time\nfrom kale_magic.inside import params\nwhile n == 0 or (n == 1 and params.n == 1):\n    time.sleep(0.01)\n{NOTE}"
    run = sweep(login, code, 12).submit()
    login.until(lambda: run["fit[0]"].target().kernel is not None and run["fit[1]"].target().kernel is not None)
    with contextlib.closing(run["fit[0]"]._visits):
        assert str(run["fit[0]"].execute("n", timeout=60)) == "0"
    waiting = next(number for number, point in fit(run)["points"].items() if point["state"] == "queued")
    reason = login.until(lambda: (found := fit(run)["points"][waiting]["reason"]).startswith("waits for its turn in job") and found)
    assert "which runs on node" in reason
    login.client.cancel(run.name, "fit", int(waiting))
    login.until(lambda: run[f"fit[{waiting}]"].state == "cancelled", 5)
    login.client.cancel(run.name, "fit", 0)
    login.until(lambda: run["fit[0]"].state == "cancelled")
    with contextlib.closing(run["fit[1]"]._visits):
        run["fit[1]"].push(n=-1)
    login.ended(run)
    assert fit(run)["counts"] == {"completed": 10, "cancelled": 2}
    assert set(login.ran()) == ({"-1"} | {str(n) for n in range(2, 12)}) - {waiting}
    assert len(kernels(login, run)) == 2  # no kernel had to be ended for it


def test_a_point_is_stopped_by_the_user_and_paused(login: Login) -> None:
    run = sweep(login, f"import time\nwhile n == 0: time.sleep(0.01)\n{NOTE}", 6).submit()
    login.until(lambda: run["fit[0]"].target().kernel is not None)
    with contextlib.closing(run["fit[0]"]._visits):
        run["fit[0]"].pause()
        login.until(lambda: run["fit[0]"].state == "paused")
        run["fit[0]"].resume()
        login.until(lambda: run["fit[0]"].state == "running")
    login.client.stop(run.name, "fit", 0)
    login.until(lambda: run["fit[0]"].state == "cancelled")
    assert run["fit[0]"].reason == "stopped by the user"
    login.ended(run)
    assert fit(run)["counts"] == {"completed": 5, "cancelled": 1}


def test_a_run_is_cancelled_whole_and_leaves_no_job(login: Login) -> None:
    wf = sweep(login, "import time\ntime.sleep(0.3)\n", 300)
    wf.step("after", "1", after=["fit"])
    run = wf.submit()
    login.until(lambda: fit(run)["counts"].get("completed"))
    run.cancel()
    login.ended(run)
    assert run.state == "cancelled"
    assert fit(run)["counts"]["cancelled"] > 250
    login.until(lambda: not login.squeue())


def test_scancel_by_hand_is_believed_and_the_points_are_not_given_to_another_job(login: Login) -> None:
    run = sweep(login, f"import time\ntime.sleep(0.5)\n{NOTE}", 100).submit()
    login.until(lambda: fit(run)["counts"].get("completed", 0) > 4)
    login.run("scancel", "--user=root")
    login.ended(run)
    counts = fit(run)["counts"]
    assert set(counts) == {"completed", "cancelled"}
    reasons = {point["reason"] for point in fit(run)["points"].values() if point["state"] == "cancelled"}
    assert reasons == {"cancelled in Slurm's queue, not by Kale (by hand, or by an administrator)"}


@pytest.mark.parametrize("what", ["kernel", "kernel and worker"])
def test_a_kernel_that_is_killed_loses_the_point_it_was_at_and_another_runs_the_rest(login: Login, what: str) -> None:
    run = sweep(login, f"import time\ntime.sleep(0.1)\n{NOTE}", 60, retries=1).submit()
    login.until(lambda: len(login.ran()) > 6 and len(kernels(login, run)) == 2)
    pid = kernels(login, run)[0]["pid"]
    worker = psutil.Process(pid).ppid()
    for each in [pid] if what == "kernel" else [worker, pid]:
        os.kill(each, signal.SIGKILL)
    login.completed(run, 90)
    once_each(login, 60, but=1)
    assert sorted(point["attempt"] for point in fit(run)["points"].values())[-2:] == [1, 2]
    assert len(kernels(login, run)) in {3, 4}  # the other one may have ended by then


def test_the_manager_is_killed_and_killed_again(login: Login) -> None:
    wf = login.workflow("many")
    wf.step("fit", f"import time\ntime.sleep(0.05)\ny = n * m\n{NOTE}", each={"n": "range(60)", "m": [1, 2]}, outputs=["y"], reuse_kernel=True)
    wf.step("total", "t = sum(y)", outputs=["t"])
    run = wf.submit()
    for pause in (0.05, 0.3, 1.0, 2.0):
        time.sleep(pause)
        login.kill_manager()
    login.completed(run, 120)
    assert run["total"].pull("t") == 3 * sum(range(60))
    assert Counter(login.ran()) == {str(n): 2 for n in range(60)}


def test_a_manager_that_comes_after_all_has_ended_knows_it(login: Login) -> None:
    run = sweep(login, f"import time\ntime.sleep(0.05)\n{NOTE}", 40).submit()
    login.until(lambda: len(jobs(login)) == 2)
    login.kill_manager()
    login.until(lambda: len(login.ran()) == 40, 60)
    login.until(lambda: not login.squeue())
    login.completed(run)
    once_each(login, 40)


def test_jobs_that_slurm_has_purged_are_known_by_their_files(login: Login, hosts: Hosts) -> None:
    wf = sweep(login, f"import os, time\ntime.sleep(0.05)\nif n == 7: raise ValueError(n)\n{NOTE}", 40)
    wf.step("after", "1", after=["fit"])
    run = wf.submit()
    login.until(lambda: len(login.ran()) > 1)
    login.kill_manager()
    login.until(lambda: len(login.ran()) == 39, 60)
    forget(hosts)
    login.until(lambda: login.answers() and not login.run("squeue", "-h", "--states=all", "-o", "%i"), 60)
    login.ended(run)
    assert fit(run)["counts"] == {"completed": 39, "failed": 1}
    assert run["after"].state == "cancelled"
    assert Counter(login.ran()) == {str(n): 1 for n in range(40) if n != 7}


def test_jobs_that_the_controller_forgot_before_they_began_are_submitted_again_as_they_were(login: Login, hosts: Hosts) -> None:
    for node in hosts.nodes:
        login.run("scontrol", "update", f"nodename={node.name}", "state=drain", "reason=test")
    run = sweep(login, NOTE, 10).submit()
    before = login.until(lambda: len(found := {point["native_id"] for point in fit(run)["points"].values()} - {None}) == 2 and found)
    forget(hosts)
    login.until(login.answers)
    login.resume_nodes()
    login.completed(run, 120)
    once_each(login, 10)
    assert {point["attempt"] for point in fit(run)["points"].values()} == {1}
    assert before


def forget(hosts: Hosts) -> None:
    """Let the controller lose all that it knows of jobs, as it does of those that ended MinJobAge ago."""
    hosts.kill_controller()
    for path in (hosts.folder / "state").glob("job_state*"):
        path.unlink()
    hosts.start_controller()


def test_a_point_that_waits_in_the_queue_is_held_with_its_job_and_says_why_it_waits(login: Login) -> None:
    blocker = login.workflow("other")
    blocker.step("wide", "import time\ntime.sleep(100)", cpus=8, each={"i": "range(2)"})
    other = blocker.submit()
    login.until(lambda: other.states()["wide"] == "running")
    run = sweep(login, NOTE, 10).submit()
    reason = login.until(lambda: (found := fit(run)["points"]["7"]["reason"]).startswith(("Resources", "Priority")) and found)
    assert "nodes to become free" in reason or "higher priority" in reason
    assert {line["point"]: line["native_id"] for line in login.client.queue() if line["step"] == "fit"}[7]
    login.client.hold(run.name, "fit", 0)
    login.until(lambda: run["fit[0]"].state == "held")
    held = {number for number, point in fit(run)["points"].items() if point["state"] == "held"}
    assert held == {"0", "2", "4", "6", "8"}  # those of its job
    login.client.cancel(run.name, "fit", 7)
    login.until(lambda: run["fit[7]"].state == "cancelled")
    login.client.release(run.name, "fit", 0)
    other.cancel()
    login.ended(run)
    assert fit(run)["counts"] == {"completed": 9, "cancelled": 1}
    assert sorted(map(int, login.ran())) == [0, 1, 2, 3, 4, 5, 6, 8, 9]


def test_setup_that_fails_fails_each_point_with_what_it_said(login: Login) -> None:
    run = sweep(login, "1", 4, setup="echo no such place >&2; false").submit()
    login.ended(run)
    assert fit(run)["counts"] == {"failed": 4}
    assert {point["reason"] for point in fit(run)["points"].values()} == {"`echo no such place >&2; false` failed: no such place."}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_job_whose_time_is_over_hands_on_what_it_did_not_get_to(login: Login) -> None:
    code = f"import os, time\ntime.sleep(1000 if n == 11 and os.environ['KALE_ATTEMPT'] == '1' else 8)\n{NOTE}"
    run = sweep(login, code, 18, walltime="00:01:00").submit()
    login.completed(run, 360)
    points = fit(run)["points"]
    assert points["11"]["attempt"] == 2  # it was cut off, and others before it had had some of the time
    assert {point["attempt"] for number, point in points.items() if number != "11"} == {1}
    once_each(login, 18)
    assert len(kernels(login, run)) > 2


# -- in a pool --------------------------------------------------------------------------------------------------


def pool_of(login: Login, **asked: Any) -> str:
    open_pool(login.client, "fast", **{"cpus": 2, "walltime": "00:10:00", **asked})
    nodes = asked.get("nodes", 1)
    return str(login.until(lambda: next((line["native_id"] for line in login.client.pools() if line["state"] == "idle" and len(line["nodes"]) == nodes), "")))


def test_in_a_pool_the_kernels_are_on_all_its_nodes_and_points_are_visited_and_cancelled(login: Login) -> None:
    job = pool_of(login, nodes=2)
    code = f"import time, os\nwhile n == 0: time.sleep(0.01)\ntime.sleep(0.02)\ny, node = n, os.environ['SLURMD_NODENAME']\n{NOTE}"
    wf = sweep(login, code, 200, outputs=["y", "node"])
    wf.step("total", "t, nodes = sum(y), sorted(set(node))", outputs=["t", "nodes"])
    run = wf.submit(pool="fast", cache=False)
    login.until(lambda: run["fit[0]"].target().kernel is not None)
    with contextlib.closing(run["fit[0]"]._visits):
        assert str(run["fit[0]"].execute("n", timeout=60)) == "0"
        run["fit[0]"].push(n=1000)
    steps = login.completed(run)
    assert run["total"].pull("nodes") == ["node1", "node2"]
    assert run["total"].pull("t") == sum(range(200)) + 1000
    assert {point["native_id"] for point in steps["fit"]["points"].values()} == {job}
    assert len(kernels(login, run)) <= 4
    assert login.squeue("%i").split() == [job]
    run = sweep(login, f"import time\ntime.sleep(0.2)\n{NOTE}", 300).submit(pool="fast", cache=False)
    login.until(lambda: fit(run)["counts"].get("completed"))
    run.cancel()
    login.ended(run)
    assert login.squeue("%i").split() == [job]
    login.until(lambda: not list((login.home / "runtime").glob("*.json")))


def test_in_a_pool_a_kernel_that_is_killed_loses_the_point_it_was_at(login: Login) -> None:
    pool_of(login)
    run = sweep(login, f"import time\ntime.sleep(0.05)\n{NOTE}", 100, retries=1).submit(pool="fast")
    login.until(lambda: len(login.ran()) > 10)
    os.kill(kernels(login, run)[0]["pid"], signal.SIGKILL)
    login.kill_manager()
    login.completed(run)
    once_each(login, 100, but=1)


def test_in_a_pool_that_is_cancelled_the_points_go_on_in_another_allocation(login: Login) -> None:
    first = pool_of(login)
    run = sweep(login, f"import time\ntime.sleep(0.1)\n{NOTE}", 100).submit(pool="fast")
    login.until(lambda: len(login.ran()) > 10)
    login.run("scancel", first)
    login.completed(run, 90)
    once_each(login, 100, but=2)
    attempts = Counter(point["attempt"] for point in fit(run)["points"].values())
    assert attempts[1] >= 98
    assert {point["native_id"] for point in fit(run)["points"].values()} > {first}
