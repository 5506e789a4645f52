"""Which job goes into which node of a pool next, and why one waits. Pure: takes ``now`` and what time is left.

Jobs go in the order of submission; one that does not fit lets later ones pass, for :data:`PATIENCE_S` at most.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kale_magic.abc import QueueLine
from kale_magic.executors._queue import HELD, PATIENCE_S
from kale_magic.model.resources import format_memory, format_walltime
from kale_magic.model.run import Demand

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kale_magic.abc import Ticket

MARGIN_S = 10.0  # before the end of the allocation nothing is started any more


@dataclass(slots=True)
class Room:
    """One node of the allocation: what it has, None where that is without limit or unknown, and what is taken."""

    cpus: int
    memory_bytes: int | None = None
    devices: tuple[str, ...] = ()
    used: Demand = field(default_factory=lambda: Demand(0, 0, 0))

    def short(self, asked: Demand) -> str:
        """Return what there is too little of now; empty if the job fits."""
        if self.used.cpus + asked.cpus > self.cpus:
            return "cpus"
        if self.used.gpus + asked.gpus > len(self.devices):
            return "gpus"
        if self.memory_bytes is not None and self.used.memory_bytes + asked.memory_bytes > self.memory_bytes:
            return "memory"
        return ""

    def lacks(self, asked: Demand) -> str:
        """Return what there never is enough of, in words; empty if a job fits when nothing else is there."""
        if asked.cpus > self.cpus:
            return f"{asked.cpus} cores, and a node of it has {self.cpus}"
        if asked.gpus > len(self.devices):
            return f"{asked.gpus} gpus, and a node of it has {len(self.devices) or 'none'}"
        if self.memory_bytes is not None and asked.memory_bytes > self.memory_bytes:
            return f"{format_memory(asked.memory_bytes)} of memory, and a node of it has {self.memory_bytes >> 20}MB"
        return ""

    def take(self, asked: Demand, sign: int = 1) -> None:
        """Count a job in, or out by ``sign`` -1."""
        used = self.used
        self.used = Demand(used.cpus + sign * asked.cpus, used.memory_bytes + sign * asked.memory_bytes, used.gpus + sign * asked.gpus)


@dataclass(slots=True)
class Share:
    """A job in the pool, the node it is on (None: not known yet), and its gpus."""

    ticket: Ticket
    node: str | None
    devices: tuple[str, ...] = ()


@dataclass(slots=True)
class PoolQueue:
    """Waiting and started jobs of one pool. ``rooms`` are the nodes that can be given work now."""

    rooms: dict[str, Room] = field(default_factory=dict)
    waiting: dict[str, Ticket] = field(default_factory=dict)  # in order
    held: dict[str, Ticket] = field(default_factory=dict)
    started: dict[str, Share] = field(default_factory=dict)
    _blocked: str = ""
    _blocked_at: float = 0.0

    def add(self, ticket: Ticket) -> None:
        """Take a job in, where its number puts it."""
        is_last = not self.waiting or next(reversed(self.waiting.values())).number < ticket.number
        self.waiting[ticket.uuid] = ticket
        if not is_last:
            self.waiting = {item.uuid: item for item in sorted(self.waiting.values(), key=lambda item: item.number)}

    def remove(self, uuid: str) -> None:
        """Take a job out that waits."""
        self.waiting.pop(uuid, None)
        self.held.pop(uuid, None)

    def hold(self, uuid: str) -> bool:
        """Keep a waiting job from starting; False if it does not wait."""
        if (ticket := self.waiting.pop(uuid, None)) is None:
            return False
        self.held[uuid] = ticket
        return True

    def release(self, uuid: str) -> bool:
        """Let a held job wait again; False if it is not held."""
        if (ticket := self.held.pop(uuid, None)) is None:
            return False
        self.add(ticket)
        return True

    def occupy(self, ticket: Ticket, node: str | None) -> None:
        """Count a job as started; again, when its node becomes known."""
        self.remove(ticket.uuid)
        self.free(ticket.uuid)
        self.started[ticket.uuid] = Share(ticket, node)
        if node in self.rooms:
            self.rooms[node].take(ticket.demand)

    def free(self, uuid: str) -> Ticket | None:
        """Take back what a started job had; return its ticket."""
        share = self.started.pop(uuid, None)
        if share is None:
            return None
        if share.node in self.rooms:
            self.rooms[share.node].take(share.ticket.demand, -1)
        return share.ticket

    def open_room(self, node: str, room: Room) -> None:
        """Let jobs go to a node; those that are there count."""
        self.rooms[node] = room
        for share in self.started.values():
            if share.node == node:
                room.take(share.ticket.demand)

    def take(self, now: float, left_s: float | None) -> list[Ticket]:
        """Return the jobs that start now; what they need is theirs.

        Parameters
        ----------
        now : float
            By the monotonic clock.
        left_s : float or None
            Seconds that the allocation has left, None: it has no end.
        """
        taken: list[Ticket] = []
        refused: set[Demand] = set()
        first = ""
        for uuid, ticket in self.waiting.items():
            if not any(room.used.cpus < room.cpus for room in self.rooms.values()):
                break
            if not fits_time(ticket, left_s) or ticket.demand in refused:
                continue
            node = next((name for name, room in self.rooms.items() if not room.short(ticket.demand)), None)
            if node is None:
                refused.add(ticket.demand)
                first = first or uuid
                if self._has_waited(first, now):
                    break
                continue
            self._give(ticket, node)
            taken.append(ticket)
        for ticket in taken:
            del self.waiting[ticket.uuid]
        return taken

    def _has_waited(self, uuid: str, now: float) -> bool:
        if self._blocked != uuid:
            self._blocked, self._blocked_at = uuid, now
        return now - self._blocked_at >= PATIENCE_S

    def _give(self, ticket: Ticket, node: str) -> None:
        room = self.rooms[node]
        busy = {name for share in self.started.values() if share.node == node for name in share.devices} if ticket.demand.gpus else set()
        free = [name for name in room.devices if name not in busy]
        self.started[ticket.uuid] = Share(ticket, node, tuple(free[: ticket.demand.gpus]))
        room.take(ticket.demand)

    def is_stuck(self, left_s: float | None) -> bool:
        """Whether jobs wait, nothing runs, and none of them fits into the time that is left."""
        return bool(self.waiting) and not self.started and not any(fits_time(ticket, left_s) for ticket in self.waiting.values())

    def reason(self, uuid: str, left_s: float | None) -> str:
        """Return why a job waits in a pool that is open."""
        if uuid in self.held:
            return HELD
        ticket = self.waiting.get(uuid)
        if ticket is None:
            return ""
        if not fits_time(ticket, left_s):
            return f"does not fit into the {format_walltime(max(0, int(left_s or 0)))} that are left of it; waits for its next allocation"
        lacks = [room.lacks(ticket.demand) for room in self.rooms.values()]
        if lacks and all(lacks):
            return f"never fits: it asks for {lacks[0]}. Cancel it, or open a bigger pool of this name"
        if any(not room.short(ticket.demand) for room in self.rooms.values()):
            return "starts now"
        total = sum(room.cpus for room in self.rooms.values())
        lack = {room.short(ticket.demand) for room in self.rooms.values()}
        if lack == {"cpus"}:
            return f"waits for {ticket.demand.cpus} of {total} cores"
        return f"waits for {' or '.join(sorted(lack))}" if lack else "waits for a node"

    def lines(self, left_s: float | None, native_id: str) -> Iterator[QueueLine]:
        """Return what runs, then what waits, in order."""
        for uuid, share in self.started.items():
            yield QueueLine(uuid, "running", "", share.ticket.demand, native_id, share.node or "")
        for uuid, ticket in self.waiting.items():
            yield QueueLine(uuid, "queued", self.reason(uuid, left_s), ticket.demand)
        for uuid, ticket in self.held.items():
            yield QueueLine(uuid, "held", HELD, ticket.demand)


def fits_time(ticket: Ticket, left_s: float | None) -> bool:
    """Whether a job can end before the allocation does, by what it says; one that says nothing is given a try."""
    return left_s is None or (ticket.resources.walltime_s or 0) + MARGIN_S <= left_s
