"""A pool: an allocation kept open, into whose nodes steps go without queueing again.

The allocation is one job of the batch system (or a process of this machine), in which a pilot runs on each node; the
pilot's supervisors are those of the local executor, so a step in a pool is a step as anywhere: visited, held still, stopped,
recorded, claimed once. What became of a job is read from its folder. Pilots outlive managers and are found by name; a pool
asks for another allocation when the one it has is over and steps wait for it.

The parts: ``_pool_queue`` (what goes where), ``_pool_link`` (the stream to a node), ``_pool_pilots`` (allocations),
``_pool_keeper`` (when one is asked for), ``_pool_launch`` (environments), ``_pool_record`` (what is stored), ``_pool_words``
(what is refused and told), ``_pool_jobs`` (what a job's folder says).
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_magic.abc import Executor
from kale_magic.errors import KaleError
from kale_magic.executors._folder import job_script, prepare_folder
from kale_magic.executors._pool_jobs import Job, Settler, cancelled_before
from kale_magic.executors._pool_keeper import Keeper
from kale_magic.executors._pool_launch import failure, launch_of
from kale_magic.executors._pool_queue import PoolQueue, Room, fits_time
from kale_magic.executors._pool_words import demand_of, summary
from kale_magic.executors._queue import HELD
from kale_magic.model.run import Report, ReportKind
from kale_proxy.job import FROM_OUTSIDE
from kale_proxy.record import ENDED_BY_SIGTERM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kale_magic.abc import Clock, QueueLine, Ticket
    from kale_magic.config import Settings
    from kale_magic.executors._pool_link import Link
    from kale_magic.executors._pool_pilots import Pilots
    from kale_magic.executors._pool_record import PoolBook, PoolRecord
    from kale_magic.model.run import Demand
    from kale_magic.model.step import Step

_log = logging.getLogger(__name__)
_GRACE_S = 2.0


class PoolExecutor(Executor):
    """See the module, and :class:`kale_magic.abc.Executor` for what each method promises.

    Parameters
    ----------
    record : PoolRecord
        What is stored of it.
    book : PoolBook
        Where.
    pilots : Pilots
        Where its allocation comes from.
    settings : Settings
        Intervals, and where keys and sockets are.
    clock : Clock
        For how long a job waits.
    """

    can_freeze = True

    def __init__(self, record: PoolRecord, book: PoolBook, pilots: Pilots, settings: Settings, clock: Clock) -> None:
        self.record = record
        self.outlives_host = pilots.is_far
        self.wake: Callable[[], object] = lambda: None  # lets the manager ask what starts now
        self.is_needed: Callable[[], bool] = lambda: False  # whether steps that wait elsewhere will come here
        self.keeper = Keeper(self, book, pilots, settings)
        self._is_far, self._clock = pilots.is_far, clock
        self._keys = settings.keys_dir if pilots.is_far else None
        self._listens = settings.slurm_listen
        self._sink: Callable[[Report], None] = lambda _: None
        self._jobs: dict[str, Job] = {}
        self._queue = PoolQueue()
        self._settler = Settler(self, min(10.0, settings.slurm_grace_s) if pilots.is_far else 1.0)

    # -- life ------------------------------------------------------------------------------------------------

    async def open(self, sink: Callable[[Report], None]) -> None:
        """Begin to look after the allocation."""
        self._sink = sink
        self.keeper.open()

    async def close(self) -> None:
        """Hang up; the allocation and what runs in it go on."""
        await self.keeper.close()

    @property
    def has_work(self) -> bool:
        """Whether a job is in it or waits for it, those that are held aside."""
        return bool(self._jobs or self._queue.waiting)

    @property
    def waits(self) -> bool:
        """Whether a job waits for an allocation."""
        return bool(self._queue.waiting)

    @property
    def runs_any(self) -> bool:
        """Whether a job has been given to a node."""
        return bool(self._jobs)

    # -- before a submit -------------------------------------------------------------------------------------

    async def check(self, step: Step) -> Demand:
        """Return what each job of a step takes; refuse what the pool does not have, and steps for a pool that is not open."""
        return demand_of(self.record, self._queue.rooms, self.keeper.default_cpus(), step)

    def script(self, ticket: Ticket) -> str:
        """Return the script by which a person can run the job."""
        return job_script(ticket.spec(), ticket.environment())

    # -- the order of duty -----------------------------------------------------------------------------------

    def enqueue(self, ticket: Ticket) -> None:
        """Take a job into the queue."""
        self._queue.add(ticket)
        self.keeper.poke_if_over()

    def withdraw(self, uuid: str) -> None:
        """Take a job out of the queue."""
        self._queue.remove(uuid)

    def take(self) -> list[str]:
        """Return the jobs that start now; those that were started before and never began are started again here."""
        taken = []
        for ticket in self._queue.take(self._clock.monotonic(), self.keeper.left_s()):
            job = self._jobs.get(ticket.uuid)
            if job is None:
                taken.append(ticket.uuid)
            else:
                self._hand_over(job)
        return taken

    def start(self, uuid: str) -> None:
        """Start a taken job."""
        share = self._queue.started.get(uuid)
        if share is not None and uuid not in self._jobs:
            job = self._jobs[uuid] = Job(share.ticket)
            self._hand_over(job)

    def drop(self, uuid: str) -> None:
        """Give up a taken job."""
        if uuid not in self._jobs:
            self._queue.free(uuid)

    def recover(self, tickets: Iterable[Ticket]) -> None:
        """Find out about jobs that may have been started in an earlier life, once the pilot answers or is gone."""
        for ticket in tickets:
            self._queue.occupy(ticket, None)
            self._jobs[ticket.uuid] = Job(ticket, is_sent=True)

    def cancel(self, uuid: str) -> None:
        """End a started job with all its processes."""
        job = self._jobs.get(uuid)
        if job is None:
            return
        job.is_cancelled = True
        if not job.is_sent:
            if (link := self.keeper.links.get(job.node or "")) is not None:
                link.withdraw(job.key, uuid)
            self.finish(job, cancelled_before(uuid))
        else:
            self._tell(job, "cancel", grace_s=_GRACE_S)

    def interrupt(self, uuid: str) -> None:
        """Interrupt a started job's code."""
        self._tell(self._jobs.get(uuid), "interrupt")

    def feed(self, uuid: str, message: dict[str, Any]) -> None:
        """Tell a kernel that runs many points something; lost if it is out of reach."""
        self._tell(self._jobs.get(uuid), "feed", message=message)

    def interrupt_point(self, uuid: str, mark: str) -> None:
        """Interrupt the code of one point of such a kernel; ``mark`` begins with the point's uuid."""
        self._tell(self._jobs.get(uuid), "interrupt", point=mark)

    def has_time(self, ticket: Ticket) -> bool:
        """Whether one more point can be given to such a kernel: it fits into the time that the allocation has left."""
        return fits_time(ticket, self.keeper.left_s())

    def release(self, uuid: str) -> None:
        """End the look at an interrupted job, or the hold of a waiting one."""
        if self._queue.release(uuid):
            self._sink(Report(ReportKind.STATE, uuid, {"state": "queued"}))
            self.keeper.poke_if_over()
        else:
            self._tell(self._jobs.get(uuid), "release")

    def hold(self, uuid: str) -> None:
        """Keep a waiting job from starting."""
        if self._queue.hold(uuid):
            self._sink(Report(ReportKind.STATE, uuid, {"state": "held", "reason": HELD}))

    def freeze(self, uuid: str, *, is_on: bool) -> None:
        """Stop all processes of a started job, or let them go on."""
        self._tell(self._jobs.get(uuid), "freeze" if is_on else "thaw")

    # -- questions -------------------------------------------------------------------------------------------

    def reason(self, uuid: str) -> str:
        """Return why a queued job waits."""
        if uuid in self._queue.started:
            return "starts now"
        if uuid not in self._queue.waiting:
            return self._queue.reason(uuid, None)
        if not self._queue.rooms:
            return f"pool {self.record.name}: {self.keeper.words()}"
        return self._queue.reason(uuid, self.keeper.left_s())

    def queue(self) -> list[QueueLine]:
        """Return what runs and what waits."""
        return list(self._queue.lines(self.keeper.left_s(), self.record.native_id))

    def describe(self) -> dict[str, Any]:
        """Return state, nodes, time left, and what runs in it."""
        return summary(self.record, self._queue, self.keeper.left_s(), self.keeper.state(), self.keeper.words())

    # -- what nodes say --------------------------------------------------------------------------------------

    def heard(self, link: Link, key: str, message: dict[str, Any]) -> None:
        """Take what a supervisor says, or a pilot."""
        kind = message.get("ev")
        if key == "-" and kind == "pilot":
            self._greeted(link, message)
        elif key == "-" and kind == "gone":
            self._supervisor_gone(link, str(message.get("key")), message)
        elif kind == "hello":
            jobs = message.get("jobs")
            self._joined(link, key, [item for item in jobs if isinstance(item, dict)] if isinstance(jobs, list) else [])
        else:
            self._said(link, key, message)

    def hung_up(self, link: Link) -> None:
        """Give nothing more to a node whose stream broke; its jobs go on, and are asked for when it is there again."""
        self._queue.rooms.pop(link.node, None)
        self.keeper.hung_up(link)

    def _greeted(self, link: Link, message: dict[str, Any]) -> None:
        asked = self.record.resources
        gpus = tuple(map(str, message.get("gpus") or range(asked.gpus or 0)))
        cpus = message.get("cpus") or self.keeper.default_cpus()
        memory = message.get("memory_bytes") if self._is_far else asked.memory_bytes
        self._queue.open_room(link.node, Room(int(cpus), memory, gpus))
        for job in self._on(link.node):
            if job.is_sent and job.key not in link.expected:
                self._settler.settle(job)
        self._settle_unknown()
        self.wake()

    def _joined(self, link: Link, key: str, listing: list[dict[str, Any]]) -> None:
        """Take up what a supervisor knows of."""
        known = {str(item.get("uuid")): item for item in listing}
        for uuid, item in known.items():
            job = self._jobs.get(uuid)
            if job is None:
                continue
            job.node, job.key, job.is_sent, job.over = link.node, key, True, ""
            job.turn += 1
            self._queue.occupy(job.ticket, link.node)
            self._running(job, item)
            self._sink(Report(ReportKind.STATE, uuid, {"state": item.get("state"), "reason": item.get("reason", "")}))
            if job.is_cancelled:
                self._tell(job, "cancel", grace_s=_GRACE_S)
        for job in self._on(link.node, key):
            if job.ticket.uuid not in known and job.is_sent:
                self._settler.settle(job)
            job.is_sent = True  # the link hands over now what waited for this
        self._settle_unknown()

    def _said(self, link: Link, key: str, message: dict[str, Any]) -> None:
        kind, uuid = message.get("ev"), str(message.get("uuid"))
        job = self._jobs.get(uuid)
        if kind == "error":
            _log.warning("pool %s: supervisor %s on %s: %s", self.record.name, key, link.node or "this machine", message.get("reason"))
        if job is None:
            return
        if kind == "running":
            self._running(job, message)
        elif kind == "state":
            self._sink(Report(ReportKind.STATE, uuid, message))
        elif kind == "ended" and isinstance(message.get("result"), dict):
            self.ended(job, message["result"])
        elif kind == "refused":
            self._settler.settle(job, refusal=str(message.get("reason") or "the supervisor refused it"))

    def _supervisor_gone(self, link: Link, key: str, message: dict[str, Any]) -> None:
        words = failure(str(message.get("log") or ""), message.get("code")) if "log" in message else ""
        for job in self._on(link.node, key):
            if job.is_sent:
                self._settler.settle(job)
            elif words:
                self.refuse(job, words)
            else:
                self.put_back(job)
        self._settle_unknown()

    def _running(self, job: Job, message: dict[str, Any]) -> None:
        job.is_running = True
        where = {"node": job.node or None, "native_id": self.record.native_id} if self._is_far else {}
        self._sink(Report(ReportKind.RUNNING, job.ticket.uuid, {**message, **where}))

    def _settle_unknown(self) -> None:
        """Look for jobs of an earlier life that no supervisor knows, once all supervisors have said what they know."""
        if self.keeper.is_complete():
            for job in self._on(None):
                self._settler.settle(job)

    def _on(self, node: str | None, key: str | None = None) -> list[Job]:
        return [job for job in self._jobs.values() if job.node == node and (key is None or job.key == key) and job.ticket.uuid in self._queue.started]

    # -- how -------------------------------------------------------------------------------------------------

    def _hand_over(self, job: Job) -> None:
        share = self._queue.started[job.ticket.uuid]
        link = self.keeper.links.get(share.node or "")
        if link is None or not link.is_open:
            self.put_back(job)
            return
        try:
            spec = job.ticket.spec()
            if self._keys is not None:
                spec = replace(spec, keys=str(self._keys), listens=self._listens)
            if share.devices:
                numbers = tuple(int(name) for name in share.devices if name.isdigit())
                spec = replace(spec, limits=replace(spec.limits, gpus=numbers), env={**spec.env, "CUDA_VISIBLE_DEVICES": ",".join(share.devices)})
            text, environment = spec.to_json(), job.ticket.environment()
            prepare_folder(spec, text, environment)
        except OSError as exc:
            self.refuse(job, f"the step's folder can't be written: {exc.strerror or exc} ({exc.filename})")
            return
        except KaleError as exc:
            self.refuse(job, exc.message)
            return
        launch = launch_of(environment)
        job.node, job.key = share.node, launch.key
        job.is_sent = launch.key in link.open_keys
        job.turn += 1
        link.start(launch, job.ticket.uuid, text.replace("\n", ""))
        self.keeper.worked()

    def is_joined(self, job: Job) -> bool:
        """Whether the node of a job is there and answers."""
        if job.node is None:  # of an earlier life, and no supervisor knows it
            return self.keeper.is_complete() and not job.over
        link = self.keeper.links.get(job.node)
        return link is not None and link.is_open and not job.over

    def refuse(self, job: Job, reason: str) -> None:
        """Tell that a job can't be started."""
        self.finish(job, Report(ReportKind.REFUSED, job.ticket.uuid, {"reason": reason}))

    def put_back(self, job: Job) -> None:
        """Let a job that never began wait again, in its place; it stays the same attempt."""
        ticket = self._queue.free(job.ticket.uuid)
        job.node, job.key, job.is_sent, job.over = None, "", False, ""
        job.turn += 1
        if job.is_cancelled:
            self.finish(job, cancelled_before(job.ticket.uuid))
        elif ticket is not None:
            self._queue.add(ticket)
            self.wake()

    def ended(self, job: Job, result: dict[str, Any]) -> None:
        """Tell what a job's result says; one that the end of the allocation ended is lost, so that it is tried again."""
        uuid = job.ticket.uuid
        if FROM_OUTSIDE in str(result.get("reason")) and not job.is_cancelled:
            self._settler.doubt(job, result)
        elif result.get("reason") != ENDED_BY_SIGTERM:
            self.finish(job, Report(ReportKind.ENDED, uuid, result))
        elif job.is_cancelled:
            self.finish(job, Report(ReportKind.ENDED, uuid, {**result, "reason": "cancelled by you"}))
        else:
            self.lose(job)

    def lose(self, job: Job) -> None:
        """Tell that a job is gone without a result."""
        name = self.record.name
        words = f"pool {name}: {job.over}" if job.over else f"what ran it in pool {name} is gone"
        self.finish(job, Report(ReportKind.LOST, job.ticket.uuid, {"reason": words}))

    def finish(self, job: Job, report: Report) -> None:
        """Forget a job and tell what became of it."""
        uuid = job.ticket.uuid
        if self._jobs.pop(uuid, None) is None:
            return
        self._queue.free(uuid)
        self._queue.remove(uuid)
        if self._keys is not None:
            with contextlib.suppress(OSError):
                Path(self._keys, f"{uuid}.json").unlink(missing_ok=True)
        self._sink(report)
        self.keeper.worked()

    def spawn(self, work: Any) -> None:
        """Run something in the background, until it ends or the executor is closed."""
        self.keeper.spawn(work)

    def is_current(self, job: Job, turn: int) -> bool:
        """Whether nothing has become known of a job since its ``turn``."""
        return self._jobs.get(job.ticket.uuid) is job and job.turn == turn

    def pilot_is_over(self) -> None:
        """Look for all jobs in their folders: nothing of them lives any more, or is ended now."""
        self._queue.rooms.clear()
        for job in list(self._jobs.values()):
            if job.ticket.uuid in self._queue.started:
                job.over = self.record.words
                self._settler.settle(job)

    def node_is_over(self, node: str) -> None:
        """Look for the jobs of one node, of which nothing can be heard any more."""
        for job in self._on(node):
            job.over = f"its pilot on {node or 'this machine'} is gone"
            self._settler.settle(job)

    def is_stuck(self) -> bool:
        """Whether the time that is left is too short for all that waits, and nothing runs."""
        return bool(self._queue.rooms) and self._queue.is_stuck(self.keeper.left_s())

    def _tell(self, job: Job | None, op: str, **fields: object) -> None:
        link = self.keeper.links.get(job.node or "") if job is not None else None
        if job is not None and link is not None:
            link.tell(job.key, {"op": op, "uuid": job.ticket.uuid, **fields})
