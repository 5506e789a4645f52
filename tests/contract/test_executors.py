"""What every executor keeps its word on; the local one is played by a supervisor that runs nothing (tests/fakes)."""

import asyncio
import json
import os
import signal
import sys
from functools import partial, wraps
from pathlib import Path

import pytest

from kale_magic.abc import Environment, Ticket
from kale_magic.errors import SubmitError, UnknownExecutorError
from kale_magic.executors import registry
from kale_magic.executors._queue import LocalQueue
from kale_magic.executors.local import LocalExecutor
from kale_magic.manager.daemon import SystemClock
from kale_magic.model.resources import Resources
from kale_magic.model.run import Demand
from kale_magic.model.step import Step
from kale_proxy import claim
from kale_proxy.spec import JobResult, JobSpec

FAKE = Path(__file__).parents[1] / "fakes" / "supervisor.py"


def fake_command(python, folder):
    return [sys.executable, str(FAKE), "--dir", str(folder)]


class Bench:
    """An executor, the jobs given to it, and what it said."""

    def __init__(self, folder, sockets, **queue):
        self.folder, self.sockets = folder, sockets
        (folder / "work").mkdir(exist_ok=True)
        self.reports = []
        self.count = 0
        self.queue = LocalQueue(**{"cpus": 2, "memory_bytes": 8 << 30, **queue})
        self.executor = LocalExecutor(sockets, self.queue, SystemClock(), command=fake_command)

    def ticket(self, code="ok", *, name=None, point=None, attempt=1, uuid=None, demand=None, env=(), setup=(), modules=(), cwd=None):
        self.count += 1
        name = name or f"step{self.count}"
        uuid = uuid or f"{self.count:032x}"
        spec = partial(
            JobSpec, run="r-1", step=name, point=point, attempt=attempt, uuid=uuid, folder=str(self.folder / "steps" / name),
            cwd=str(cwd or self.folder / "work"), kind="shell", code=code, outputs=("x",),
        )  # fmt: skip
        environ = tuple(sorted({"PATH": os.environ["PATH"], "HOME": "/"}.items()))
        environment = partial(Environment, sys.executable, environ, modules, setup, env)
        return Ticket(uuid, "r-1", name, (1, self.count), demand or Demand(), spec, environment)

    def start(self, *tickets):
        for ticket in tickets:
            self.executor.enqueue(ticket)
        self.pump()

    def pump(self):
        for uuid in self.executor.take():
            self.executor.start(uuid)

    def said(self, ticket, kind=None):
        return [report for report in self.reports if report.uuid == ticket.uuid and kind in {None, report.kind.value}]

    async def until(self, condition, what="it"):
        deadline = asyncio.get_running_loop().time() + 20
        while not (found := condition()):
            assert asyncio.get_running_loop().time() < deadline, f"{what} did not come; reports: {self.reports}"
            await asyncio.sleep(0.005)
            self.pump()
        return found

    async def result(self, ticket):
        """Wait for the report that ends a job."""
        over = ("ended", "refused", "lost")
        return (await self.until(lambda: [report for report in self.said(ticket) if report.kind.value in over], f"the end of {ticket.address}"))[0]

    async def again(self):
        """End this life and begin another, as a manager that was killed does."""
        await self.executor.close()
        fresh = Bench(self.folder, self.sockets)
        fresh.count = self.count
        await fresh.executor.open(fresh.reports.append)
        return fresh

    def ran(self):
        path = self.folder / "work" / "ran.txt"
        return path.read_text().split("\n")[:-1] if path.exists() else []

    def supervisors(self):
        return [json.loads(path.read_text())["pid"] for path in self.sockets.glob("*/serve.json")]


def with_bench(**options):
    def decorate(test):
        @wraps(test)
        def run(tmp_path, kale_home):
            from kale_proxy.places import socket_dir

            async def body():
                bench = Bench(tmp_path, socket_dir() / "w", **options)
                await bench.executor.open(bench.reports.append)
                try:
                    await test(bench)
                finally:
                    await bench.executor.close()

            asyncio.run(body())

        del run.__wrapped__  # pytest would ask the test itself for its fixtures
        return run

    return decorate


@with_bench()
async def test_a_job_runs_and_its_result_is_reported(bench):
    ticket = bench.ticket()
    bench.start(ticket)
    end = await bench.result(ticket)
    assert [report.kind.value for report in bench.said(ticket)] == ["running", "ended"]
    assert end.data["state"] == "completed"
    assert list(end.data["outputs"]) == ["x"]
    assert bench.ran() == ["step1 None 1"]


@with_bench()
async def test_a_failing_job_brings_its_error(bench):
    ticket = bench.ticket("fail")
    bench.start(ticket)
    end = await bench.result(ticket)
    assert (end.data["state"], end.data["error"]["ename"]) == ("failed", "NameError")


@with_bench()
async def test_a_job_folder_has_what_a_person_needs_to_run_it_again(bench):
    ticket = bench.ticket("ok", env=(("GREETING", 'say "hi" to $HOME'),))
    bench.start(ticket)
    await bench.result(ticket)
    folder = Path(ticket.spec().folder)
    assert JobSpec.from_json((folder / "job.json").read_text()) == ticket.spec()
    script = (folder / "job.sh").read_text()
    assert f"cd {bench.folder / 'work'} || exit 1" in script
    assert 'export GREETING="say \\"hi\\" to $HOME"' in script
    assert f"-m kale_proxy run {folder}/job.json" in script
    assert (folder.stat().st_mode & 0o777, (folder / "job.json").stat().st_mode & 0o777) == (0o700, 0o600)


@with_bench(cpus=2)
async def test_no_more_jobs_run_at_once_than_there_are_cores(bench):
    tickets = [bench.ticket("hang") for _ in range(3)]
    bench.start(*tickets)
    await bench.until(lambda: bench.said(tickets[1], "running"))
    assert bench.executor.reason(tickets[2].uuid) == "waits for 1 of 2 cores"
    assert [line.state for line in bench.executor.queue()] == ["running", "running", "queued"]
    bench.executor.cancel(tickets[0].uuid)
    await bench.until(lambda: bench.said(tickets[2], "running"))
    assert bench.executor.reason(tickets[2].uuid) == ""


@with_bench()
async def test_a_cancelled_job_ends_and_gives_back_what_it_held(bench):
    ticket = bench.ticket("hang", demand=Demand(2))
    bench.start(ticket)
    await bench.until(lambda: bench.said(ticket, "running"))
    bench.executor.cancel(ticket.uuid)
    end = await bench.result(ticket)
    assert end.data["state"] == "cancelled"
    assert bench.queue.used() == Demand(0, 0, 0)


@with_bench()
async def test_a_job_cancelled_before_its_start_was_sent_never_begins(bench):
    ticket = bench.ticket("ok")
    bench.executor.enqueue(ticket)
    [uuid] = bench.executor.take()
    bench.executor.start(uuid)  # no supervisor runs yet
    bench.executor.cancel(uuid)
    end = await bench.result(ticket)
    assert end.data["reason"] == "cancelled by you before it began"
    other = bench.ticket("ok")
    bench.start(other)
    await bench.result(other)
    assert bench.ran() == ["step2 None 1"]


@with_bench()
async def test_a_withdrawn_job_is_not_taken(bench):
    ticket = bench.ticket()
    bench.executor.enqueue(ticket)
    bench.executor.withdraw(ticket.uuid)
    assert bench.executor.take() == []


@with_bench()
async def test_an_interrupted_job_pauses_and_is_released(bench):
    ticket = bench.ticket("hang")
    bench.start(ticket)
    await bench.until(lambda: bench.said(ticket, "running"))
    bench.executor.interrupt(ticket.uuid)
    paused = (await bench.until(lambda: bench.said(ticket, "state")))[0]
    assert paused.data["state"] == "paused"
    bench.executor.release(ticket.uuid)
    assert (await bench.result(ticket)).data["reason"] == "stopped by you"


@with_bench()
async def test_a_refusal_is_passed_on(bench):
    ticket = bench.ticket("refuse")
    bench.start(ticket)
    end = await bench.result(ticket)
    assert (end.kind.value, end.data["reason"]) == ("refused", "the disk is full")


@with_bench()
async def test_a_job_that_vanishes_is_lost_and_the_next_one_runs(bench):
    ticket = bench.ticket("vanish")
    bench.start(ticket)
    end = await bench.result(ticket)
    assert (end.kind.value, end.data["reason"]) == ("lost", "its process (pid 999999999) is gone and left no result")
    other = bench.ticket()
    bench.start(other)
    assert (await bench.result(other)).data["state"] == "completed"


@with_bench()
async def test_a_job_that_never_begins_is_given_up(bench):
    ticket = bench.ticket("die")  # kills every supervisor that gets it
    bench.start(ticket)
    end = await bench.result(ticket)
    assert (end.kind.value, end.data["reason"]) == ("lost", "it was handed over 3 times and never began")


@with_bench()
async def test_a_supervisor_without_jobs_is_let_go_and_started_anew_when_needed(bench, monkeypatch=pytest.MonkeyPatch()):
    monkeypatch.setattr("kale_magic.executors.local._IDLE_S", 0.1)
    bench.executor._fleet._command = lambda python, folder: [*fake_command(python, folder), "--idle", "0.2"]
    try:
        first, second = bench.ticket(), bench.ticket()
        bench.start(first)
        await bench.result(first)
        [pid] = bench.supervisors()
        await bench.until(lambda: not list(bench.sockets.glob("*/s")), "the end of the idle supervisor")
        bench.start(second)
        assert (await bench.result(second)).data["state"] == "completed"
        assert bench.supervisors() != [pid]
    finally:
        monkeypatch.undo()


@with_bench()
async def test_a_supervisor_that_cannot_start_is_explained(bench):
    bench.executor._fleet._command = lambda python, folder: [sys.executable, "-c", "raise SystemExit('no module named kale_proxy')"]
    ticket = bench.ticket()
    bench.start(ticket)
    end = await bench.result(ticket)
    assert end.kind.value == "refused"
    assert f"Python for the step's environment ({sys.executable}) could not be started" in end.data["reason"]
    assert "no module named kale_proxy" in end.data["reason"]


@with_bench()
async def test_an_interpreter_that_is_not_there_is_explained(bench):
    bench.executor._fleet._command = lambda python, folder: ["/nowhere/python", "-m", "kale_proxy"]
    ticket = bench.ticket()
    bench.start(ticket)
    assert "No such file or directory (/nowhere/python)" in (await bench.result(ticket)).data["reason"]


@with_bench()
async def test_a_folder_that_cannot_be_made_fails_the_job_with_a_sentence(bench):
    (bench.folder / "steps").write_text("a file in the way")
    ticket = bench.ticket()
    bench.start(ticket)
    end = await bench.result(ticket)
    assert end.kind.value == "refused"
    assert end.data["reason"].startswith("the step's folder can't be written: Not a directory")


@with_bench()
async def test_a_later_attempt_finds_the_files_of_the_one_before_put_aside(bench):
    first = bench.ticket("fail", name="fit")
    bench.start(first)
    await bench.result(first)
    second = bench.ticket("ok", name="fit", attempt=2)
    bench.start(second)
    assert (await bench.result(second)).data["state"] == "completed"
    folder = Path(second.spec().folder)
    assert JobResult.from_json((folder / "attempts" / "1" / "result.json").read_text()).uuid == first.uuid
    assert JobResult.from_json((folder / "result.json").read_text()).uuid == second.uuid
    assert sorted(path.name for path in folder.glob("*.claim")) == ["attempt-1.claim", "attempt-2.claim"]


@with_bench()
async def test_steps_of_one_environment_share_a_supervisor_and_others_do_not(bench):
    tickets = [bench.ticket(), bench.ticket(), bench.ticket(env=(("A", "1"),))]
    bench.start(*tickets)
    for ticket in tickets:
        await bench.result(ticket)
    assert len(bench.supervisors()) == 2


@with_bench()
async def test_setup_lines_make_the_environment(bench):
    source = bench.folder / "env.sh"
    source.write_text("export COLOUR=blue\n")
    ticket = bench.ticket(setup=(f"source {source}", 'export SHADE="dark $COLOUR"'), env=(("BOTH", "${SHADE}/$COLOUR$NOTHING"),))
    bench.start(ticket)
    await bench.result(ticket)
    [pid] = bench.supervisors()
    environ = dict(item.split("=", 1) for item in Path(f"/proc/{pid}/environ").read_text().split("\0") if item)
    assert (environ["SHADE"], environ["BOTH"]) == ("dark blue", "dark blue/blue")
    assert "SHLVL" not in environ
    assert f"source {source}" in (Path(ticket.spec().folder) / "job.sh").read_text()


@pytest.mark.parametrize(
    ("setup", "words"),
    [
        ("source /nowhere/env.sh", "`source /nowhere/env.sh` failed: .*No such file or directory"),
        ("if then", "`if then` failed: .*syntax error"),
        ("false", r"`false` failed\.$"),
    ],
)
def test_a_setup_line_that_fails_is_quoted(tmp_path, kale_home, setup, words):
    @with_bench()
    async def run(bench):
        ticket = bench.ticket(setup=("export A=1", setup, "export B=2"))
        bench.start(ticket)
        end = await bench.result(ticket)
        assert end.kind.value == "refused"
        assert __import__("re").match(words, end.data["reason"]), end.data["reason"]
        assert not Path(ticket.spec().folder).exists()

    run(tmp_path, kale_home)


@with_bench()
async def test_modules_without_a_module_command_are_explained(bench):
    ticket = bench.ticket(modules=("gcc/12",))
    bench.start(ticket)
    assert "there is no module command on" in (await bench.result(ticket)).data["reason"]


@with_bench()
async def test_modules_are_loaded_where_there_is_a_module_command(bench):
    ticket = bench.ticket(modules=("gcc/12", "mpi"), setup=())
    environ = (*ticket.environment().environ, ("BASH_FUNC_module%%", '() { [ "$1" = load ] && export "LOADED=$LOADED+$2"; }'))
    loading = Ticket(
        ticket.uuid, ticket.run, ticket.address, ticket.number, ticket.demand, ticket.spec,
        lambda: Environment(sys.executable, environ, ("gcc/12", "mpi")),
    )  # fmt: skip
    bench.start(loading)
    await bench.result(loading)
    [pid] = bench.supervisors()
    assert "LOADED=+gcc/12+mpi" in Path(f"/proc/{pid}/environ").read_text().split("\0")


@with_bench()
async def test_a_new_life_takes_up_what_runs(bench):
    ticket = bench.ticket("hang")
    bench.start(ticket)
    await bench.until(lambda: bench.said(ticket, "running"))
    fresh = await bench.again()
    fresh.executor.recover([ticket])
    await fresh.until(lambda: fresh.said(ticket, "running"))
    assert fresh.queue.used() == Demand(1, 0, 0)
    fresh.executor.cancel(ticket.uuid)
    assert (await fresh.result(ticket)).data["state"] == "cancelled"
    await fresh.executor.close()
    assert bench.ran() == ["step1 None 1"]


@with_bench()
async def test_a_new_life_takes_results_that_came_while_nobody_listened(bench):
    ticket = bench.ticket("sleep 0.2")
    bench.start(ticket)
    await bench.until(lambda: bench.said(ticket, "running"))
    fresh = await bench.again()
    await fresh.until(lambda: (Path(ticket.spec().folder) / "result.json").exists())
    fresh.executor.recover([ticket])
    assert (await fresh.result(ticket)).data["state"] == "completed"
    await fresh.executor.close()
    assert bench.ran() == ["step1 None 1"]


@with_bench()
async def test_a_new_life_starts_what_was_never_begun(bench):
    ticket = bench.ticket()
    bench.executor.recover([ticket])
    assert (await bench.result(ticket)).data["state"] == "completed"
    assert bench.ran() == ["step1 None 1"]


@with_bench()
async def test_a_new_life_reports_what_was_begun_and_is_gone_as_lost(bench):
    ticket = bench.ticket()
    folder = Path(ticket.spec().folder)
    folder.mkdir(parents=True)
    owner = {"uuid": ticket.uuid, "pid": os.getpid(), "pid_start": 1, "boot": claim.boot_id()}
    (folder / "attempt-1.claim").write_text(json.dumps(owner))
    bench.executor.recover([ticket])
    end = await bench.result(ticket)
    assert (end.kind.value, end.data["reason"]) == ("lost", f"its process (pid {os.getpid()}) is gone and left no result")


@with_bench()
async def test_after_a_reboot_what_ran_is_lost_in_those_words(bench):
    ticket = bench.ticket()
    folder = Path(ticket.spec().folder)
    folder.mkdir(parents=True)
    owner = {"uuid": ticket.uuid, "pid": os.getpid(), "pid_start": claim.pid_start(os.getpid()), "boot": "another"}
    (folder / "attempt-1.claim").write_text(json.dumps(owner))
    bench.executor.recover([ticket])
    assert (await bench.result(ticket)).data["reason"] == "the machine was started anew while it ran"


@with_bench()
async def test_a_job_whose_supervisor_was_killed_is_looked_after_until_it_ends(bench):
    ticket = bench.ticket()
    folder = Path(ticket.spec().folder)
    folder.mkdir(parents=True)
    process = await asyncio.create_subprocess_exec("sleep", "100")
    owner = {"uuid": ticket.uuid, "pid": process.pid, "pid_start": claim.pid_start(process.pid), "boot": claim.boot_id()}
    (folder / "attempt-1.claim").write_text(json.dumps(owner))
    bench.executor.recover([ticket])
    await bench.until(lambda: bench.said(ticket, "running"))
    await asyncio.sleep(0.7)  # more than one look
    assert [report.kind.value for report in bench.said(ticket)] == ["running"]
    bench.executor.cancel(ticket.uuid)
    assert (await bench.result(ticket)).kind.value == "lost"  # the machine makes "cancelled" of it
    assert await process.wait() == -signal.SIGTERM


@with_bench()
async def test_starting_twice_runs_once(bench):
    ticket = bench.ticket("hang")
    bench.start(ticket)
    await bench.until(lambda: bench.said(ticket, "running"))
    bench.executor.start(ticket.uuid)
    other = await bench.again()
    other.executor.enqueue(ticket)  # as if the intent had been lost
    other.pump()
    await other.until(lambda: other.said(ticket, "running"))
    other.executor.cancel(ticket.uuid)
    await other.result(ticket)
    await other.executor.close()
    assert bench.ran() == ["step1 None 1"]


@with_bench()
async def test_a_step_that_can_never_run_is_refused_in_one_sentence(bench):
    def step(**asked):
        return Step(name="big", code="1", resources=Resources(**asked))

    assert await bench.executor.check(step(cpus=2, memory_bytes=1 << 30)) == Demand(2, 1 << 30, 0)
    assert await bench.executor.check(step()) == Demand(1, 0, 0)
    with pytest.raises(SubmitError, match=r"^Step `big` asks for 6 cores; this machine has 2\. Lower --cpus\.$"):
        await bench.executor.check(step(ntasks=3, cpus=2))
    with pytest.raises(SubmitError, match=r"^Step `big` asks for 16GB of memory; this machine has 8GB\. Lower --memory\.$"):
        await bench.executor.check(step(memory_bytes=16 << 30))
    with pytest.raises(SubmitError, match="asks for 2 nodes"):
        await bench.executor.check(step(nodes=2))


@with_bench()
async def test_gpus_are_given_out_one_by_one(bench):
    bench.queue.devices = ("2", "5")
    tickets = [bench.ticket("hang", demand=Demand(0, 0, 1)) for _ in range(3)]
    bench.start(*tickets)
    await bench.until(lambda: bench.said(tickets[1], "running"))
    given = [JobSpec.from_json((Path(t.spec().folder) / "job.json").read_text()).limits.gpus for t in tickets[:2]]
    assert given == [(2,), (5,)]
    assert bench.executor.reason(tickets[2].uuid) == "waits for 1 of 2 gpus"


def test_an_unknown_executor_is_named_with_those_there_are():
    with pytest.raises(UnknownExecutorError, match=r"There is no executor 'slrm'\. There is: local"):
        registry.check_name("slrm")
