"""Which waiting job starts next on this machine, and why one waits. Pure: takes ``now``, starts nothing.

Jobs start in the order of submission. One that does not fit lets later ones that do fit pass it, but only for
a while (:data:`PATIENCE_S`): then nothing passes it until it has started, so that a stream of small jobs can't
keep a big one waiting for ever.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kale_magic.abc import QueueLine
from kale_magic.errors import SubmitError
from kale_magic.model.resources import format_memory
from kale_magic.model.run import Demand

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kale_magic.abc import Ticket
    from kale_magic.model.step import Step

PATIENCE_S = 60.0
HELD = "held by you; %kale_release lets it go on"


@dataclass(slots=True)
class Share:
    """What a started job holds: its demand and its gpus."""

    ticket: Ticket
    devices: tuple[str, ...]


@dataclass(slots=True)
class LocalQueue:
    """Waiting and started jobs of one machine, and what is left of it.

    ``cpus`` and ``memory_bytes`` are totals; ``devices`` are the gpus' names for CUDA_VISIBLE_DEVICES.
    """

    cpus: int
    memory_bytes: int
    devices: tuple[str, ...] = ()
    started: dict[str, Share] = field(default_factory=dict)
    _waiting: dict[Demand, OrderedDict[str, Ticket]] = field(default_factory=dict)  # by demand, in order
    _demands: dict[str, Demand] = field(default_factory=dict)
    _held: dict[str, Ticket] = field(default_factory=dict)
    _used: Demand = field(default_factory=lambda: Demand(0, 0, 0))
    _blocked: str | None = None  # the first job that does not fit
    _blocked_at: float = 0.0

    def demand(self, step: Step) -> Demand:
        """Return what each job of a step takes.

        Raises
        ------
        SubmitError
            The machine never has that much.
        """
        asked = step.resources
        if (asked.nodes or 1) > 1:
            what = f"Step `{step.name}` asks for {asked.nodes} nodes; the local executor has this machine only."
            raise SubmitError(what, "Leave --nodes out.")
        demand = Demand(max(1, (asked.cpus or 1) * (asked.ntasks or 1)), asked.memory_bytes or 0, asked.gpus or 0)
        there = ""
        if demand.cpus > self.cpus:
            wanted, there, option = f"{demand.cpus} cores", str(self.cpus), "--cpus"
        elif demand.gpus > len(self.devices):
            wanted, there, option = f"{demand.gpus} gpus", str(len(self.devices) or "none"), "--gpus"
        elif demand.memory_bytes > self.memory_bytes:
            wanted, there, option = (
                f"{format_memory(demand.memory_bytes)} of memory",
                _readable(self.memory_bytes),
                "--memory",
            )
        if there:
            raise SubmitError(f"Step `{step.name}` asks for {wanted}; this machine has {there}.", f"Lower {option}.")
        return demand

    def add(self, ticket: Ticket) -> None:
        """Take a job into the queue; jobs come in rising order of their number, or are put where they belong."""
        line = self._waiting.setdefault(ticket.demand, OrderedDict())
        is_last = not line or next(reversed(line.values())).number < ticket.number
        line[ticket.uuid] = ticket
        self._demands[ticket.uuid] = ticket.demand
        if not is_last:  # a retry, or a run taken up again
            ordered = sorted(line.values(), key=lambda item: item.number)
            line.clear()
            line.update((item.uuid, item) for item in ordered)

    def remove(self, uuid: str) -> None:
        """Take a waiting job out; nothing happens if it does not wait."""
        self._held.pop(uuid, None)
        demand = self._demands.pop(uuid, None)
        if demand is not None:
            self._waiting[demand].pop(uuid, None)

    def hold(self, uuid: str) -> bool:
        """Keep a waiting job from starting; False if it does not wait."""
        demand = self._demands.pop(uuid, None)
        if demand is None:
            return False
        self._held[uuid] = self._waiting[demand].pop(uuid)
        return True

    def release(self, uuid: str) -> bool:
        """Let a held job wait again; False if it is not held."""
        ticket = self._held.pop(uuid, None)
        if ticket is not None:
            self.add(ticket)
        return ticket is not None

    def occupy(self, ticket: Ticket) -> None:
        """Count a job as started, whether it fits or not: it runs already."""
        if ticket.uuid not in self.started:
            self.remove(ticket.uuid)
            self._give(ticket)

    def free(self, uuid: str) -> None:
        """Take back what a started job held."""
        share = self.started.pop(uuid, None)
        if share is not None:
            asked = share.ticket.demand
            used = self._used
            self._used = Demand(used.cpus - asked.cpus, used.memory_bytes - asked.memory_bytes, used.gpus - asked.gpus)

    def take(self, now: float) -> list[Ticket]:
        """Return the jobs that start now; what they need is theirs."""
        taken = []
        while (ticket := self._next(now)) is not None:
            self.remove(ticket.uuid)
            self._give(ticket)
            taken.append(ticket)
        return taken

    def reason(self, uuid: str) -> str:
        """Return why a job waits: what it needs of how much, or whose turn it is."""
        demand = self._demands.get(uuid)
        if demand is None:
            return ""
        short = self._short(demand)
        if short == "cpus":
            return f"waits for {demand.cpus} of {self.cpus} cores"
        if short == "gpus":
            return f"waits for {demand.gpus} of {len(self.devices)} gpus"
        if short == "memory_bytes":
            return f"waits for {format_memory(demand.memory_bytes)} of {_readable(self.memory_bytes)} memory"
        blocked = self._demands.get(self._blocked or "")
        if blocked is not None and self._blocked != uuid:
            return f"waits behind `{self._waiting[blocked][self._blocked or ''].address}`, which has waited longer"
        return "starts now"

    def lines(self) -> Iterator[QueueLine]:
        """Return what runs, then what waits, in order."""
        for uuid, share in self.started.items():
            yield QueueLine(uuid, "running", "", share.ticket.demand)
        waiting = [ticket for line in self._waiting.values() for ticket in line.values()]
        for ticket in sorted(waiting, key=lambda item: item.number):
            yield QueueLine(ticket.uuid, "queued", self.reason(ticket.uuid), ticket.demand)
        for uuid, ticket in self._held.items():
            yield QueueLine(uuid, "held", HELD, ticket.demand)

    def used(self) -> Demand:
        """Return what started jobs hold together."""
        return self._used

    def _next(self, now: float) -> Ticket | None:
        heads = sorted(
            (next(iter(line.values())) for line in self._waiting.values() if line), key=lambda item: item.number
        )
        for ticket in heads:
            if not self._short(ticket.demand):
                return ticket
            if ticket is heads[0]:
                if self._blocked != ticket.uuid:
                    self._blocked, self._blocked_at = ticket.uuid, now
                if now - self._blocked_at >= PATIENCE_S:
                    return None
        return None

    def _short(self, asked: Demand) -> str:
        used = self._used
        if used.cpus + asked.cpus > self.cpus:
            return "cpus"
        if asked.gpus and used.gpus + asked.gpus > len(self.devices):
            return "gpus"
        if asked.memory_bytes and used.memory_bytes + asked.memory_bytes > self.memory_bytes:
            return "memory_bytes"
        return ""

    def _give(self, ticket: Ticket) -> None:
        asked, used = ticket.demand, self._used
        taken = {name for share in self.started.values() for name in share.devices} if asked.gpus else set()
        free = [name for name in self.devices if name not in taken]
        self.started[ticket.uuid] = Share(ticket, tuple(free[: asked.gpus]))
        self._used = Demand(used.cpus + asked.cpus, used.memory_bytes + asked.memory_bytes, used.gpus + asked.gpus)


def _readable(amount: int) -> str:
    return f"{amount / (1 << 30):.3g}GB" if amount >= 1 << 30 else f"{amount >> 20}MB"
