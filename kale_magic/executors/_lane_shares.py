"""Sweeps with ``--reuse-kernel`` on a batch system: the points are shared out among a few jobs when these are submitted.

So the sweep goes on while no manager runs, and later steps wait for its jobs in the batch system's own queue. A job begins no
point that would hardly end in the time it has left; what a job did not get to, for that or because it died, is shared out again.
What a job is told while it runs, it reads from a file beside its points.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from kale_magic.abc import QueueLine
from kale_magic.executors._lane_keeper import LaneKeeper
from kale_magic.executors._lane_queue import BEFORE
from kale_magic.model.run import Report, ReportKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kale_magic.abc import Ticket
    from kale_magic.executors._lane import Group, Lane
    from kale_magic.executors.slurm import SlurmExecutor

_log = logging.getLogger(__name__)
_IN_QUEUE = frozenset({"queued", "held"})


class ShareKeeper(LaneKeeper):
    """See the module.

    Parameters
    ----------
    inner : SlurmExecutor
        Where the jobs go.
    most : int
        So many jobs does a sweep have at once.
    """

    is_shared_out = True

    def __init__(self, inner: SlurmExecutor, most: int) -> None:
        super().__init__(inner, is_far=True)
        self._queue, self._most = inner, max(1, most)

    def may_ask(self, group: Group) -> bool:
        """Whether a sweep may have one more job."""
        return len(group.lanes) < self._most

    def choose(self, lane: Lane) -> tuple[list[str], list[Ticket]]:
        """Choose a job's share."""
        return lane.group.share(lane, self._most)

    def stands_for(self, uuid: str, lane: str | None) -> None:
        """Tell which job runs a point."""
        self._queue.represent(uuid, lane)

    def feed(self, lane: Lane, message: dict[str, Any]) -> None:
        """Leave a message where the job looks before each point."""
        try:
            lane.tell(message)
        except OSError as exc:
            _log.warning("%s can't be told %s: %s", lane.ticket.address, message, exc)

    def stop(self, lane: Lane, mark: str) -> None:
        """Interrupt the code of one point: a signal says that there is something to read."""
        self.feed(lane, {"stop": mark})
        self._queue.interrupt(lane.uuid)

    def skip(self, lane: Lane, uuid: str) -> None:
        """Cancel a point that has not begun, now; a job without points is taken back."""
        self.feed(lane, {"skip": [uuid]})
        if lane.info and asyncio.get_running_loop().time() - lane.looked > self.poll_s:
            self._read(lane)
        if uuid == lane.current or uuid not in lane.backlog:
            return
        del lane.backlog[uuid]
        self._over(Report(ReportKind.ENDED, uuid, BEFORE))
        if not lane.backlog:
            lane.is_killed = True
            self.inner.cancel(lane.uuid)

    def let_go(self, lane: Lane) -> None:
        """Do nothing: the job knows its last point."""


    def runs(self, lane: Lane, info: dict[str, Any]) -> None:
        """Take where a job runs; once more when its kernel can be visited."""
        if info.get("live") != lane.info.get("live"):
            lane.told = ""
        lane.info = {**lane.info, **info}

    def moved(self, lane: Lane, report: Report) -> None:
        """Pass on what the queue says of a job: to all its points while it waits, then to the one that it is at."""
        is_for_all = report.kind is ReportKind.PLACED or (report.data.get("state") in _IN_QUEUE and not lane.info)
        if is_for_all and report.kind is ReportKind.STATE:
            lane.is_held = report.data.get("state") == "held"
        for uuid in list(lane.backlog) if is_for_all else [lane.current] if lane.current else []:
            self.sink(Report(report.kind, uuid, report.data))

    def hold(self, uuid: str) -> None:
        """Keep a waiting point from starting, with the job that it is in."""
        lane = self._of[uuid].lane_of(uuid)
        if lane is None:
            super().hold(uuid)
        elif not lane.info and not lane.is_held:  # once for all its points
            lane.is_held = True
            self.inner.hold(lane.uuid)

    def release(self, uuid: str) -> None:
        """Let it go on."""
        lane = self._of[uuid].lane_of(uuid)
        if lane is None:
            super().release(uuid)
        elif not lane.info and lane.is_held:
            lane.is_held = False
            self.inner.release(lane.uuid)

    def fate(self, lane: Lane, ticket: Ticket, report: Report) -> Report | None:
        """Return what becomes of a point by the end of the job that had it; None: another job is to run it."""
        uuid, data, state = ticket.uuid, report.data, report.data.get("state")
        is_cut = uuid == lane.current or (lane.doubt is not None and lane.doubt[0] == uuid)
        if report.kind is ReportKind.LOST:
            return Report(report.kind, uuid, dict(data)) if is_cut or not lane.has_begun else None
        if state == "cancelled" and not lane.is_killed:  # by hand, in the batch system's queue
            return Report(report.kind, uuid, {**data, "outputs": ()})
        if is_cut and data.get("is_timeout") and lane.count_begun > 1:
            words = f"the time of its job was over, in which {lane.count_begun - 1} points had ended before it began"
            return Report(ReportKind.LOST, uuid, {"reason": words})
        if is_cut and lane.doubt is not None and not data.get("is_timeout") and state != "cancelled":
            return Report(ReportKind.ENDED, uuid, lane.doubt[1])
        if is_cut or (not lane.has_begun and state != "completed"):
            return Report(report.kind, uuid, {**data, "outputs": (), "uuid": uuid})
        return Report(ReportKind.ENDED, uuid, BEFORE) if uuid in self._cancelling else None

    # -- questions ------------------------------------------------------------------------------------------

    def reason(self, uuid: str) -> str:
        """Return why a point waits: for its job, or for its turn in it."""
        group = self._of[uuid]
        lane = group.lane_of(uuid) or group.chosen.get(uuid)
        if lane is None and group.asked is None and group.lanes:
            return f"waits for one of {len(group.lanes)} jobs to end, which have the other points"
        if lane is None or not lane.info:
            waits = lane or group.asked
            return self.inner.reason(waits.uuid) if waits is not None else "is being submitted"
        return f"waits for its turn in job {lane.info.get('native_id')}, which runs on {lane.info.get('node')}"

    def lines_of(self, lane: Lane, line: QueueLine) -> Iterator[QueueLine]:
        """Give the points that a job's line in the queue stands for."""
        for uuid in lane.backlog:
            if uuid == lane.current:
                yield QueueLine(uuid, "running", "", line.demand, line.native_id, line.node)
            else:
                state = line.state if line.state == "held" else "queued"
                yield QueueLine(uuid, state, self.reason(uuid) if lane.info else line.reason, line.demand, line.native_id, "", line.starts_at)
