"""Sweeps with ``--reuse-kernel`` on an executor that reaches its jobs while they run: this machine's, and a pool's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kale_magic.executors._lane_keeper import LaneKeeper

if TYPE_CHECKING:
    from kale_magic.abc import Ticket
    from kale_magic.executors._lane import Lane
    from kale_magic.executors.local import LocalExecutor
    from kale_magic.executors.pool import PoolExecutor


class FedKeeper(LaneKeeper):
    """Gives points to kernels as they get through them.

    Parameters
    ----------
    inner : LocalExecutor or PoolExecutor
        Where the kernels run.
    """

    def __init__(self, inner: LocalExecutor | PoolExecutor, *, is_far: bool = False) -> None:
        super().__init__(inner, is_far=is_far)
        self._host = inner

    def choose(self, lane: Lane) -> tuple[list[str], list[Ticket]]:
        """Choose as many as it gets through in a while; none that would not end before the kernel's allocation does."""
        if lane.is_started and not self._host.has_time(lane.ticket):
            return [], []
        return lane.group.choose(lane)

    def stop(self, lane: Lane, mark: str) -> None:
        """Interrupt the code of one point."""
        self._host.interrupt_point(lane.uuid, mark)

    def skip(self, lane: Lane, uuid: str) -> None:
        """Have a point passed over; it says so itself when it comes to it."""
        self.feed(lane, {"skip": [uuid]})

    def feed(self, lane: Lane, message: dict[str, Any]) -> None:
        """Tell a kernel something; lost if it is out of reach."""
        self._host.feed(lane.uuid, message)
