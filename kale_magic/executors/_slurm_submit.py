"""From jobs that are to start to Slurm's numbers: which go together, in which order, what sbatch's answer means.

A submission whose answer is not clear is left to the watcher, who finds its name in the queue or, after a grace, does not.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from kale_magic.errors import KaleError, SubmitError
from kale_magic.executors import _slurm_batch
from kale_magic.executors._slurm_commands import Limits, NoAnswer
from kale_magic.executors._slurm_job import Stage
from kale_magic.model.run import Report, ReportKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kale_magic.abc import Ticket
    from kale_magic.executors._slurm_batch import Batch
    from kale_magic.executors._slurm_book import Book
    from kale_magic.executors._slurm_commands import Slurm
    from kale_magic.executors._slurm_job import Job

_log = logging.getLogger(__name__)
_AT_ONCE = 4  # sbatch processes
_FULL_S = 30.0
_TELL_S = 0.1  # until the manager has said what a refusal means for those that wait for it
_LIMITS_S = 600.0


class Submitter:
    """See the module.

    Parameters
    ----------
    book : Book
        The jobs, shared with the watcher.
    commands : Slurm
        How Slurm is spoken to.
    keys : str
        Folder in which jobs tell where their kernels are.
    listens : bool
        Whether these listen on TCP too.
    """

    def __init__(self, book: Book, commands: Slurm, keys: str, *, listens: bool = False) -> None:
        self._book, self._commands, self._keys, self._listens = book, commands, keys, listens
        self._pending: list[Batch] = []
        self._sending = 0
        self._is_gathering = False
        self._limits_at: float | None = None
        self.limits = Limits()
        self.script_of = _slurm_batch.script_of
        self.full_until = 0.0
        self.full_words = ""

    async def learn(self) -> None:
        """Ask what the site allows, if that was not asked for a while; raises NoAnswer."""
        now = self._book.clock.monotonic()
        if self._limits_at is None or now - self._limits_at > _LIMITS_S:
            self.limits = await self._commands.limits()
            self._limits_at = now

    def send(self, job: Job) -> None:
        """Submit a job, together with others that are sent in the same turn."""
        job.stage, job.batch, job.line = Stage.SENT, None, None
        if not self._is_gathering:
            self._is_gathering = True
            self._book.spawn(self._gather())

    def is_pending(self, batch: Batch) -> bool:
        """Whether sbatch has not been run for it yet, nor is being run."""
        return batch in self._pending

    def drop(self, job: Job) -> None:
        """Take a job out of a submission that is pending."""
        batch = job.batch
        if batch is not None and batch in self._pending:
            del batch.tickets[job.task]
            if not batch.tickets:
                self._pending.remove(batch)

    def adopt(self, tickets: Iterable[Ticket]) -> None:
        """Take up submissions of an earlier life, of which it is not known whether they were made."""
        for batch in _slurm_batch.recovered(tickets):
            self._join(batch)

    def pump(self) -> None:
        """Run sbatch for submissions whose parents have numbers, some at a time."""
        if self._book.down is not None or self._book.clock.monotonic() < self.full_until:
            return
        for batch in list(self._pending):
            if self._sending >= _AT_ONCE:
                return
            after = self._after(batch)
            if after is not None:
                self._pending.remove(batch)
                batch.is_sending = True
                self._sending += 1
                self._book.spawn(self._submit(batch, after))

    async def _gather(self) -> None:
        try:
            await self.learn()
        except (NoAnswer, SubmitError) as exc:
            self._book.set_down(str(exc))
        self._is_gathering = False
        jobs = self._book.jobs.values()
        tickets = [job.ticket for job in jobs if job.stage is Stage.SENT and job.batch is None]
        for batch in _slurm_batch.batches(tickets, self.limits.most_tasks):
            self._join(batch)
            self._pending.append(batch)
        self._book.poke()
        self.pump()

    def _join(self, batch: Batch) -> None:
        for task, ticket in batch.tickets.items():
            job = self._book.jobs[ticket.uuid]
            job.batch, job.task = batch, task

    def _after(self, batch: Batch) -> str | None:
        """Return the value of ``--dependency``, empty if nothing is left to wait for, None if a number is not known yet."""
        found: dict[str, set[int | None]] = {}
        sizes: dict[str, int] = {}
        for uuid in batch.any_ticket.after:
            job = self._book.job_for(uuid)
            if self._book.is_ahead(uuid):
                return None
            if job is None:
                continue
            if job.batch is None or not job.batch.native_id:
                return None
            found.setdefault(job.batch.native_id, set()).add(job.task)
            sizes[job.batch.native_id] = len(job.batch.tickets)
        ids: list[str] = []
        for native_id, tasks in found.items():
            is_whole = len(tasks) == sizes[native_id]
            ids += [native_id] if is_whole else [f"{native_id}_{task}" for task in tasks]
        return "afterok:" + ":".join(ids) if ids else ""

    async def _submit(self, batch: Batch, after: str) -> None:
        try:
            await self._try(batch, after)
        finally:
            self._sending -= 1
            batch.is_sending = False
            self._book.poke()
            if batch.native_id:
                self.pump()
            else:
                self._book.later(_TELL_S, self.pump)

    async def _try(self, batch: Batch, after: str) -> None:
        try:
            specs = [replace(ticket.spec(), keys=self._keys, listens=self._listens) for ticket in batch.tickets.values()]
            environment = batch.any_ticket.environment()  # not in the thread: it may come from the store
            path = await asyncio.to_thread(_slurm_batch.write, batch, environment, self._keys, specs, self.script_of)
        except OSError as exc:
            self._refuse(batch, f"the step's folder can't be written: {exc.strerror or exc} ({exc.filename})")
            return
        except KaleError as exc:
            self._refuse(batch, exc.message)
            return
        answer = await self._commands.sbatch(path, dict(environment.environ), after)
        if answer.native_id:
            self.place(batch, answer.native_id)
        elif answer.is_full:
            self.full_until, self.full_words = self._book.clock.monotonic() + _FULL_S, answer.words
            self._pending.insert(0, batch)
            self._book.later(_FULL_S, self.pump)
        elif answer.refusal:
            self._refuse(batch, f"{self._book.system} refused it: {answer.refusal}")
        else:
            _log.warning("%s: it is not known whether it was submitted: %s", batch.name, answer.words)
            self._book.set_down(answer.words)

    def place(self, batch: Batch, native_id: str) -> None:
        """Note the number of a submission."""
        batch.native_id = native_id
        held = [batch.id_of(task) for task, ticket in batch.tickets.items() if self._is_to_be_held(ticket.uuid)]
        if held:
            self._book.spawn(self._hold(held))
        for task, ticket in batch.tickets.items():
            self._book.tell(Report(ReportKind.PLACED, ticket.uuid, {"native_id": batch.id_of(task)}))

    def _is_to_be_held(self, uuid: str) -> bool:
        job = self._book.jobs.get(uuid)
        return job is not None and job.wants_hold

    async def _hold(self, ids: list[str]) -> None:
        """Hold jobs of which that was asked while they were on their way."""
        try:
            await self._commands.hold(ids, is_held=True)
        except NoAnswer as exc:
            self._book.set_down(str(exc))

    def _refuse(self, batch: Batch, reason: str) -> None:
        for ticket in list(batch.tickets.values()):
            self._book.finish(Report(ReportKind.REFUSED, ticket.uuid, {"reason": reason}))
