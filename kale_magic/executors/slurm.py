"""Jobs of a Slurm cluster: a thin adapter on sbatch, squeue, scancel and scontrol.

Slurm is the engine: it queues, keeps the order of a workflow and starts jobs, also while no manager runs. What is owned
here is the protocol by which nothing is lost and nothing runs twice: the intent is stored, then ``sbatch`` is run under a
name of the attempt's own, then the number is stored; a doubt is settled by asking the queue for the name. Files in the
step's folder are the truth about a job, Slurm's state is a hint, and silence means nothing at all.

The parts: ``slurm_text`` (what is said), ``_slurm_commands`` (how), ``_slurm_batch`` (what one sbatch submits),
``_slurm_submit``, ``_slurm_watch``, and ``_slurm_job`` (what is concluded).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

from kale_magic.abc import Executor, QueueLine
from kale_magic.errors import ExecutorError, SubmitError
from kale_magic.executors import _slurm_batch, slurm_text
from kale_magic.executors._slurm_book import Book
from kale_magic.executors._slurm_commands import Commands, NoAnswer
from kale_magic.executors._slurm_job import HELD, Job, Stage
from kale_magic.executors._slurm_submit import Submitter
from kale_magic.executors._slurm_watch import Watcher
from kale_magic.model.events import iso
from kale_magic.model.resources import format_walltime
from kale_magic.model.run import Demand, Report, ReportKind

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from kale_magic.abc import Clock, Ticket
    from kale_magic.config import Settings
    from kale_magic.executors._slurm_commands import Slurm
    from kale_magic.executors.slurm_text import Line
    from kale_magic.model.step import Step

_PROBED_S = 60.0
_INTERRUPT, _RELEASE = str(int(signal.SIGURG)), str(int(signal.SIGWINCH))  # by number: Slurm has no name for WINCH; see kale_proxy.batch


def create(settings: Settings, clock: Clock) -> SlurmExecutor:
    """Return the executor of this host's Slurm (the registry calls it)."""
    return SlurmExecutor(Commands(os.environ, settings.slurm_command_s), settings, clock)


class SlurmExecutor(Executor):
    """See the module, and :class:`kale_magic.abc.Executor` for what each method promises.

    Parameters
    ----------
    commands : Slurm
        How Slurm is spoken to.
    settings : Settings
        Intervals, limits, and where keys are.
    clock : Clock
        The time.
    """

    keeps_order = True
    can_freeze = True
    system = "Slurm"

    def __init__(self, commands: Slurm, settings: Settings, clock: Clock) -> None:
        self._commands = commands
        self._most_jobs = settings.slurm_max_jobs
        keys = str(settings.keys_dir)
        self._book = Book(clock, self.system)
        self._submitter = Submitter(self._book, commands, keys, listens=settings.slurm_listen)
        self._watcher = Watcher(self._book, commands, self._submitter, keys, settings.slurm_poll_s, settings.slurm_grace_s)
        self._book.poke = self._watcher.poke
        self._probed: dict[object, str] = {}

    async def open(self, sink: Callable[[Report], None]) -> None:
        """Begin; Slurm is not asked before there is a job."""
        self._book.tell = sink

    async def close(self) -> None:
        """Let go; jobs go on, and what sbatch was told meanwhile is found by its name."""
        await self._book.close()

    # -- before a submit -------------------------------------------------------------------------------------

    async def check(self, step: Step) -> Demand:
        """Return what each job takes; what Slurm would refuse is refused here, in its own words."""
        asked, code = step.resources, step.code if step.kind == "script" else ""
        own = slurm_text.own_directives(code)
        if slurm_text.asks_for_an_array([*own, *asked.native]):
            raise SubmitError(f"Step `{step.name}` asks for an array by an #SBATCH line.", "Write a sweep instead: --each i=range(10).")
        key = (asked, *own)
        if key not in self._probed:
            words = await self._commands.probe(slurm_text.probe_script(asked, code))
            self._probed[key] = words or await self._over_time(step)
            self._book.later(_PROBED_S, lambda: self._probed.pop(key, None))
        if words := self._probed[key]:
            raise SubmitError(f"Step `{step.name}` would be refused by Slurm: {words}.", "Change what it asks for; sinfo shows what there is.")
        return Demand(max(1, (asked.cpus or 1) * (asked.ntasks or 1)), asked.memory_bytes or 0, asked.gpus or 0)

    async def _over_time(self, step: Step) -> str:
        """Return why a walltime is too long: Slurm would let such a job wait for ever."""
        wanted, queue = step.resources.walltime_s, step.resources.queue or ""
        if not wanted:
            return ""
        with contextlib.suppress(NoAnswer):
            await self._submitter.learn()
        limit = (self._submitter.limits.walltimes or {}).get(queue)
        if limit is None or wanted <= limit:
            return ""
        where = f"partition {queue}" if queue else "the default partition"
        return f"PartitionTimeLimit: --walltime is {format_walltime(wanted)}, and {where} allows {format_walltime(limit)}"

    def script(self, ticket: Ticket) -> str:
        """Return the job script."""
        [batch] = _slurm_batch.batches([ticket], self._submitter.limits.most_tasks)
        return _slurm_batch.script_of(batch, ticket.environment())

    # -- the order of duty -----------------------------------------------------------------------------------

    def enqueue(self, ticket: Ticket) -> None:
        """Take a job in; it is submitted when its turn comes."""
        self._book.jobs[ticket.uuid] = Job(ticket, system=self.system)

    def withdraw(self, uuid: str) -> None:
        """Take a job out that is not with Slurm yet."""
        job = self._book.jobs.get(uuid)
        if job is not None and job.stage is not Stage.SENT:
            del self._book.jobs[uuid]

    def take(self) -> list[str]:
        """Return the jobs to be submitted now: as many as may be with Slurm at once, none before what it waits for."""
        waiting = [job for job in self._book.jobs.values() if job.stage is Stage.WAITING and not job.is_held]
        if not waiting:
            return []
        free = self._most_jobs - (len(self._book.jobs) - len(waiting))
        taken: list[str] = []
        cleared: set[tuple[str, ...]] = set()  # points of one sweep wait for the same jobs
        for job in waiting[: max(0, free)]:
            after = job.ticket.after
            if after in cleared or all(map(self._is_taken, after)):
                cleared.add(after)
                job.stage = Stage.TAKEN
                taken.append(job.ticket.uuid)
        return taken

    def _is_taken(self, uuid: str) -> bool:
        job = self._book.job_for(uuid)
        return not self._book.is_ahead(uuid) and (job is None or job.stage is not Stage.WAITING)

    def represent(self, uuid: str, job: str | None) -> None:
        """Know the job that runs a point of a sweep which later jobs wait for: empty, it is yet to be made; None, the point is over."""
        if job is None:
            self._book.stand_ins.pop(uuid, None)
        else:
            self._book.stand_ins[uuid] = job

    def start(self, uuid: str) -> None:
        """Submit a taken job, together with others of this turn."""
        job = self._book.jobs.get(uuid)
        if job is not None and job.stage is Stage.TAKEN:
            self._submitter.send(job)

    def drop(self, uuid: str) -> None:
        """Give up a taken job."""
        self.withdraw(uuid)

    def recover(self, tickets: Iterable[Ticket]) -> None:
        """Ask Slurm for the names of jobs of an earlier life; one that it does not know is submitted after a grace."""
        known = list(tickets)
        for ticket in known:
            self._book.jobs[ticket.uuid] = Job(ticket, Stage.SENT, system=self.system)
        self._submitter.adopt(known)
        self._watcher.poke()

    def cancel(self, uuid: str) -> None:
        """End a job, wherever it is."""
        job = self._book.jobs.get(uuid)
        if job is None:
            return
        job.is_cancelled = True
        if job.batch is None or self._submitter.is_pending(job.batch):
            self._submitter.drop(job)
            self._book.finish(Report(ReportKind.ENDED, uuid, {"state": "cancelled", "reason": "cancelled by you before it began"}))
        else:
            self._watcher.poke()

    def interrupt(self, uuid: str) -> None:
        """Interrupt a running job's code."""
        self._signal(uuid, _INTERRUPT)

    def release(self, uuid: str) -> None:
        """End the look at an interrupted job, or the hold of one in the queue."""
        job = self._book.jobs.get(uuid)
        if job is None:
            return
        if job.is_running:
            self._signal(uuid, _RELEASE)
        elif job.stage is Stage.WAITING:
            job.is_held = False
            self._book.tell(Report(ReportKind.STATE, uuid, {"state": "queued"}))
        elif job.native_id:
            self._do(self._commands.hold([job.native_id], is_held=False))
        job.wants_hold = False

    def freeze(self, uuid: str, *, is_on: bool) -> None:
        """Stop all processes of a running job, its ranks on other nodes too, or let them go on."""
        job = self._book.jobs.get(uuid)
        if job is not None and job.native_id and job.batch is not None:
            if not _has_ranks(job):  # whose workers do it, each on its node
                self._do(self._commands.signal_steps(job.native_id, job.batch.name, "STOP" if is_on else "CONT"))
            self._signal(uuid, "TSTP" if is_on else "CONT")

    def hold(self, uuid: str) -> None:
        """Keep a job in the queue."""
        job = self._book.jobs.get(uuid)
        if job is None:
            return
        if job.stage is Stage.WAITING:
            job.is_held = True
            self._book.tell(Report(ReportKind.STATE, uuid, {"state": "held", "reason": HELD}))
        elif job.native_id:
            self._do(self._commands.hold([job.native_id], is_held=True))
        else:
            job.wants_hold = True

    def _signal(self, uuid: str, name: str) -> None:
        """Signal the worker of a job, or of each of its ranks."""
        job = self._book.jobs.get(uuid)
        if job is not None and job.native_id and job.batch is not None:
            send = self._commands.signal_steps if _has_ranks(job) else self._commands.signal
            self._do(send(job.native_id, job.batch.name, name))

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        async def deed() -> None:
            try:
                await work
            except NoAnswer as exc:
                self._book.set_down(str(exc))
            await asyncio.sleep(0)
            self._watcher.poke()

        self._book.spawn(deed())

    # -- questions -------------------------------------------------------------------------------------------

    def reason(self, uuid: str) -> str:
        """Return why a job waits."""
        job = self._book.jobs.get(uuid)
        if job is None:
            return ""
        if self._book.down is not None:
            since, words = self._book.down
            return f"{self.system} has not answered since {since} UTC ({words}); it is asked again and again"
        if job.stage is Stage.WAITING:
            return HELD if job.is_held else f"waits to be submitted: {self._most_jobs} of your jobs are with {self.system} (slurm.max_jobs in config.toml)"
        if job.line is None:
            full = self._submitter.full_words if self._book.clock.monotonic() < self._submitter.full_until else ""
            return "submitted" if job.native_id else f"{self.system} takes no more of your jobs now: {full}" if full else "is being submitted"
        if not job.is_pending:
            return f"starts on {job.line.node}" if job.line.node else "starts"
        return slurm_text.gloss(job.line, slurm_text.clock(job.line.starts_at), self.system)

    def queue(self) -> list[QueueLine]:
        """Return what runs and what waits."""
        return [self._queue_line(uuid, job) for uuid, job in self._book.jobs.items()]

    def _queue_line(self, uuid: str, job: Job) -> QueueLine:
        line = job.line
        starts = iso(line.starts_at) if line is not None and line.starts_at and job.is_pending else ""
        reason = "" if job.is_running else self.reason(uuid)
        return QueueLine(uuid, job.word(), reason, job.ticket.demand, job.native_id, line.node if line is not None else "", starts)

    async def survey(self, *, is_all: bool) -> list[dict[str, Any]]:
        """Return Slurm's own queue."""
        try:
            lines = await self._commands.squeue(is_all=is_all)
        except NoAnswer as exc:
            raise ExecutorError(f"{self.system} does not answer: {exc}.", transient=True) from exc
        return [_surveyed(line) for line in lines if line.state in slurm_text.PENDING | slurm_text.ALIVE]

    async def end(self, native_id: str) -> None:
        """End a job of this user's."""
        try:
            await self._commands.cancel([native_id])
        except NoAnswer as exc:
            raise ExecutorError(f"Slurm does not end job {native_id}: {exc}.", transient=True) from exc

    def describe(self) -> dict[str, Any]:
        """Return Slurm's version, whether it answers, and how many jobs are how far."""
        stages = Counter(job.stage.value for job in self._book.jobs.values())
        return {"version": self._submitter.limits.version, "answers": self._book.down is None, "jobs": dict(stages)}


def _has_ranks(job: Job) -> bool:
    """Whether ``srun`` starts a worker for each task, see :func:`kale_magic.executors.slurm_text.script`."""
    return slurm_text.has_ranks(job.ticket.resources, job.ticket.spec().kind)


def _surveyed(line: Line) -> dict[str, Any]:
    tasks = "" if line.tasks is None else f"_{line.tasks[0]}" if len(line.tasks) == 1 else f"_[{slurm_text.write_tasks(line.tasks)}]"
    found = {
        "native_id": line.job_id + tasks, "name": line.name, "user": line.user, "state": line.state, "partition": line.partition,
        "reason": slurm_text.gloss(line) if line.state in slurm_text.PENDING else "", "nodes": line.nodes, "node": line.node,
        "time_left": line.time_left, "starts_at": iso(line.starts_at) if line.starts_at else "",
    }  # fmt: skip
    return {name: value for name, value in found.items() if value}
