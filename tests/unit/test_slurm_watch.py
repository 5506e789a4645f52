"""A look at the queue and, of what is gone from it, at the accounting; a Slurm that says what it is told to."""

import asyncio

import pytest

from kale_magic.abc import Ticket
from kale_magic.executors._slurm_batch import Batch
from kale_magic.executors._slurm_book import Book
from kale_magic.executors._slurm_commands import Commands
from kale_magic.executors._slurm_job import Job, Stage
from kale_magic.executors._slurm_watch import Watcher
from kale_magic.executors.slurm_text import read_sacct, read_squeue
from kale_magic.model.run import Demand
from kale_proxy import claim
from kale_proxy.record import ENDED_BY_SIGTERM, new_result, now, write_result
from kale_proxy.spec import JobSpec

GRACE_S = 60.0
RUNNING = "7|N/A|kale-ab|RUNNING|None|1795849632|node1|me|debug|1|1:00"


class Slurm:
    """The commands; ``queue`` and ``accounting`` are what squeue and sacct print."""

    took_s = 0.0

    def __init__(self):
        self.queue, self.accounting, self.asked = RUNNING, "", []

    async def squeue(self):
        return read_squeue(self.queue)

    async def sacct(self, names):
        self.asked.append(list(names))
        return read_sacct(self.accounting)


class Submitter:
    def is_pending(self, _):
        return False

    def pump(self):
        pass

    def send(self, job):
        job.stage = Stage.WAITING


class Clock:
    at = 1000.0

    def monotonic(self):
        return self.at


class World:
    """A job that has begun on its node, and the watcher."""

    def __init__(self, folder):
        self.spec = JobSpec(run="r", step="fit", point=None, attempt=1, uuid="ab", folder=str(folder / "fit"), cwd=str(folder), kind="shell", code="true")
        claim.take(self.spec)
        self.slurm, self.clock, self.told = Slurm(), Clock(), []
        self.book = Book(self.clock)
        self.book.tell = self.told.append
        ticket = Ticket("ab", "r", "fit", (1, 0), Demand(), lambda: self.spec, lambda: None, "fit", None)
        job = self.book.jobs["ab"] = Job(ticket, Stage.SENT)
        job.batch = Batch("kale-ab", {None: ticket}, native_id="7")
        self.watcher = Watcher(self.book, self.slurm, Submitter(), str(folder), 1.0, GRACE_S)

    def look(self, after_s=0.0):
        self.clock.at += after_s
        asyncio.run(self.watcher.look())

    def forget(self):
        """Let the job be gone from the queue for good."""
        self.slurm.queue = ""
        for after_s in (1, 1, GRACE_S):
            self.look(after_s)

    @property
    def end(self):
        report = self.told[-1]
        return report.kind.value, report.data.get("state"), report.data["reason"]


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    made.look()
    return made


@pytest.mark.parametrize(
    ("line", "end"),
    [
        ("7|kale-ab|TIMEOUT|node1", ("ended", "failed", "the time limit of its partition was reached: ask for more by --walltime")),
        ("7|kale-ab|OUT_OF_MEMORY|node1", ("ended", "failed", "Slurm ended it: it used more memory than it asked for (--memory)")),
        ("7|kale-ab|NODE_FAIL|node1", ("lost", None, "its node failed")),
        ("7|kale-ab|PREEMPTED|node1\n7|kale-ab|CANCELLED by 0|node2", ("ended", "cancelled", "cancelled in Slurm's queue, not by Kale (by hand, or by an administrator)")),
        ("7|another|TIMEOUT|node1", ("lost", None, "Slurm no longer knows it, and it left no result")),  # the number was given again
        ("7|kale-ab|RUNNING|node1", ("lost", None, "Slurm no longer knows it, and it left no result")),  # nobody told the accounting of its end
        ("", ("lost", None, "Slurm no longer knows it, and it left no result")),
    ],
)
def test_accounting_says_why_a_job_is_gone_that_left_no_result(world, line, end):
    world.slurm.accounting = line
    world.forget()
    assert world.end == end
    assert world.slurm.asked == [["kale-ab"]]
    assert not world.book.jobs


def test_accounting_is_not_asked_while_the_queue_shows_a_job_or_has_missed_it_for_a_moment(world):
    for after_s in (1, 1, 1, GRACE_S):
        world.look(after_s)
    world.slurm.queue = ""
    world.look(1)
    world.look(GRACE_S / 2)
    assert world.slurm.asked == []
    assert world.book.jobs


def test_a_site_without_accounting_is_not_asked_again(tmp_path, monkeypatch):
    calls = tmp_path / "calls"
    program = tmp_path / "sacct"
    program.write_text(f"#!/bin/sh\necho x >> {calls}\necho 'Slurm accounting storage is disabled' >&2\nexit 1\n")  # sacct of 22.05
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    commands = Commands({"PATH": f"{tmp_path}:/usr/bin:/bin"}, 10.0)
    for _ in range(2):
        assert asyncio.run(commands.sacct(["7"])) == []
    assert calls.read_text() == "x\n"


def test_a_site_without_sacct_is_none_with_accounting(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert asyncio.run(Commands({}, 10.0).sacct(["7"])) == []


@pytest.mark.parametrize(("line", "end"), [("", "cancelled in Slurm's queue"), ("7|kale-ab|TIMEOUT|node1", "the time limit of its partition was reached")])
def test_a_job_that_a_signal_ended_is_judged_when_the_accounting_was_asked(world, line, end):
    write_result(world.spec, new_result(world.spec, "cancelled", now(), reason=ENDED_BY_SIGTERM))
    world.slurm.accounting = line
    world.forget()
    assert world.end[2].startswith(end)


@pytest.mark.parametrize("state", ["RUNNING", "PENDING"])
def test_a_result_is_seen_between_two_looks_at_a_queue_that_is_slow_to_answer(world, state):
    asked = []

    async def squeue():
        asked.append(1)
        return read_squeue(RUNNING.replace("RUNNING", state))

    world.slurm.squeue, world.slurm.took_s = squeue, 5.0  # the next look is 100 s away
    world.watcher._poll_s = 0.2

    async def work():
        world.watcher.poke()
        await asyncio.sleep(0.5)
        write_result(world.spec, new_result(world.spec, "completed", now(), exit_code=0))
        for _ in range(100):
            if world.told and world.told[-1].kind.value == "ended":
                break
            await asyncio.sleep(0.05)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    asyncio.run(work())
    assert world.end == ("ended", "completed", "")
    assert len(asked) == 1
