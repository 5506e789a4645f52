"""Looks at Slurm's queue: one squeue for all jobs, now and then, and at the files of those that it says something new of.

An squeue that fails says nothing about any job. One that succeeds and does not show a job counts towards its grace.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from kale_magic.errors import KaleError, SubmitError
from kale_magic.executors import slurm_text
from kale_magic.executors._slurm_commands import NoAnswer
from kale_magic.executors._slurm_job import Again, Stage, decide, is_gone, note
from kale_magic.executors._slurm_look import Look, look
from kale_magic.model.run import Report, ReportKind

if TYPE_CHECKING:
    from kale_magic.executors._slurm_book import Book
    from kale_magic.executors._slurm_commands import Slurm
    from kale_magic.executors._slurm_job import Job
    from kale_magic.executors._slurm_submit import Submitter
    from kale_magic.executors.slurm_text import Line
    from kale_proxy.spec import JobSpec

_log = logging.getLogger(__name__)
_SLOWEST_S = 15.0
_SLOWER = 1.2
_SHARE = 20  # squeue may run for one part in so many of the time
_SOON_S = 0.1
_CANCEL_AGAIN_S = 30.0
_FOLLOWED = 500  # running jobs whose events are read at each look


class Watcher:
    """See the module.

    Parameters
    ----------
    book : Book
        The jobs.
    commands : Slurm
        How Slurm is spoken to.
    submitter : Submitter
        Told of numbers that were found, and of jobs to be submitted again.
    keys : str
        Folder in which jobs tell where their kernels are.
    poll_s, grace_s : float
        See :class:`kale_magic.config.Settings`.
    """

    def __init__(self, book: Book, commands: Slurm, submitter: Submitter, keys: str, poll_s: float, grace_s: float) -> None:
        self._book, self._commands, self._submitter, self._keys = book, commands, submitter, keys
        self._poll_s, self._grace_s = poll_s, grace_s
        self._poked = asyncio.Event()
        self._is_running = False
        self._interval = poll_s
        self._turn = 0

    def poke(self) -> None:
        """Look soon: something was asked for or submitted."""
        self._interval = self._poll_s
        self._poked.set()
        if not self._is_running and self._sent():
            self._is_running = True
            self._book.spawn(self._run())

    def _sent(self) -> list[Job]:
        return [job for job in self._book.jobs.values() if job.stage is Stage.SENT and job.batch is not None]

    async def _run(self) -> None:
        try:
            while self._sent():
                await asyncio.sleep(_SOON_S)
                self._poked.clear()
                try:
                    is_news = await self.look()
                except Exception:  # the edge of the loop: what one look stumbles over must not end all looking
                    _log.exception("a look at Slurm's queue failed")
                    is_news = False
                self._interval = self._poll_s if is_news else min(self._interval * _SLOWER, max(_SLOWEST_S, self._poll_s))
                pause = max(self._interval, _SHARE * self._commands.took_s) - _SOON_S
                await self._rest(max(_SOON_S, pause))
        finally:
            self._is_running = False

    async def _rest(self, seconds: float) -> None:
        """Wait so long, or until poked; if a slow squeue makes that longer than jobs are looked at, look at their files alone meanwhile."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while (left := end - loop.time()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._poked.wait(), min(left, max(_SOON_S, self._interval)))
                return
            if end - loop.time() > _SOON_S:
                await self._glance()

    async def _glance(self) -> None:
        """Read the files of jobs that run, and of those that wait while there is news: short ones come and go between two looks."""
        is_lively = self._interval <= self._poll_s
        due = [job for job in self._sent() if (is_lively or self._is_worth_a_look(job)) and job.line is not None][:_FOLLOWED]
        found = await self._read(due)
        open_ = frozenset(self._book.jobs)
        for job in due:
            if (seen := found.get(job.ticket.uuid)) is not None and seen.result is not None:
                is_waiting = any(uuid in open_ for uuid in job.ticket.after)
                self._settle(job, seen, self._book.clock.monotonic(), is_waiting=is_waiting)

    async def look(self) -> bool:
        """Ask Slurm once and act on what it says; return whether there was news."""
        try:
            lines = await self._commands.squeue()
        except (NoAnswer, SubmitError) as exc:
            self._book.set_down(exc.message if isinstance(exc, KaleError) else str(exc))
            return False
        self._book.set_up()
        index = _index(lines)
        now = self._book.clock.monotonic()
        is_news, due = False, []
        for job in self._sent():
            batch = job.batch
            assert batch is not None
            if batch.is_sending or self._submitter.is_pending(batch):
                continue
            line = index.get((batch.name, job.task))
            is_news = is_news or (line and line.state) != (job.line and job.line.state)
            note(job, line, now)
            if line is not None and line.job_id != batch.native_id:
                self._submitter.place(batch, line.job_id)
            due.append(job)
        await self._look_up([job for job in due if not job.is_looked_up and is_gone(job, now, self._grace_s)], now)
        found = await self._read([job for job in due if self._is_worth_a_look(job)])
        open_ = frozenset(self._book.jobs) | self._book.stand_ins.keys()  # what a parent that ends now means for its children, the manager has yet to say
        for job in due:
            is_waiting = any(uuid in open_ for uuid in job.ticket.after)
            self._settle(job, found.get(job.ticket.uuid, Look(offset=job.offset)), now, is_waiting=is_waiting)
        await self._cancel(now)
        self._submitter.pump()
        return bool(is_news)

    async def _look_up(self, gone: list[Job], now: float) -> None:
        """Ask the accounting, where a site has it, what became of jobs that the queue no longer shows; once for each."""
        if not gone:
            return
        index = _index(await self._commands.sacct(sorted({job.batch.name for job in gone if job.batch is not None})))
        for job in gone:
            assert job.batch is not None
            job.is_looked_up = True
            line = index.get((job.batch.name, job.task))
            if line is not None and line.state not in slurm_text.PENDING | slurm_text.ALIVE:  # it may never have been told of an end
                note(job, line, now)

    def _is_worth_a_look(self, job: Job) -> bool:
        return job.line is None or job.line.state not in slurm_text.PENDING

    async def _read(self, jobs: list[Job]) -> dict[str, Look]:
        """Read files in a thread; of many running jobs some each time."""
        running = [job for job in jobs if job.line is not None and job.line.state == "RUNNING" and job.has_kernel]
        if len(running) > _FOLLOWED:
            self._turn += 1
            skipped = {job.ticket.uuid for at, job in enumerate(running) if (at + self._turn) % (len(running) // _FOLLOWED + 1)}
            jobs = [job for job in jobs if job.ticket.uuid not in skipped]
        work: list[tuple[str, JobSpec, int, bool]] = []
        for job in jobs:
            is_thorough = job.line is None or job.line.state not in slurm_text.ALIVE
            with contextlib.suppress(KaleError):  # stored by another version of Kale: nothing can be said of it
                work.append((job.ticket.uuid, job.ticket.spec(), job.offset, is_thorough))
        keys = self._keys
        return await asyncio.to_thread(lambda: {uuid: look(spec, keys, offset, is_thorough=thorough) for uuid, spec, offset, thorough in work})

    def _settle(self, job: Job, found: Look, now: float, *, is_waiting: bool) -> None:
        uuid = job.ticket.uuid
        if uuid not in self._book.jobs:
            return
        job.offset = found.offset
        if job.line is not None and job.line.state in slurm_text.PENDING:
            self._tell_held(job)
        verdict = decide(job, found, now, grace_s=self._grace_s, is_waiting=is_waiting)
        if isinstance(verdict, Again):
            job.tries += 1
            job.missed, job.missing_since, job.ended_since, job.is_looked_up = 0, None, None, False
            self._submitter.send(job)
        elif verdict is not None:
            if job.line is not None and job.line.node and found.is_claimed:
                self._book.tell(Report(ReportKind.RUNNING, uuid, {"native_id": job.native_id, "node": job.line.node}))
            self._book.finish(verdict)
        elif job.line is not None and job.line.state in slurm_text.ALIVE:
            self._tell_running(job, found, is_waiting=is_waiting)

    def _tell_running(self, job: Job, found: Look, *, is_waiting: bool) -> None:
        """Tell that a job runs, once it has; again when its kernel is there to be visited."""
        assert job.line is not None
        uuid, has_kernel = job.ticket.uuid, bool(found.kernel)
        if is_waiting and not has_kernel:
            return  # Slurm believes that what it waits for has completed; the worker makes sure of that
        if not job.is_running or (has_kernel and not job.has_kernel):
            job.is_running, job.has_kernel = True, has_kernel
            where = {"node": found.kernel.get("node") or job.line.node, "live": found.kernel.get("live")}
            self._book.tell(Report(ReportKind.RUNNING, uuid, {"native_id": job.native_id, **where}))
        for state, reason in found.states:
            self._book.tell(Report(ReportKind.STATE, uuid, {"state": state, "reason": reason}))

    def _tell_held(self, job: Job) -> None:
        assert job.line is not None
        if job.line.is_held and not job.is_held:
            job.is_held = True
            self._book.tell(Report(ReportKind.STATE, job.ticket.uuid, {"state": "held", "reason": slurm_text.gloss(job.line)}))
        elif job.is_held and not job.line.is_held:
            job.is_held = False
            self._book.tell(Report(ReportKind.STATE, job.ticket.uuid, {"state": "queued"}))

    async def _cancel(self, now: float) -> None:
        """End what is to be ended and is there, by numbers that were under our names a moment ago."""
        due = [
            job
            for job in self._sent()
            if job.is_cancelled and job.line is not None and job.native_id and job.line.state in slurm_text.PENDING | slurm_text.ALIVE
            and (job.cancel_sent_at is None or now - job.cancel_sent_at > _CANCEL_AGAIN_S)
        ]  # fmt: skip
        if not due:
            return
        for job in due:
            job.cancel_sent_at = now
        try:
            await self._commands.cancel([job.native_id for job in due])
        except NoAnswer as exc:
            self._book.set_down(str(exc))
            for job in due:
                job.cancel_sent_at = None
        self.poke()


def _age(line: Line) -> int:
    """Return a number that is greater for newer jobs, as far as the system's names say so."""
    digits = line.job_id.partition(".")[0]
    return int(digits) if digits.isdigit() else 0


def _index(lines: list[Line]) -> dict[tuple[str, int | None], Line]:
    """Return lines by name and number in the array; of several under one name the one that lives, else the newest."""
    found: dict[tuple[str, int | None], Line] = {}
    for line in sorted(lines, key=lambda line: (line.state in slurm_text.PENDING | slurm_text.ALIVE, _age(line))):
        for task in line.tasks or (None,):
            found[line.name, task] = line
    return found
