"""Sweeps whose points share warm kernels (``--reuse-kernel``), on an executor that can feed a job while it runs.

Each *lane* is one job of the executor below: a kernel that runs points one after another, as they are handed to it.
A point is a job of the manager's all the same, with its own state, attempts and result. Which lane was given which
points is written into ``kernels.jsonl`` in the step's folder before it is; what became of them is read from the
lane's own file (:mod:`kale_proxy.pack`). So a manager that comes later finds out all of it, and what a dead lane had
not begun is given to another.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kale_magic.abc import Executor, QueueLine
from kale_magic.executors import local
from kale_magic.executors._lane import Group, Lane
from kale_magic.executors._queue import HELD
from kale_magic.model.run import Report, ReportKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kale_magic.abc import Clock, Ticket
    from kale_magic.config import Settings
    from kale_magic.executors.local import LocalExecutor
    from kale_magic.model.run import Demand
    from kale_magic.model.step import Step

_POLL_S = 0.02
_CANCEL_S = 5.0  # so long may a point's code take to heed an interrupt; then its kernel is ended
_CANCEL = " cancel"  # kale_proxy.lanerun.CANCEL, which would load a kernel here
_OVER = frozenset({ReportKind.ENDED, ReportKind.LOST, ReportKind.REFUSED})


def create_local(settings: Settings, clock: Clock) -> LaneExecutor:
    """Return the executor of this machine (the registry calls it)."""
    return LaneExecutor(local.create(settings, clock))


class LaneExecutor(Executor):
    """An executor that runs such sweeps in lanes, and hands on everything else; see :class:`kale_magic.abc.Executor`.

    Parameters
    ----------
    inner : LocalExecutor
        Where the lanes, and all other jobs, run.
    """

    shares_kernels = True

    def __init__(self, inner: LocalExecutor) -> None:
        self.inner = inner
        self.can_freeze, self.keeps_order, self.outlives_host = inner.can_freeze, inner.keeps_order, inner.outlives_host
        self._sink: Callable[[Report], None] = lambda _: None
        self._groups: dict[tuple[str, str], Group] = {}
        self._lanes: dict[str, Lane] = {}
        self._of: dict[str, Group] = {}  # by the uuid of a point that is not over
        self._dirty: dict[str, Lane] = {}  # lanes for which something was chosen
        self._cancelling: dict[str, float] = {}  # points, and when their kernel is ended if they are still there
        self._poller: asyncio.Task[None] | None = None

    async def open(self, sink: Callable[[Report], None]) -> None:
        """Begin."""
        self._sink = sink
        await self.inner.open(self._heard)

    async def close(self) -> None:
        """Let go; jobs go on."""
        if self._poller is not None:
            self._poller.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._poller
        await self.inner.close()

    async def check(self, step: Step) -> Demand:
        """Return what each job of a step takes."""
        return await self.inner.check(step)

    # -- the queue ---------------------------------------------------------------------------------------

    def enqueue(self, ticket: Ticket) -> None:
        """Take a job into the queue."""
        if ticket.shares_kernel:
            self._group(ticket).waiting[ticket.uuid] = ticket
        else:
            self.inner.enqueue(ticket)

    def withdraw(self, uuid: str) -> None:
        """Take a job out of the queue."""
        group = self._of.get(uuid)
        if group is None:
            self.inner.withdraw(uuid)
        elif uuid in group.waiting or uuid in group.held:
            group.waiting.pop(uuid, None)
            group.held.pop(uuid, None)
            self._forget(uuid)

    def take(self) -> list[str]:
        """Return the jobs that start now: others, and the points that lanes have room for."""
        chosen: list[str] = []
        is_growing = True
        while is_growing:
            is_growing = False
            for group in list(self._groups.values()):
                self._ask_lane(group)
            for uuid in self.inner.take():
                lane = self._lanes.get(uuid)
                if lane is None:
                    chosen.append(uuid)
                else:
                    lane.is_taken = is_growing = True
                    chosen += self._fill(lane)
        for lane in self._lanes.values():
            if lane.is_started and not lane.is_finishing:
                chosen += self._fill(lane)
        for group in self._groups.values():
            if group.refusal and group.waiting:
                chosen += group.give_up()
        return chosen

    def start(self, uuid: str) -> None:
        """Start a taken job."""
        group = self._of.get(uuid)
        if group is None:
            self.inner.start(uuid)
        elif (lane := group.chosen.pop(uuid, None)) is not None:
            lane.outbox.append(group.tickets[uuid])
            self._soon(lane)
        elif uuid in group.refused:
            group.refused.discard(uuid)
            self._over(Report(ReportKind.REFUSED, uuid, {"reason": group.refusal}))
        else:  # the lane that it was chosen for has ended meanwhile
            group.again[uuid] = group.tickets[uuid]
            self.wake()

    def drop(self, uuid: str) -> None:
        """Give up a taken job."""
        group = self._of.get(uuid)
        if group is None:
            self.inner.drop(uuid)
            return
        lane = group.chosen.pop(uuid, None)
        self._forget(uuid)
        if lane is not None:
            self._soon(lane)

    def recover(self, tickets: Iterable[Ticket]) -> None:
        """Find out about jobs that may have been started in an earlier life."""
        others: list[Ticket] = []
        groups: dict[int, tuple[Group, list[Ticket]]] = {}
        for ticket in tickets:
            if ticket.shares_kernel:
                group = self._group(ticket)
                groups.setdefault(id(group), (group, []))[1].append(ticket)
            else:
                others.append(ticket)
        for group, mine in groups.values():
            for lane in group.restore(mine):
                self._lanes[lane.uuid] = lane
                self._watch(lane)
                self._read(lane)
                others.append(lane.ticket)
        self.inner.recover(others)

    def hold(self, uuid: str) -> None:
        """Keep a waiting job from starting."""
        group = self._of.get(uuid)
        if group is None:
            self.inner.hold(uuid)
        elif (ticket := group.waiting.pop(uuid, None)) is not None:
            group.held[uuid] = ticket
            self._sink(Report(ReportKind.STATE, uuid, {"state": "held", "reason": HELD}))

    def release(self, uuid: str) -> None:
        """End the look at an interrupted job, or the hold of a waiting one."""
        group = self._of.get(uuid)
        if group is None:
            self.inner.release(uuid)
        elif (ticket := group.held.pop(uuid, None)) is not None:
            group.waiting[uuid] = ticket
            self._sink(Report(ReportKind.STATE, uuid, {"state": "queued"}))

    # -- started jobs ------------------------------------------------------------------------------------

    def cancel(self, uuid: str) -> None:
        """End a started job; of a lane's points only the one that is meant."""
        group = self._of.get(uuid)
        if group is None:
            self.inner.cancel(uuid)
        elif uuid in group.again:
            group.again.pop(uuid)
            self._over(Report(ReportKind.ENDED, uuid, {"state": "cancelled", "reason": "cancelled by you before it began"}))
        else:
            self._cancelling[uuid] = 0.0
            if (lane := group.lane_of(uuid)) is not None:
                self.inner.feed(lane.uuid, {"skip": [uuid]})
                self._watch(lane)

    def interrupt(self, uuid: str) -> None:
        """Interrupt a started job's code."""
        lane = self._running(uuid)
        if lane is not None:
            self.inner.interrupt_point(lane.uuid, uuid)
        elif uuid not in self._of:
            self.inner.interrupt(uuid)

    def freeze(self, uuid: str, *, is_on: bool) -> None:
        """Stop all processes of a started job, or let them go on; a point's are those of its kernel."""
        lane = self._running(uuid)
        self.inner.freeze(uuid if lane is None else lane.uuid, is_on=is_on)

    # -- questions ---------------------------------------------------------------------------------------

    def script(self, ticket: Ticket) -> str:
        """Return the script by which a person can run the job; of a point, that of the kernel it would begin in."""
        if not ticket.shares_kernel:
            return self.inner.script(ticket)
        spec = ticket.spec()
        lane = replace(spec, point=None, folder=os.path.dirname(spec.folder), lane=1)
        return self.inner.script(replace(ticket, spec=lambda: lane, point=None))

    async def survey(self, *, is_all: bool) -> list[dict[str, Any]]:
        """Return the batch system's own queue."""
        return await self.inner.survey(is_all=is_all)

    def reason(self, uuid: str) -> str:
        """Return why a queued job waits."""
        group = self._of.get(uuid)
        if group is None:
            return self.inner.reason(uuid)
        if group.count_up:
            return f"waits for its turn in {group.count_up} warm kernel{'s' * (group.count_up > 1)}"
        return self.inner.reason(group.asked.uuid) if group.asked is not None else "starts now"

    def queue(self) -> list[QueueLine]:
        """Return what runs and what waits."""
        found = []
        for line in self.inner.queue():
            lane = self._lanes.get(line.uuid)
            if lane is None:
                found.append(line)
            elif lane.current:
                found.append(QueueLine(lane.current, "running", "", line.demand))
        for group in self._groups.values():
            for uuid, ticket in group.waiting.items():
                found.append(QueueLine(uuid, "queued", self.reason(uuid), ticket.demand))
            found += [QueueLine(uuid, "held", HELD, ticket.demand) for uuid, ticket in group.held.items()]
        return found

    def describe(self) -> dict[str, Any]:
        """Return totals and what is in use."""
        return self.inner.describe()

    # -- lanes -------------------------------------------------------------------------------------------

    def _group(self, ticket: Ticket) -> Group:
        key = (ticket.run, ticket.step)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(ticket)
        group.tickets[ticket.uuid] = ticket
        self._of[ticket.uuid] = group
        return group

    def _ask_lane(self, group: Group) -> None:
        """Ask for one more kernel if there are points for it, and give back the wish for one that is not needed."""
        if group.asked is None and (group.waiting or group.again) and not group.refusal:
            lane = group.new_lane()
            self._lanes[lane.uuid] = lane
            self.inner.enqueue(lane.ticket)
        elif group.asked is not None and not (group.waiting or group.again):
            self.inner.withdraw(group.asked.uuid)
            self._part(group.asked)

    def _fill(self, lane: Lane) -> list[str]:
        """Choose points for a lane that has room; those that were begun to be started once before need no new intent."""
        group = lane.group
        if group.asked is lane and lane.is_taken:
            group.asked = None
        chosen, again = group.choose(lane)
        lane.outbox += again
        if chosen or again or not lane.is_started:
            self._soon(lane)
        return chosen

    def _soon(self, lane: Lane) -> None:
        if not self._dirty:
            asyncio.get_running_loop().call_soon(self._flush)
        self._dirty[lane.uuid] = lane

    def _flush(self) -> None:
        """Hand over what was chosen and stored as intent, after it is written down to whom."""
        dirty, self._dirty = list(self._dirty.values()), {}
        for lane in dirty:
            if lane.uuid not in self._lanes or (not lane.outbox and any(to is lane for to in lane.group.chosen.values())):
                continue
            given, lane.outbox = lane.outbox, []
            if not given and lane.is_started:
                continue
            if not given:
                self.inner.drop(lane.uuid)
                self._part(lane)
                continue
            try:
                points = lane.group.give(lane, given)
            except OSError as exc:
                for ticket in given:
                    reason = f"the step's folder can't be written: {exc.strerror or exc} ({exc.filename})"
                    self._over(Report(ReportKind.REFUSED, ticket.uuid, {"reason": reason}))
                if not lane.is_started:
                    self.inner.drop(lane.uuid)
                    self._part(lane)
                continue
            self._watch(lane)
            if lane.is_started:
                self.inner.feed(lane.uuid, {"points": points})
            else:
                lane.is_started = True
                self.inner.start(lane.uuid)

    def _watch(self, lane: Lane) -> None:
        if self._poller is None or self._poller.done():
            self._poller = asyncio.get_running_loop().create_task(self._poll(), name=f"lanes from {lane.uuid}")

    async def _poll(self) -> None:
        """Read what the lanes have written, until there are none."""
        while any(lane.is_started for lane in self._lanes.values()) or self._cancelling:
            await asyncio.sleep(_POLL_S)
            for lane in list(self._lanes.values()):
                if lane.is_started:
                    self._read(lane)
                    self._let_go(lane)
            self._press()

    def _read(self, lane: Lane) -> None:
        """Report what a lane has done since the last look."""
        for uuid, result in lane.read(asyncio.get_running_loop().time()):
            if uuid in lane.backlog:
                del lane.backlog[uuid]
                self._over(Report(ReportKind.ENDED, uuid, result))
        if lane.current and lane.current != lane.told and lane.current in lane.backlog and lane.info:
            lane.told = lane.current
            self._sink(Report(ReportKind.RUNNING, lane.current, {**lane.info, "at": lane.current_at}))

    def _let_go(self, lane: Lane) -> None:
        """Let a lane end for which nothing is left."""
        group = lane.group
        if not (lane.is_finishing or lane.backlog or lane.outbox or group.waiting or group.again or group.chosen):
            lane.is_finishing = True
            self.inner.feed(lane.uuid, {"finish": True})

    def _press(self) -> None:
        """Interrupt what is to be cancelled and runs; end the kernel of what does not heed it."""
        moment = asyncio.get_running_loop().time()
        for uuid, deadline in list(self._cancelling.items()):
            group = self._of.get(uuid)
            if group is None:
                del self._cancelling[uuid]
            elif (lane := self._running(uuid)) is not None and not deadline:
                self._cancelling[uuid] = moment + _CANCEL_S
                self.inner.interrupt_point(lane.uuid, uuid + _CANCEL)
            elif lane is not None and moment > deadline:
                self._cancelling[uuid] = moment + _CANCEL_S
                self.inner.cancel(lane.uuid)

    def _running(self, uuid: str) -> Lane | None:
        group = self._of.get(uuid)
        lane = group.lane_of(uuid) if group is not None else None
        return lane if lane is not None and lane.current == uuid else None

    # -- what the executor below says ----------------------------------------------------------------------

    def _heard(self, report: Report) -> None:
        lane = self._lanes.get(report.uuid)
        if lane is None:
            self._sink(report)
        elif report.kind is ReportKind.RUNNING:
            if lane.info and lane.backlog:  # it was out of reach: what was sent meanwhile may not have come
                self.inner.feed(lane.uuid, {"points": lane.unbegun()})
            lane.info = {key: report.data[key] for key in ("pid", "live", "node", "native_id") if report.data.get(key)}
        elif report.kind is ReportKind.STATE:
            if lane.current and report.data.get("state"):
                self._sink(Report(ReportKind.STATE, lane.current, report.data))
        elif report.kind in _OVER:
            self._ended(lane, report)

    def _ended(self, lane: Lane, report: Report) -> None:
        """Say what became of the points of a lane that is gone."""
        self._read(lane)
        group = lane.group
        left, lane.backlog = list(lane.backlog.values()), {}
        self._part(lane)
        if report.kind is ReportKind.REFUSED:
            group.refusal = str(report.data.get("reason") or "its kernel could not be started")
        for ticket in left:
            if report.kind is ReportKind.REFUSED:
                self._over(Report(report.kind, ticket.uuid, {"reason": group.refusal}))
            elif ticket.uuid == lane.current or (not lane.has_begun and report.data.get("state") != "completed"):
                self._over(Report(report.kind, ticket.uuid, {**report.data, "outputs": (), "uuid": ticket.uuid}))
            elif ticket.uuid in self._cancelling:
                self._over(Report(ReportKind.ENDED, ticket.uuid, {"state": "cancelled", "reason": "cancelled by you before it began"}))
            else:
                group.again[ticket.uuid] = ticket
        for ticket in lane.outbox:
            group.again[ticket.uuid] = ticket
        for uuid in [uuid for uuid, to in group.chosen.items() if to is lane]:
            del group.chosen[uuid]
        self.wake()

    def _over(self, report: Report) -> None:
        self._forget(report.uuid)
        self._sink(report)

    def _forget(self, uuid: str) -> None:
        group = self._of.pop(uuid, None)
        self._cancelling.pop(uuid, None)
        if group is not None:
            group.tickets.pop(uuid, None)
            if not group.tickets and not group.lanes:
                self._groups.pop(group.key, None)

    def _part(self, lane: Lane) -> None:
        self._lanes.pop(lane.uuid, None)
        lane.close()
        lane.group.part(lane)
        if not lane.group.tickets and not lane.group.lanes:
            self._groups.pop(lane.group.key, None)
