"""The embedded executor: steps as processes on this machine, as many at once as it has cores, memory and gpus for.

It owns the queue and knows the supervisors, which do the work and outlive it. What became of a job is read
from the job's folder, never guessed: a result that is there counts; a claim whose process lives is a job that
runs; a claim whose process is gone is a job that is lost; no claim is a job that never began.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from kale_magic.abc import Executor
from kale_magic.errors import KaleError, SubmitError
from kale_magic.executors import _machine
from kale_magic.executors._environment import Environments
from kale_magic.executors._fate import Fate, find_out
from kale_magic.executors._fleet import Fleet
from kale_magic.executors._folder import job_script, prepare_folder
from kale_magic.executors._orphans import Orphans
from kale_magic.executors._queue import HELD, LocalQueue
from kale_magic.executors._supervisor import serve_command
from kale_magic.model.run import Report, ReportKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from kale_magic.abc import Clock, QueueLine, Ticket
    from kale_magic.config import Settings
    from kale_magic.executors._environment import Prepared
    from kale_magic.executors._supervisor import Supervisor
    from kale_magic.model.run import Demand
    from kale_magic.model.step import Step
    from kale_proxy.spec import JobSpec

_log = logging.getLogger(__name__)
_IDLE_S = 60.0  # a supervisor without jobs is let go after this; it then ends by itself
_MAX_STARTS = 3
_BEGIN_S = 60.0
_GRACE_S = 2.0


@dataclass(slots=True)
class _Job:
    """A job that was taken: where it is, and whether it was asked to start or end."""

    ticket: Ticket
    supervisor: Supervisor | None = None
    is_sent: bool = False
    is_cancelled: bool = False
    starts: int = 0
    deadline: asyncio.TimerHandle | None = None  # until which its supervisor must have answered

    def has_begun(self) -> None:
        """Note that its supervisor knows of it."""
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None


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

    can_freeze = True
    outlives_host = False  # a power cut ends the jobs too, and their claims and results are in the run's folder

    def __init__(
        self,
        folder: Path,
        queue: LocalQueue,
        clock: Clock,
        *,
        max_gpus: int | None = None,
        command: Callable[[str, Path], list[str]] = serve_command,
    ) -> None:
        self._queue, self._clock, self._max_gpus = queue, clock, max_gpus
        self._sink: Callable[[Report], None] = lambda _: None
        self._jobs: dict[str, _Job] = {}
        self._environments = Environments()
        self._fleet = Fleet(folder, self, command)
        self._orphans = Orphans(self._fleet, self._settle)
        self._is_closed = False

    async def open(self, sink: Callable[[Report], None]) -> None:
        """Begin."""
        self._sink = sink

    async def close(self) -> None:
        """Hang up everywhere; jobs go on."""
        self._is_closed = True
        await self._fleet.close()

    async def check(self, step: Step) -> Demand:
        """Return what each job of a step takes; refuse what this machine can never give."""
        if step.resources.gpus and not self._queue.devices:
            self._queue.devices = (await asyncio.to_thread(_machine.gpus))[: self._max_gpus]
        return self._queue.demand(step)

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
            self._fleet.spawn(self._recover())

    def cancel(self, uuid: str) -> None:
        """End a started job with all its processes."""
        job = self._jobs.get(uuid)
        if job is None:
            return
        job.is_cancelled = True
        if not job.is_sent:
            self._finish(job, _cancelled(uuid))
        elif uuid in self._orphans:
            self._orphans.end(job.ticket.spec())
        else:
            self._tell(uuid, "cancel", grace_s=_GRACE_S)

    def interrupt(self, uuid: str) -> None:
        """Interrupt a started job's code."""
        self._tell(uuid, "interrupt")

    def feed(self, uuid: str, message: dict[str, Any]) -> None:
        """Tell a kernel that runs many points something; lost if it is out of reach."""
        self._tell(uuid, "feed", message=message)

    def has_time(self, ticket: Ticket) -> bool:  # noqa: ARG002
        """Whether one more point can be given to such a kernel: this machine has no end."""
        return True

    def interrupt_point(self, uuid: str, mark: str) -> None:
        """Interrupt the code of one point of such a kernel; ``mark`` begins with the point's uuid."""
        self._tell(uuid, "interrupt", point=mark)

    def release(self, uuid: str) -> None:
        """End the look at an interrupted job, or the hold of a waiting one."""
        if self._queue.release(uuid):
            self._sink(Report(ReportKind.STATE, uuid, {"state": "queued"}))
        else:
            self._tell(uuid, "release")

    def hold(self, uuid: str) -> None:
        """Keep a waiting job from starting."""
        if self._queue.hold(uuid):
            self._sink(Report(ReportKind.STATE, uuid, {"state": "held", "reason": HELD}))

    def script(self, ticket: Ticket) -> str:
        """Return the script by which a person can run the job."""
        return job_script(ticket.spec(), ticket.environment())

    def freeze(self, uuid: str, *, is_on: bool) -> None:
        """Stop all processes of a started job, or let them go on."""
        self._tell(uuid, "freeze" if is_on else "thaw")

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
            "supervisors": self._fleet.open_count,
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
                job.has_begun()
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
                self._settle(uuid)
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
            job.has_begun()
            self._sink(Report(ReportKind.RUNNING, uuid, message))
        elif kind == "state":
            self._sink(Report(ReportKind.STATE, uuid, message))
        elif kind == "ended" and isinstance(message.get("result"), dict):
            self._finish(job, Report(ReportKind.ENDED, uuid, message["result"]))
        elif kind == "refused":
            self._settle(uuid, refusal=str(message.get("reason") or "the supervisor refused it"))

    def disconnected(self, supervisor: Supervisor) -> None:
        """Try once to talk to a supervisor again that hung up: it may have been the connection alone."""
        if self._is_closed:
            return
        if supervisor.jobs:
            self._fleet.connect(supervisor, None)
        else:
            self._fleet.forget(supervisor)

    def unreachable(self, supervisor: Supervisor, reason: str) -> None:
        """Look in their folders for the jobs of a supervisor that is gone; fail those it was to be started for."""
        self._fleet.forget(supervisor)
        for uuid in list(supervisor.jobs):
            job = self._jobs[uuid]
            supervisor.jobs.discard(uuid)
            job.supervisor = None
            self._settle(uuid, refusal="" if job.is_sent else reason)

    # -- how ---------------------------------------------------------------------------------------------

    def _launch(self, job: _Job) -> None:
        job.is_sent = False
        try:
            prepared = self._environments.at_once(job.ticket.environment())
        except KaleError as exc:
            self._refuse(job, exc.message)
            return
        if prepared is None:
            self._fleet.spawn(self._prepare_and_hand_over(job))
        else:
            self._hand_over(job, prepared)

    async def _prepare_and_hand_over(self, job: _Job) -> None:
        try:
            prepared = await self._environments.by_shell(job.ticket.run, job.ticket.environment())
        except SubmitError as exc:
            self._refuse(job, exc.message)
            return
        if job.ticket.uuid in self._jobs:  # it may have been cancelled meanwhile
            self._hand_over(job, prepared)

    def _hand_over(self, job: _Job, prepared: Prepared) -> None:
        supervisor = self._fleet.get(prepared.key)
        self._give_to(job, supervisor)
        if supervisor.is_open:
            self._send(job)
        else:
            self._fleet.connect(supervisor, prepared)

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
        try:
            spec = _with_devices(job.ticket.spec(), self._queue.started[uuid].devices)
            text = spec.to_json()
            prepare_folder(spec, text, job.ticket.environment())
        except OSError as exc:
            self._refuse(job, f"the step's folder can't be written: {exc.strerror or exc} ({exc.filename})")
            return
        except KaleError as exc:
            self._refuse(job, exc.message)
            return
        assert job.supervisor is not None
        job.is_sent = True
        job.supervisor.send_start(text.replace("\n", ""))  # line breaks inside strings are escaped, these are layout
        job.deadline = asyncio.get_running_loop().call_later(_BEGIN_S, self._distrust, job.supervisor)

    def _refuse(self, job: _Job, reason: str) -> None:
        self._finish(job, Report(ReportKind.REFUSED, job.ticket.uuid, {"reason": reason}))

    def _distrust(self, supervisor: Supervisor) -> None:
        """Hang up on a supervisor that does not answer a start; its jobs are then looked for."""
        _log.warning("supervisor %s has not answered within %g s", supervisor.key, _BEGIN_S)
        supervisor.abort()

    def _settle(self, uuid: str, refusal: str = "") -> None:
        """Act on what a job's folder says, when no supervisor knows of it or one will not have it."""
        job = self._jobs.get(uuid)
        if job is None or (uuid in self._orphans and job.supervisor is not None):
            self._orphans.discard(uuid)
            return
        try:
            spec = job.ticket.spec()
        except KaleError as exc:  # the run was stored by another version of Kale
            self._refuse(job, exc.message)
            return
        found = find_out(spec, by_signs=True)
        if found.fate is Fate.OVER:
            self._finish(job, Report(ReportKind.ENDED, uuid, found.data))
        elif found.fate is Fate.ALIVE:
            if uuid not in self._orphans:
                self._orphans.add(uuid)
                self._sink(Report(ReportKind.RUNNING, uuid, {"pid": found.data.get("pid")}))
                if job.is_cancelled:
                    self._orphans.end(spec)
        elif found.fate is Fate.GONE:
            self._finish(job, Report(ReportKind.LOST, uuid, found.data))
        elif refusal:
            self._refuse(job, refusal)
        elif job.is_cancelled:
            self._finish(job, _cancelled(uuid))
        else:
            self._launch(job)

    def _finish(self, job: _Job, report: Report) -> None:
        uuid = job.ticket.uuid
        job.has_begun()
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

    async def _recover(self) -> None:
        await self._fleet.scan()
        for uuid, job in list(self._jobs.items()):
            if job.supervisor is None and job.is_sent:
                self._settle(uuid)


def _with_devices(spec: JobSpec, devices: tuple[str, ...]) -> JobSpec:
    """Give a job its gpus: by number where the system numbers them, by name where they have names."""
    if not devices:
        return spec
    numbers = tuple(int(name) for name in devices if name.isdigit())
    return replace(
        spec, limits=replace(spec.limits, gpus=numbers), env={**spec.env, "CUDA_VISIBLE_DEVICES": ",".join(devices)}
    )


def _cancelled(uuid: str) -> Report:
    return Report(ReportKind.ENDED, uuid, {"state": "cancelled", "reason": "cancelled by you before it began"})
