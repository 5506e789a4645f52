"""The embedded executor: steps as processes on this machine, as many at once as it has cores, memory and gpus for.

It owns the queue and knows the supervisors, which do the work and outlive it. What became of a job is read
from the job's folder, never guessed: a result that is there counts; a claim whose process lives is a job that
runs; a claim whose process is gone is a job that is lost; no claim is a job that never began.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from kale_magic.abc import Executor
from kale_magic.errors import SubmitError
from kale_magic.executors import _machine
from kale_magic.executors._environment import Prepared, needs_shell, prepare
from kale_magic.executors._fate import Fate, find_out
from kale_magic.executors._folder import prepare_folder
from kale_magic.executors._queue import LocalQueue
from kale_magic.executors._supervisor import Supervisor, serve_command
from kale_magic.model.resources import format_memory
from kale_magic.model.run import Demand, Report, ReportKind
from kale_proxy import procs

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from pathlib import Path

    from kale_magic.abc import Clock, Environment, QueueLine, Ticket
    from kale_magic.config import Settings
    from kale_magic.model.step import Step

_log = logging.getLogger(__name__)
_IDLE_S = 60.0  # a supervisor without jobs is let go after this; it then ends by itself
_MAX_STARTS = 3
_WATCH_S = 0.5
_GRACE_S = 2.0
_RESCAN_TICKS = 10


@dataclass(slots=True)
class _Job:
    """A job that was taken: where it is, and whether it was asked to start or end."""

    ticket: Ticket
    supervisor: Supervisor | None = None
    is_sent: bool = False
    is_cancelled: bool = False
    starts: int = 0


def create(settings: Settings, clock: Clock) -> LocalExecutor:
    """Return the executor of this machine (the registry calls it)."""
    total = LocalQueue(settings.cpus or _machine.cores(), settings.memory_bytes or _machine.memory_bytes())
    return LocalExecutor(settings.workers_dir, total, clock, max_gpus=settings.gpus)


class LocalExecutor(Executor):
    """Queue and supervisors of this machine; see :class:`kale_magic.abc.Executor` for what each method promises.

    Parameters
    ----------
    folder : Path
        Where supervisors have their folders (0700, node-local, short path).
    queue : LocalQueue
        With the machine's totals.
    clock : Clock
        For how long a job waits.
    max_gpus : int or None
        At most so many gpus are given out; None is all.
    command : callable
        How a supervisor is started.
    """

    def __init__(
        self,
        folder: Path,
        queue: LocalQueue,
        clock: Clock,
        *,
        max_gpus: int | None = None,
        command: Callable[[str, Path], list[str]] = serve_command,
    ) -> None:
        self._folder, self._queue, self._clock, self._max_gpus, self._command = folder, queue, clock, max_gpus, command
        self._sink: Callable[[Report], None] = lambda _: None
        self._jobs: dict[str, _Job] = {}
        self._supervisors: dict[str, Supervisor] = {}
        self._connecting: dict[str, asyncio.Task[None]] = {}
        self._prepared: dict[Environment, Prepared] = {}
        self._preparing: dict[tuple[str, Environment], asyncio.Task[Prepared]] = {}
        self._orphans: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._gpu_names: tuple[str, ...] = ()
        self._is_closed = False

    async def open(self, sink: Callable[[Report], None]) -> None:
        """Begin."""
        self._sink = sink

    async def close(self) -> None:
        """Hang up everywhere; jobs go on."""
        self._is_closed = True
        tasks = [*self._tasks, *self._connecting.values(), *self._preparing.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for supervisor in self._supervisors.values():
            supervisor.close()
        await asyncio.sleep(0)

    async def check(self, step: Step) -> Demand:
        """Return what each job of a step takes; refuse what this machine can never give."""
        asked = step.resources
        if (asked.nodes or 1) > 1:
            raise SubmitError(
                f"Step `{step.name}` asks for {asked.nodes} nodes; the local executor has this machine only.",
                "Leave --nodes out.",
            )
        if asked.gpus and not self._queue.gpus:
            self._gpu_names = (await asyncio.to_thread(_machine.gpus))[: self._max_gpus]
            self._queue.gpus = len(self._gpu_names)
        demand = Demand(max(1, (asked.cpus or 1) * (asked.ntasks or 1)), asked.memory_bytes or 0, asked.gpus or 0)
        words = {
            "cores": (demand.cpus, self._queue.cpus, str(demand.cpus), str(self._queue.cpus), "--cpus"),
            "gpus": (demand.gpus, self._queue.gpus, str(demand.gpus), str(self._queue.gpus or "none"), "--gpus"),
        }
        if demand.memory_bytes:
            there = self._queue.memory_bytes
            words["memory"] = (
                demand.memory_bytes,
                there,
                format_memory(demand.memory_bytes),
                f"{there / (1 << 30):.3g}GB",
                "--memory",
            )
        for name, (wanted, available, wanted_text, available_text, option) in words.items():
            if wanted > available:
                thing = "of memory" if name == "memory" else name
                raise SubmitError(
                    f"Step `{step.name}` asks for {wanted_text} {thing}; this machine has {available_text}.",
                    f"Lower {option}.",
                )
        return demand

    def enqueue(self, ticket: Ticket) -> None:
        """Take a job into the queue."""
        self._queue.add(ticket)

    def withdraw(self, uuid: str) -> None:
        """Take a job out of the queue."""
        self._queue.remove(uuid)

    def take(self) -> list[str]:
        """Return the jobs that start now."""
        return [ticket.uuid for ticket in self._queue.take(self._clock.monotonic())]

    def start(self, uuid: str) -> None:
        """Start a taken job."""
        share = self._queue.started.get(uuid)
        if share is not None and uuid not in self._jobs:
            job = self._jobs[uuid] = _Job(share.ticket)
            self._launch(job)

    def drop(self, uuid: str) -> None:
        """Give up a taken job."""
        if uuid not in self._jobs:
            self._queue.free(uuid)

    def recover(self, tickets: Iterable[Ticket]) -> None:
        """Find out about jobs that may have been started in an earlier life."""
        for ticket in tickets:
            self._queue.occupy(ticket)
            self._jobs[ticket.uuid] = _Job(ticket, is_sent=True)
        if self._jobs:
            self._spawn(self._recover())

    def cancel(self, uuid: str) -> None:
        """End a started job with all its processes."""
        job = self._jobs.get(uuid)
        if job is None:
            return
        job.is_cancelled = True
        if not job.is_sent:
            self._finish(
                job,
                Report(ReportKind.ENDED, uuid, {"state": "cancelled", "reason": "cancelled by you before it began"}),
            )
        elif uuid in self._orphans:
            self._spawn(self._kill_orphan(job))
        else:
            self._tell(uuid, "cancel", grace_s=_GRACE_S)

    def interrupt(self, uuid: str) -> None:
        """Interrupt a started job's code."""
        self._tell(uuid, "interrupt")

    def release(self, uuid: str) -> None:
        """End the look at an interrupted job."""
        self._tell(uuid, "release")

    def reason(self, uuid: str) -> str:
        """Return why a queued job waits."""
        return self._queue.reason(uuid)

    def queue(self) -> list[QueueLine]:
        """Return what runs and what waits."""
        return list(self._queue.lines())

    def describe(self) -> dict[str, Any]:
        """Return totals and what is in use."""
        used = self._queue.used()
        return {
            "cpus": self._queue.cpus,
            "memory_bytes": self._queue.memory_bytes,
            "used": asdict(used),
            "supervisors": sum(supervisor.is_open for supervisor in self._supervisors.values()),
        }

    # -- Listener: what supervisors say ------------------------------------------------------------------

    def connected(self, supervisor: Supervisor, jobs: list[dict[str, Any]]) -> None:
        """Take up what the supervisor knows of; hand over what waited for it."""
        known = {str(item.get("uuid")): item for item in jobs}
        for uuid in known:
            job = self._jobs.get(uuid)
            if job is not None:
                self._orphans.discard(uuid)
                self._give_to(job, supervisor)
        for uuid in list(supervisor.jobs):
            job = self._jobs[uuid]
            if uuid in known:
                job.is_sent = True
                self._sink(Report(ReportKind.RUNNING, uuid, known[uuid]))
                self._sink(
                    Report(
                        ReportKind.STATE,
                        uuid,
                        {"state": known[uuid].get("state"), "reason": known[uuid].get("reason", "")},
                    )
                )
                if job.is_cancelled:
                    self._tell(uuid, "cancel", grace_s=_GRACE_S)
            elif job.is_sent:
                self._settle(job)
            else:
                self._send(job)

    def said(self, supervisor: Supervisor, message: dict[str, Any]) -> None:
        """Pass on what a supervisor says about one of our jobs."""
        kind, uuid = message.get("ev"), str(message.get("uuid"))
        job = self._jobs.get(uuid)
        if kind == "error":
            _log.warning("supervisor %s: %s", supervisor.key, message.get("reason"))
        if job is None:
            return
        if kind == "running":
            self._sink(Report(ReportKind.RUNNING, uuid, message))
        elif kind == "state":
            self._sink(Report(ReportKind.STATE, uuid, message))
        elif kind == "ended" and isinstance(message.get("result"), dict):
            self._finish(job, Report(ReportKind.ENDED, uuid, message["result"]))
        elif kind == "refused":
            self._settle(job, refusal=str(message.get("reason") or "the supervisor refused it"))

    def disconnected(self, supervisor: Supervisor, reason: str) -> None:
        """See what became of the jobs of a supervisor that hung up or could not be started."""
        if self._is_closed:
            return
        if not reason and supervisor.jobs:  # it may have been the connection alone
            self._connect(supervisor, None)
            return
        self._drop(supervisor, reason)

    # -- how ---------------------------------------------------------------------------------------------

    def _launch(self, job: _Job) -> None:
        job.is_sent = False
        environment = job.ticket.environment()
        if needs_shell(environment):
            self._spawn(self._prepare_and_hand_over(job, environment))
            return
        prepared = self._prepared.get(environment)
        if prepared is None:
            prepared = self._prepared[environment] = prepare(environment)
        self._hand_over(job, prepared)

    async def _prepare_and_hand_over(self, job: _Job, environment: Environment) -> None:
        """Let bash make the environment, once per run: a later run may find a mended setup file."""
        key = (job.ticket.run, environment)
        if key not in self._preparing:
            self._preparing[key] = asyncio.get_running_loop().create_task(asyncio.to_thread(prepare, environment))
        try:
            prepared = await asyncio.shield(self._preparing[key])
        except SubmitError as exc:
            self._preparing.pop(key, None)
            self._finish(job, Report(ReportKind.REFUSED, job.ticket.uuid, {"reason": exc.message}))
            return
        if job.ticket.uuid in self._jobs:  # it may have been cancelled meanwhile
            self._hand_over(job, prepared)

    def _hand_over(self, job: _Job, prepared: Prepared) -> None:
        supervisor = self._supervisors.get(prepared.key)
        if supervisor is None:
            supervisor = self._supervisors[prepared.key] = Supervisor(self._folder / prepared.key, self, self._command)
        self._give_to(job, supervisor)
        if supervisor.is_open:
            self._send(job)
        else:
            self._connect(supervisor, prepared)

    def _give_to(self, job: _Job, supervisor: Supervisor) -> None:
        if job.supervisor is not None:
            job.supervisor.jobs.discard(job.ticket.uuid)
        job.supervisor = supervisor
        supervisor.jobs.add(job.ticket.uuid)

    def _send(self, job: _Job) -> None:
        uuid = job.ticket.uuid
        job.starts += 1
        if job.starts > _MAX_STARTS:
            reason = f"it was handed over {_MAX_STARTS} times and never began"
            self._finish(job, Report(ReportKind.LOST, uuid, {"reason": reason}))
            return
        spec = job.ticket.spec()
        if gpus := self._queue.started[uuid].gpus:
            names = [self._gpu_names[number] for number in gpus]
            numbers = tuple(int(name) if name.isdigit() else number for number, name in zip(gpus, names, strict=True))
            spec = replace(
                spec,
                limits=replace(spec.limits, gpus=numbers),
                env={**spec.env, "CUDA_VISIBLE_DEVICES": ",".join(names)},
            )
        text = spec.to_json()
        try:
            prepare_folder(spec, text, job.ticket.environment())
        except OSError as exc:
            reason = f"the step's folder {spec.folder} can't be written: {exc.strerror or exc}"
            self._finish(job, Report(ReportKind.REFUSED, uuid, {"reason": reason}))
            return
        assert job.supervisor is not None
        job.is_sent = True
        job.supervisor.send_start(text.replace("\n", ""))  # line breaks inside strings are escaped, these are layout

    def _settle(self, job: _Job, refusal: str = "") -> None:
        """Act on what the job's folder says, when its supervisor knows nothing of it or will not have it."""
        uuid, found = job.ticket.uuid, find_out(job.ticket.spec())
        if found.fate is Fate.OVER:
            self._finish(job, Report(ReportKind.ENDED, uuid, found.data))
        elif found.fate is Fate.ALIVE:
            if uuid not in self._orphans:
                self._orphans.add(uuid)
                self._sink(Report(ReportKind.RUNNING, uuid, {"pid": found.data.get("pid")}))
                self._watch_orphans()
            if job.is_cancelled:
                self._spawn(self._kill_orphan(job))
        elif found.fate is Fate.GONE:
            self._finish(job, Report(ReportKind.LOST, uuid, found.data))
        elif refusal:
            self._finish(job, Report(ReportKind.REFUSED, uuid, {"reason": refusal}))
        elif job.is_cancelled:
            self._finish(
                job,
                Report(ReportKind.ENDED, uuid, {"state": "cancelled", "reason": "cancelled by you before it began"}),
            )
        else:
            self._launch(job)

    def _finish(self, job: _Job, report: Report) -> None:
        uuid = job.ticket.uuid
        self._queue.free(uuid)
        self._jobs.pop(uuid, None)
        self._orphans.discard(uuid)
        supervisor = job.supervisor
        if supervisor is not None:
            supervisor.jobs.discard(uuid)
            if not supervisor.jobs:
                supervisor.close_when_idle(_IDLE_S)
        self._sink(report)

    def _tell(self, uuid: str, op: str, **fields: object) -> None:
        job = self._jobs.get(uuid)
        if job is not None and job.supervisor is not None and job.supervisor.is_open:
            job.supervisor.send({"op": op, "uuid": uuid, **fields})

    def _connect(self, supervisor: Supervisor, prepared: Prepared | None) -> None:
        if supervisor.key not in self._connecting:
            task = asyncio.get_running_loop().create_task(self._connect_or_drop(supervisor, prepared))
            self._connecting[supervisor.key] = task

    async def _connect_or_drop(self, supervisor: Supervisor, prepared: Prepared | None) -> None:
        try:
            is_connected = await supervisor.connect(prepared)
        finally:
            del self._connecting[supervisor.key]
        if not is_connected and prepared is None:
            self._drop(supervisor, "")

    def _drop(self, supervisor: Supervisor, reason: str) -> None:
        """Forget a supervisor; its jobs are looked for elsewhere, those it was to be started for fail with ``reason``."""
        if self._supervisors.get(supervisor.key) is supervisor:
            del self._supervisors[supervisor.key]
        for uuid in list(supervisor.jobs):
            job = self._jobs[uuid]
            supervisor.jobs.discard(uuid)
            job.supervisor = None
            self._settle(job, refusal="" if job.is_sent else reason)

    async def _recover(self) -> None:
        await self._scan()
        for job in list(self._jobs.values()):
            if job.supervisor is None and job.is_sent:
                self._settle(job)

    async def _scan(self) -> None:
        """Connect to every supervisor that is there."""
        found = []
        for path in sorted(self._folder.glob("*/s")):
            key = path.parent.name
            known = self._supervisors.get(key)
            if known is None:
                supervisor = Supervisor(path.parent, self, self._command)
                self._supervisors[key] = supervisor
                self._connect(supervisor, None)
            if key in self._connecting:
                found.append(self._connecting[key])
        await asyncio.gather(*found, return_exceptions=True)

    def _watch_orphans(self) -> None:
        if not any(task.get_name() == "orphans" for task in self._tasks):
            self._spawn(self._orphan_loop(), name="orphans")

    async def _orphan_loop(self) -> None:
        """Look after jobs whose supervisor is gone, until they end or a supervisor turns up that knows them."""
        tick = 0
        while self._orphans:
            await asyncio.sleep(_WATCH_S)
            tick += 1
            if tick % _RESCAN_TICKS == 0:
                await self._scan()
            for uuid in list(self._orphans):
                job = self._jobs.get(uuid)
                if job is None or job.supervisor is not None:
                    self._orphans.discard(uuid)
                else:
                    self._settle(job)

    async def _kill_orphan(self, job: _Job) -> None:
        """End the process tree of a job that has no supervisor to do it."""
        pid = find_out(job.ticket.spec()).data.get("pid")
        if not isinstance(pid, int):
            return
        for signum in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(OSError):
                procs.send(procs.tree(pid, job.ticket.uuid), signum)
            await asyncio.sleep(_GRACE_S)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str | None = None) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a task of the local executor failed", exc_info=error)
