"""The points of ``--reuse-kernel`` sweeps as a queue: what waits, what is held, which kernel has which, and why one waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kale_magic.abc import QueueLine
from kale_magic.executors._lane import Group, Lane
from kale_magic.executors._queue import HELD
from kale_magic.model.run import Report, ReportKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kale_magic.abc import Executor, Ticket

BEFORE = {"state": "cancelled", "reason": "cancelled by you before it began"}


class PointQueue:
    """See the module.

    Parameters
    ----------
    inner : Executor
        Where the kernels run.
    is_far : bool
        They run on other hosts.
    """

    is_shared_out = False  # a kernel gets all its points when it is started

    def __init__(self, inner: Executor, *, is_far: bool) -> None:
        self.inner, self.is_far = inner, is_far
        self.sink: Callable[[Report], None] = lambda _: None
        self.wake: Callable[[], object] = lambda: None
        self.groups: dict[tuple[str, str], Group] = {}
        self.lanes: dict[str, Lane] = {}
        self._of: dict[str, Group] = {}  # by the uuid of a point that is not over
        self._cancelling: dict[str, float] = {}  # points, and when their kernel is ended if they are still there

    def has(self, uuid: str) -> bool:
        """Whether a job is a point that is not over."""
        return uuid in self._of

    def group_of(self, uuid: str) -> Group:
        """Return the sweep of such a point."""
        return self._of[uuid]

    def add(self, ticket: Ticket) -> None:
        """Take a point into the queue."""
        self._group(ticket).waiting[ticket.uuid] = ticket

    def withdraw(self, uuid: str) -> None:
        """Take a point out of the queue."""
        group = self._of[uuid]
        if uuid in group.waiting or uuid in group.held:
            group.waiting.pop(uuid, None)
            group.held.pop(uuid, None)
            self._forget(uuid)

    def hold(self, uuid: str) -> None:
        """Keep a waiting point from starting."""
        group = self._of[uuid]
        if (ticket := group.waiting.pop(uuid, None)) is not None:
            group.held[uuid] = ticket
            self.sink(Report(ReportKind.STATE, uuid, {"state": "held", "reason": HELD}))

    def release(self, uuid: str) -> None:
        """End the hold of a waiting point."""
        group = self._of[uuid]
        if (ticket := group.held.pop(uuid, None)) is not None:
            group.waiting[uuid] = ticket
            self.sink(Report(ReportKind.STATE, uuid, {"state": "queued"}))

    def stands_for(self, uuid: str, lane: str | None) -> None:
        """Tell the executor which job runs a point, where others wait for it: empty, not known yet; None, the point is over."""

    # -- questions ------------------------------------------------------------------------------------------

    def lane_running(self, uuid: str) -> Lane | None:
        """Return the kernel that runs a point now; None if none does."""
        group = self._of.get(uuid)
        lane = group.lane_of(uuid) if group is not None else None
        return lane if lane is not None and lane.current == uuid else None

    def reason(self, uuid: str) -> str:
        """Return why a point waits."""
        group = self._of[uuid]
        if group.count_up:
            return f"waits for its turn in {group.count_up} warm kernel{'s' * (group.count_up > 1)}"
        return self.inner.reason(group.asked.uuid) if group.asked is not None else "starts now"

    def queue(self) -> list[QueueLine]:
        """Return what runs and what waits."""
        found = []
        for line in self.inner.queue():
            lane = self.lanes.get(line.uuid)
            if lane is None:
                found.append(line)
            else:
                found += self.lines_of(lane, line)
        for group in self.groups.values():
            for uuid, ticket in group.waiting.items():
                found.append(QueueLine(uuid, "queued", self.reason(uuid), ticket.demand))
            found += [QueueLine(uuid, "held", HELD, ticket.demand) for uuid, ticket in group.held.items()]
        return found

    def lines_of(self, lane: Lane, line: QueueLine) -> Iterator[QueueLine]:
        """Give the points that a kernel's line in the queue stands for."""
        if lane.current:
            yield QueueLine(lane.current, "running", "", line.demand, line.native_id, line.node)

    def _group(self, ticket: Ticket) -> Group:
        key = (ticket.run, ticket.step)
        group = self.groups.get(key)
        if group is None:
            group = self.groups[key] = Group(ticket, is_far=self.is_far, is_shared_out=self.is_shared_out)
        group.tickets[ticket.uuid] = ticket
        self._of[ticket.uuid] = group
        self.stands_for(ticket.uuid, "")
        return group

    def _over(self, report: Report) -> None:
        self._forget(report.uuid)
        self.sink(report)

    def _forget(self, uuid: str) -> None:
        group = self._of.pop(uuid, None)
        self._cancelling.pop(uuid, None)
        self.stands_for(uuid, None)
        if group is not None:
            group.tickets.pop(uuid, None)
            if not group.tickets and not group.lanes:
                self.groups.pop(group.key, None)
