"""Keeps the kernels of ``--reuse-kernel`` sweeps: asks for them, gives them points, hears what became of those.

What is common to all executors is here. One that can feed a job while it runs has :mod:`kale_magic.executors._lane_fed`, one
whose jobs get all their points when they are started :mod:`kale_magic.executors._lane_shares`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from kale_magic.executors._lane_queue import BEFORE, PointQueue
from kale_magic.model.run import Report, ReportKind
from kale_proxy.job import FROM_OUTSIDE
from kale_proxy.record import ENDED_BY_SIGTERM

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kale_magic.abc import Executor, Ticket
    from kale_magic.executors._lane import Group, Lane

CANCEL = " cancel"  # kale_proxy.lanerun.CANCEL, which would load a kernel here
_log = logging.getLogger(__name__)
_OVER = frozenset({ReportKind.ENDED, ReportKind.LOST, ReportKind.REFUSED})


class LaneKeeper(PointQueue, ABC):
    """See the module.

    Parameters
    ----------
    inner : Executor
        Where the kernels run.
    is_far : bool
        They run on other hosts: their files are looked at now and then, in a thread.
    """

    def __init__(self, inner: Executor, *, is_far: bool) -> None:
        super().__init__(inner, is_far=is_far)
        self.poll_s, self.cancel_s = (0.25, 20.0) if is_far else (0.02, 5.0)  # the second: so long may a point's code take to heed an interrupt
        self._dirty: dict[str, Lane] = {}  # lanes for which something was chosen
        self._poller: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Let go; what runs goes on."""
        if self._poller is not None:
            self._poller.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._poller

    # -- what differs between executors ---------------------------------------------------------------------

    @abstractmethod
    def choose(self, lane: Lane) -> tuple[list[str], list[Ticket]]:
        """Choose points for a kernel: of those that wait, which are to be stored as intents, and of those given before."""

    @abstractmethod
    def stop(self, lane: Lane, mark: str) -> None:
        """Interrupt the code of one point; ``mark`` begins with its uuid."""

    @abstractmethod
    def skip(self, lane: Lane, uuid: str) -> None:
        """See to it that a kernel does not begin a point that it was given."""

    def may_ask(self, group: Group) -> bool:  # noqa: ARG002
        """Whether a sweep may have one more kernel."""
        return True

    def fate(self, lane: Lane, ticket: Ticket, report: Report) -> Report | None:
        """Return what becomes of a point by the end of the kernel that had it; None: another kernel is to run it."""
        uuid = ticket.uuid
        if lane.doubt is not None and lane.doubt[0] == uuid and report.kind is not ReportKind.LOST:
            return Report(ReportKind.ENDED, uuid, lane.doubt[1])
        is_cut = uuid == lane.current or (lane.doubt is not None and lane.doubt[0] == uuid)
        if is_cut or (not lane.has_begun and report.data.get("state") != "completed"):
            return Report(report.kind, uuid, {**report.data, "outputs": (), "uuid": uuid})
        return Report(ReportKind.ENDED, uuid, BEFORE) if uuid in self._cancelling else None

    # -- the order of duty -----------------------------------------------------------------------------------

    def take(self) -> list[str]:
        """Return the jobs that start now: others, and the points that lanes have room for."""
        chosen: list[str] = []
        is_growing = True
        while is_growing:
            is_growing = False
            for group in list(self.groups.values()):
                self._ask_lane(group)
            for uuid in self.inner.take():
                lane = self.lanes.get(uuid)
                if lane is None:
                    chosen.append(uuid)
                else:
                    lane.is_taken = is_growing = True
                    chosen += self._fill(lane)
        for lane in self.lanes.values():
            if lane.is_started and not lane.is_finishing and not self.is_shared_out:
                chosen += self._fill(lane)
        for group in self.groups.values():
            if group.refusal and group.waiting:
                chosen += group.give_up()
        return chosen

    def start(self, uuid: str) -> None:
        """Start a taken point."""
        group = self._of[uuid]
        if (lane := group.chosen.pop(uuid, None)) is not None:
            lane.outbox.append(group.tickets[uuid])
            self._soon(lane)
        elif uuid in group.refused:
            group.refused.discard(uuid)
            self._over(Report(ReportKind.REFUSED, uuid, {"reason": group.refusal}))
        else:  # the lane that it was chosen for has ended meanwhile
            group.again[uuid] = group.tickets[uuid]
            self.wake()

    def drop(self, uuid: str) -> None:
        """Give up a taken point."""
        lane = self._of[uuid].chosen.pop(uuid, None)
        self._forget(uuid)
        if lane is not None:
            self._soon(lane)

    def recover(self, tickets: Iterable[Ticket]) -> Iterator[Ticket]:
        """Find out about points that may have been started in an earlier life; gives the jobs that are to be recovered for it."""
        groups: dict[int, tuple[Group, list[Ticket]]] = {}
        for ticket in tickets:
            group = self._group(ticket)
            groups.setdefault(id(group), (group, []))[1].append(ticket)
        for group, mine in groups.values():
            for lane in group.restore(mine):
                self.lanes[lane.uuid] = lane
                for uuid in lane.backlog:
                    self.stands_for(uuid, lane.uuid)
                self._watch(lane)
                self._read(lane)
                yield lane.ticket

    def cancel(self, uuid: str) -> None:
        """End a started point, and only that."""
        group = self._of[uuid]
        if uuid in group.again:
            group.again.pop(uuid)
            self._over(Report(ReportKind.ENDED, uuid, BEFORE))
        else:
            self._cancelling[uuid] = 0.0
            if (lane := group.lane_of(uuid)) is not None:
                self.skip(lane, uuid)
                self._watch(lane)

    # -- lanes ----------------------------------------------------------------------------------------------

    def _ask_lane(self, group: Group) -> None:
        """Ask for one more kernel if there are points for it, and give back the wish for one that is not needed."""
        if group.asked is None and (group.waiting or group.again) and not group.refusal and self.may_ask(group):
            lane = group.new_lane()
            self.lanes[lane.uuid] = lane
            self.inner.enqueue(lane.ticket)
        elif group.asked is not None and not (group.waiting or group.again):
            self.inner.withdraw(group.asked.uuid)
            self._part(group.asked)

    def _fill(self, lane: Lane) -> list[str]:
        """Choose points for a lane that has room; those that were begun to be started once before need no new intent."""
        group = lane.group
        if group.asked is lane and lane.is_taken:
            group.asked = None
        chosen, again = self.choose(lane)
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
            if lane.uuid not in self.lanes or (not lane.outbox and any(to is lane for to in lane.group.chosen.values())):
                continue
            given, lane.outbox = lane.outbox, []
            if given:
                self._give(lane, given)
            elif not lane.is_started:
                self.inner.drop(lane.uuid)
                self._part(lane)

    def _give(self, lane: Lane, given: list[Ticket]) -> None:
        try:
            points = lane.group.give(lane, given)
        except OSError as exc:
            for ticket in given:
                reason = f"the step's folder can't be written: {exc.strerror or exc} ({exc.filename})"
                self._over(Report(ReportKind.REFUSED, ticket.uuid, {"reason": reason}))
            if not lane.is_started:
                self.inner.drop(lane.uuid)
                self._part(lane)
            return
        for ticket in given:
            self.stands_for(ticket.uuid, lane.uuid)
        self._watch(lane)
        if lane.is_started:
            self.feed(lane, {"points": points})
        else:
            lane.is_started = True
            self.inner.start(lane.uuid)

    @abstractmethod
    def feed(self, lane: Lane, message: dict[str, Any]) -> None:
        """Tell a kernel something."""

    def _watch(self, lane: Lane) -> None:
        if self._poller is None or self._poller.done():
            self._poller = asyncio.get_running_loop().create_task(self._poll(), name=f"lanes from {lane.uuid}")

    async def _poll(self) -> None:
        """Read what the lanes have written, until there are none."""
        while any(lane.is_started for lane in self.lanes.values()) or self._cancelling:
            await asyncio.sleep(self.poll_s)
            try:
                await self._look()
            except Exception:  # the edge of the loop: what one look stumbles over must not end all looking
                _log.exception("a look at what kernels have written failed")

    async def _look(self) -> None:
        for lane in list(self.lanes.values()):
            if lane.is_started and self.is_far and lane.info:
                found = await asyncio.to_thread(lane.fetch)
                self._note(lane, lane.absorb(*found, asyncio.get_running_loop().time()))
            elif lane.is_started and not self.is_far:
                self._read(lane)
            if lane.is_started:
                self.let_go(lane)
        self._press()

    def _read(self, lane: Lane) -> None:
        """Report what a lane has done since the last look."""
        self._note(lane, lane.read(asyncio.get_running_loop().time()))

    def _note(self, lane: Lane, ended: list[tuple[str, dict[str, Any]]]) -> None:
        for uuid, result in ended:
            reason = str(result.get("reason"))
            if uuid not in lane.backlog:
                continue
            if FROM_OUTSIDE in reason or reason == ENDED_BY_SIGTERM:
                lane.doubt = uuid, result  # why its kernel was ended, the executor will say
            else:
                del lane.backlog[uuid]
                self._over(Report(ReportKind.ENDED, uuid, {**result, **lane.where()}))
        if lane.current and lane.current != lane.told and lane.current in lane.backlog and lane.info:
            lane.told = lane.current
            self.sink(Report(ReportKind.RUNNING, lane.current, {**lane.info, "at": lane.current_at}))

    def let_go(self, lane: Lane) -> None:
        """Let a lane end for which nothing is left."""
        group = lane.group
        if not (lane.is_finishing or lane.backlog or lane.outbox or group.waiting or group.again or group.chosen):
            lane.is_finishing = True
            self.feed(lane, {"finish": True})

    def _press(self) -> None:
        """Interrupt what is to be cancelled and runs; end the kernel of what does not heed it."""
        moment = asyncio.get_running_loop().time()
        for uuid, deadline in list(self._cancelling.items()):
            lane = self.lane_running(uuid)
            if uuid not in self._of:
                del self._cancelling[uuid]
            elif lane is not None and not deadline:
                self._cancelling[uuid] = moment + self.cancel_s
                self.stop(lane, uuid + CANCEL)
            elif lane is not None and moment > deadline:
                self._cancelling[uuid] = moment + self.cancel_s
                lane.is_killed = True
                self.inner.cancel(lane.uuid)

    # -- what the executor below says ------------------------------------------------------------------------

    def heard(self, report: Report) -> None:
        """Take what it says of a lane, and pass on the rest."""
        lane = self.lanes.get(report.uuid)
        if lane is None:
            self.sink(report)
        elif report.kind is ReportKind.RUNNING:
            self.runs(lane, {key: report.data[key] for key in ("pid", "live", "node", "native_id") if report.data.get(key)})
        elif report.kind in _OVER:
            self._ended(lane, report)
        else:
            self.moved(lane, report)

    def runs(self, lane: Lane, info: dict[str, Any]) -> None:
        """Take where a lane runs."""
        if lane.info and lane.backlog:  # it was out of reach: what was sent meanwhile may not have come
            self.feed(lane, {"points": lane.unbegun()})
        lane.info = info

    def moved(self, lane: Lane, report: Report) -> None:
        """Pass on what is said of a lane besides: of the point that it is at."""
        if report.kind is ReportKind.STATE and lane.current and report.data.get("state"):
            self.sink(Report(ReportKind.STATE, lane.current, report.data))

    def _ended(self, lane: Lane, report: Report) -> None:
        """Say what became of the points of a lane that is gone."""
        self._read(lane)
        group = lane.group
        left, lane.backlog = list(lane.backlog.values()), {}
        self._part(lane)
        if report.kind is ReportKind.REFUSED:
            group.refusal = str(report.data.get("reason") or "its kernel could not be started")
            report = Report(report.kind, report.uuid, {"reason": group.refusal})
        for ticket in left:
            fate = Report(report.kind, ticket.uuid, report.data) if report.kind is ReportKind.REFUSED else self.fate(lane, ticket, report)
            if fate is None:
                group.again[ticket.uuid] = ticket
                self.stands_for(ticket.uuid, "")
            else:
                self._over(fate)
        for ticket in lane.outbox:
            group.again[ticket.uuid] = ticket
        for uuid in [uuid for uuid, to in group.chosen.items() if to is lane]:
            del group.chosen[uuid]
        self.wake()

    def _part(self, lane: Lane) -> None:
        self.lanes.pop(lane.uuid, None)
        lane.close()
        lane.group.part(lane)
        if not lane.group.tickets and not lane.group.lanes:
            self.groups.pop(lane.group.key, None)
