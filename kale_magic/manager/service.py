"""The manager without its socket: runs in memory, what changes them, and the order of storing and doing.

Everything happens in turns of the event loop. A turn collects what reports and requests changed, lets the
executors choose what starts now, writes all of it as one transaction, and only then does what was decided,
answers who asked and tells who listens. So no deed is done that a crash would make us forget, and the cost of
a disk write is shared by all that happened meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

from kale_magic.abc import Batch
from kale_magic.errors import KaleError, StoreError, UnknownRunError
from kale_magic.manager.context import NO_SITE, RunContext
from kale_magic.manager.machine import Outcome, RunMachine
from kale_magic.model.events import Event, iso
from kale_magic.model.run import Command, Job, Phase, Report, ReportKind, RunRecord, Verb

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kale_magic.abc import Clock, Executor, Store, Ticket

_log = logging.getLogger(__name__)
_STORE_RETRY_S = 2.0
_KEPT_JOBS = 4_000  # of ended runs whose machines are kept for the next question about them


class LiveRun:
    """A run in memory."""

    def __init__(self, machine: RunMachine, context: RunContext) -> None:
        self.machine = machine
        self.context = context

    @property
    def record(self) -> RunRecord:
        """What is stored of it."""
        return self.machine.record


class Service:
    """Runs, their store and their executors.

    Parameters
    ----------
    store : Store
        Open, and ours alone.
    executors : mapping of str to Executor
        By name.
    clock : Clock
        The time.
    """

    def __init__(self, store: Store, executors: Mapping[str, Executor], clock: Clock) -> None:
        self.store = store
        self.executors = executors
        self.clock = clock
        self.site = NO_SITE  # what is configured for containers
        self.runs: dict[str, LiveRun] = {}
        self._ordered = frozenset(name for name, executor in executors.items() if executor.keeps_order)
        self.seq = store.last_seq()
        self._ended: OrderedDict[str, LiveRun] = OrderedDict()
        self._owners: dict[str, LiveRun] = {}  # by the uuid of a job's newest attempt
        self._batch = Batch()
        self._jobs: dict[tuple[int, int], tuple[RunRecord, Job]] = {}
        self._commands: list[tuple[LiveRun, Command]] = []
        self._starts: list[tuple[Executor, str]] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._listeners: set[Callable[[list[Event]], None]] = set()
        self._is_turn_due = False
        self._is_closed = False

    # -- life --------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Begin: take up every run that has not ended, and find out what became of its jobs."""
        for executor in self.executors.values():
            executor.wake = self.wake
            await executor.open(self.report)
        for record in self.store.live_runs():
            run = self._load(record)
            self.runs[record.id] = run
            await self._prime(run)
            outcome = run.machine.resume()
            self._own(run)
            self._recover(run)
            self._absorb(run, outcome)

    async def close(self) -> None:
        """Store what is to be stored and let go; jobs go on."""
        if self._is_turn_due:
            self._turn()
        self._is_closed = True
        for executor in self.executors.values():
            await executor.close()
        self.store.close()

    async def committed(self) -> None:
        """Wait until everything that has changed so far is stored.

        Raises
        ------
        StoreError
            It can't be stored now; the manager goes on trying.
        """
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._schedule()
        await waiter

    def listen(self, listener: Callable[[list[Event]], None]) -> None:
        """Call ``listener`` with new events after each turn, until :meth:`unlisten`."""
        self._listeners.add(listener)

    def unlisten(self, listener: Callable[[list[Event]], None]) -> None:
        """Stop calling a listener."""
        self._listeners.discard(listener)

    # -- inputs ------------------------------------------------------------------------------------------

    def report(self, report: Report) -> None:
        """Take what an executor says about a job (any executor's sink)."""
        run = self._owners.get(report.uuid)
        if run is not None and not self._is_closed:
            self._absorb(run, run.machine.report(report, self.clock.now()))

    def add(self, record: RunRecord, environ: Mapping[str, str]) -> LiveRun:
        """Store a new run and begin it.

        Raises
        ------
        StoreError
            It can't be stored; then there is no such run.
        """
        if self._batch.events or self._jobs:  # events are told in the order of their numbers
            self._turn()
            if self._batch.events or self._jobs:
                raise StoreError(
                    "The manager's store can't be written now, so nothing can be submitted.", "Its log says why."
                )
        record.environment = self.store.save_environment(environ)
        context = RunContext(record, self.store.environment, self._ordered, self.site)
        machine = RunMachine(record, context.plans())
        run = LiveRun(machine, context)
        now, seq = self.clock.now(), self.seq
        outcome = machine.start(now)
        batch = Batch(
            new_runs=[record], jobs=[(record, job) for job in machine.jobs], events=self._number(record, outcome, now)
        )
        try:
            self.store.write(batch)
        except StoreError:
            self.seq = seq
            raise
        self.runs[record.id] = run
        self._tell(batch.events)
        self._absorb(run, Outcome(commands=outcome.commands))
        if record.state.is_final:
            self._retire(record)
        return run

    def cancel(self, run: LiveRun, step: str | None, point: int | None) -> list[str]:
        """Cancel a run, step or point; returns the names of the jobs that were not over."""
        jobs = run.machine.jobs if step is None else run.machine.find(step, point)
        names = [job.address for job in jobs if not job.state.is_final]
        self._absorb(run, run.machine.cancel(step, point, self.clock.now()))
        return names

    def ask(self, run: LiveRun, verb: Verb, step: str, point: int | None) -> list[str]:
        """Interrupt, hold or release what there is of a step; returns the names of the jobs asked."""
        outcome = run.machine.ask(verb, step, point)
        self._absorb(run, outcome)
        return [command.job.address for command in outcome.commands]

    def proceed(self, run: LiveRun, step: str, point: int | None, decision: dict[str, str], by: str) -> list[str]:
        """Let what waits for a person before it is queued go on; returns the names of the jobs."""
        outcome = run.machine.proceed(step, point, decision, by, self.clock.now())
        self._absorb(run, outcome)
        return [job.address for job in outcome.jobs.values()]

    # -- questions ---------------------------------------------------------------------------------------

    def find(self, name: str | None) -> LiveRun:
        """Return a run, live or ended; None is the newest.

        Raises
        ------
        UnknownRunError
            There is none.
        """
        if name is not None and (found := self.runs.get(name) or self._ended.get(name)) is not None:
            return found
        record = self.store.run(name)
        if record is None:
            what = "No run has been submitted yet." if name is None else f"No run {name} is known to this manager."
            raise UnknownRunError(what, "Submit one with %kale_submit." if name is None else "See: jupyter kale runs.")
        if record.id in self.runs:
            return self.runs[record.id]
        return self._keep(self._load(record))

    def reason(self, run: LiveRun) -> Callable[[str, str], str]:
        """Return a function (step, uuid) -> why the job waits in its executor's queue."""
        executors = self.executors
        bodies = run.context.steps

        def ask(step: str, uuid: str) -> str:
            executor = executors.get(bodies[step].executor)
            return executor.reason(uuid) if executor is not None else "its executor is not installed"

        return ask

    def job(self, uuid: str) -> tuple[LiveRun, Job] | None:
        """Return the job whose newest attempt has this uuid, and its run."""
        run = self._owners.get(uuid)
        job = run.machine.job(uuid) if run is not None else None
        return (run, job) if run is not None and job is not None else None

    # -- turns -------------------------------------------------------------------------------------------

    def _absorb(self, run: LiveRun, outcome: Outcome) -> None:
        """Note what an input did, for the turn that comes."""
        if not outcome:
            return
        record = run.record
        for job in outcome.jobs.values():
            self._jobs[record.number, job.index] = (record, job)
        self._batch.events += self._number(record, outcome, self.clock.now())
        if outcome.is_run_changed and record not in self._batch.runs:
            self._batch.runs.append(record)
        for command in outcome.commands:
            if command.verb is Verb.ENQUEUE:
                self._owners[command.uuid] = run
                executor = self._executor(run, command.job.step)
                if executor is not None:
                    executor.enqueue(run.context.ticket(command.job, command.after))
            elif command.verb is Verb.WITHDRAW:
                executor = self._executor(run, command.job.step)
                if executor is not None:
                    executor.withdraw(command.uuid)
            else:
                self._commands.append((run, command))
        self._schedule()

    def _number(self, record: RunRecord, outcome: Outcome, now: float) -> list[Event]:
        """Make events of changes: each with its own number, for ever."""
        at, events = iso(now), []
        for change in outcome.changes:
            self.seq += 1
            events.append(
                Event(self.seq, record.id, change.step, change.point, at, change.kind, change.state, change.data)
            )
        return events

    def _tell(self, events: list[Event]) -> None:
        if events:
            for listener in list(self._listeners):
                listener(events)

    def wake(self) -> None:
        """Ask executors soon what starts now: one has room that it did not have."""
        self._schedule()

    def _schedule(self) -> None:
        if not self._is_turn_due and not self._is_closed:
            self._is_turn_due = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._is_turn_due = False
        if self._is_closed:
            return
        self._choose()
        batch = self._batch
        batch.jobs = list(self._jobs.values())
        batch.is_intent = any(executor.outlives_host for executor, _ in self._starts)
        if batch.jobs or batch.runs or batch.events:
            try:
                self.store.write(batch)
            except StoreError as exc:  # what was decided stays decided, and is done once it can be stored
                _log.error("%s Trying again in %g s.", exc, _STORE_RETRY_S)
                asyncio.get_running_loop().call_later(_STORE_RETRY_S, self._schedule)
                self._answer(exc)
                return
        self._batch, self._jobs = Batch(), {}
        self._act()
        for record in batch.runs:
            if record.state.is_final:
                self._retire(record)
        self._tell(batch.events)
        self._answer(None)

    def _answer(self, error: StoreError | None) -> None:
        """Tell those who wait for their change to be stored that it is, or why not yet."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                if error is None:
                    waiter.set_result(None)
                else:
                    waiter.set_exception(error)

    def _choose(self) -> None:
        """Let executors say what starts now, and note that as intents."""
        for executor in self.executors.values():
            for uuid in executor.take():
                run = self._owners.get(uuid)
                outcome = run.machine.submitting(uuid) if run is not None else None
                if run is None or not outcome:
                    executor.drop(uuid)
                    continue
                for job in outcome.jobs.values():
                    self._jobs[run.record.number, job.index] = (run.record, job)
                self._starts.append((executor, uuid))

    def _act(self) -> None:
        starts, self._starts = self._starts, []
        commands, self._commands = self._commands, []
        for executor, uuid in starts:
            if (reason := _attempt(executor.start, uuid)) is not None:
                self.report(Report(ReportKind.REFUSED, uuid, {"reason": f"Kale failed to start it: {reason}"}))
        for run, command in commands:
            found = self._executor(run, command.job.step)
            if found is not None:
                _attempt(_DEEDS[command.verb], found, command.uuid)

    # -- runs --------------------------------------------------------------------------------------------

    def _executor(self, run: LiveRun, step: str) -> Executor | None:
        return self.executors.get(run.context.steps[step].executor)

    def _load(self, record: RunRecord) -> LiveRun:
        context = RunContext(record, self.store.environment, self._ordered, self.site)
        return LiveRun(RunMachine(record, context.plans(), self.store.jobs(record)), context)

    async def _prime(self, run: LiveRun) -> None:
        """Let executors look for what they look for only when a step asks for it."""
        for name, body in run.context.steps.items():
            executor = self.executors.get(body.executor)
            if body.demand.gpus and executor is not None:
                try:
                    await executor.check(run.context.workflow.steps[name])
                except KaleError as exc:
                    _log.warning("run %s: %s", run.record.id, exc)

    def _own(self, run: LiveRun) -> None:
        for job in run.machine.jobs:
            if job.uuid and not job.state.is_final:
                self._owners[job.uuid] = run

    def _recover(self, run: LiveRun) -> None:
        """Ask executors about everything that may have been started before."""
        started: dict[str, list[Ticket]] = {}
        for step, body in run.context.steps.items():
            jobs = [job for job in run.machine.find(step, None) if job.phase is not Phase.NONE and not job.state.is_final]
            after = run.machine.after(step) if jobs else ()
            started.setdefault(body.executor, []).extend(run.context.ticket(job, after) for job in jobs)
        for name, tickets in started.items():
            executor = self.executors.get(name)
            if executor is not None and tickets:
                executor.recover(tickets)

    def _retire(self, record: RunRecord) -> None:
        run = self.runs.pop(record.id, None)
        if run is not None:
            for job in run.machine.jobs:
                self._owners.pop(job.uuid, None)
            self._keep(run)

    def _keep(self, run: LiveRun) -> LiveRun:
        """Keep an ended run for the next question, within bounds."""
        self._ended[run.record.id] = run
        self._ended.move_to_end(run.record.id)
        total = sum(len(kept.machine.jobs) for kept in self._ended.values())
        while total > _KEPT_JOBS and len(self._ended) > 1:
            _, dropped = self._ended.popitem(last=False)
            total -= len(dropped.machine.jobs)
        return run


_DEEDS: dict[Verb, Callable[[Executor, str], None]] = {
    Verb.CANCEL: lambda executor, uuid: executor.cancel(uuid),
    Verb.INTERRUPT: lambda executor, uuid: executor.interrupt(uuid),
    Verb.RELEASE: lambda executor, uuid: executor.release(uuid),
    Verb.HOLD: lambda executor, uuid: executor.hold(uuid),
    Verb.FREEZE: lambda executor, uuid: executor.freeze(uuid, is_on=True),
    Verb.THAW: lambda executor, uuid: executor.freeze(uuid, is_on=False),
}


def _attempt(deed: Callable[..., None], *args: object) -> str | None:
    """Do one deed; a fault of ours in it must not keep the others of the turn from being done, and is returned."""
    try:
        deed(*args)
    except Exception as exc:
        _log.exception("a deed failed: %s", args)
        return f"{type(exc).__name__}: {exc}"
    return None
