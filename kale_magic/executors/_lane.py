"""A kernel that runs points of a sweep, and the sweep: what waits, what was given to whom. Reads and writes the step's folder."""

from __future__ import annotations

import json
import math
import os
import uuid as uuids
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_magic.abc import Ticket
from kale_proxy.pack import points_file
from kale_proxy.spec import PointSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kale_proxy.spec import JobSpec

GIVEN = "kernels.jsonl"  # which kernel was given which points
_AHEAD_S = 0.4  # so much work is handed to a kernel ahead
_MOST_AHEAD = 256
_MOST_BYTES = 60_000  # of one message: it must fit into a socket's buffer while the kernel is busy
_SMOOTH = 0.5


class Lane:
    """One kernel of a sweep, from the wish for it to its end."""

    def __init__(self, group: Group, number: int, uuid: str) -> None:
        self.group, self.number, self.uuid = group, number, uuid
        self.ticket: Ticket
        self.first: tuple[PointSpec, ...] = ()
        self.backlog: dict[str, Ticket] = {}  # given to it, and not over
        self.outbox: list[Ticket] = []  # to be given to it
        self.info: dict[str, Any] = {}
        self.is_taken = self.is_started = self.is_finishing = False
        self.current, self.current_at = "", ""
        self.told = ""  # the point of which it was told that it runs
        self.has_begun = False
        self.wants = 1
        self._rate = 0.0
        self._at = 0
        self._looked = 0.0
        self._rest = b""
        self._fd: int | None = None

    def unbegun(self) -> list[dict[str, Any]]:
        """Return the points that it was given and has not begun, as they are handed over."""
        return [asdict(self.group.point(ticket)) for uuid, ticket in self.backlog.items() if uuid != self.current]

    def read(self, moment: float) -> list[tuple[str, dict[str, Any]]]:
        """Return uuid and result of each point that has ended since the last look."""
        ended = []
        for line in self._lines():
            if line.startswith(b'{"begin"'):
                record = json.loads(line)
                self.current, self.current_at, self.has_begun = record["uuid"], record["at"], True
            elif line.startswith(b'{"end"'):
                record = json.loads(line)
                if self.current == record["uuid"]:
                    self.current = ""
                ended.append((record["uuid"], record["result"]))
        if self._looked and ended:
            rate = len(ended) / max(moment - self._looked, 1e-3)
            self._rate = rate if not self._rate else self._rate + _SMOOTH * (rate - self._rate)
            self.wants = max(1, min(_MOST_AHEAD, math.ceil(self._rate * _AHEAD_S)))
        if ended or not self._looked:
            self._looked = moment
        return ended

    def _lines(self) -> list[bytes]:
        if self._fd is None:
            try:
                self._fd = os.open(points_file(self.group.folder, self.number), os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return []
        data = b""
        while block := os.pread(self._fd, 1 << 20, self._at):
            data += block
            self._at += len(block)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines

    def close(self) -> None:
        """Let go of its file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class Group:
    """One sweep: its points by where they are, and its kernels."""

    def __init__(self, ticket: Ticket) -> None:
        self.key = (ticket.run, ticket.step)
        self.base: JobSpec = ticket.spec()
        self.sample = ticket
        self.folder = os.path.dirname(self.base.folder)
        self.tickets: dict[str, Ticket] = {}  # all that are not over
        self.waiting: dict[str, Ticket] = {}
        self.held: dict[str, Ticket] = {}
        self.again: dict[str, Ticket] = {}  # given to a kernel that is gone before it began them
        self.chosen: dict[str, Lane] = {}  # for a kernel, until that is stored
        self.refused: set[str] = set()
        self.refusal = ""  # why no kernel can be started
        self.lanes: dict[str, Lane] = {}
        self.asked: Lane | None = None  # that waits in the queue
        self._number = _last_number(self.folder)

    @property
    def count_up(self) -> int:
        """How many kernels there are."""
        return sum(lane.is_started for lane in self.lanes.values())

    def lane_of(self, uuid: str) -> Lane | None:
        """Return the kernel that was given a point."""
        return next((lane for lane in self.lanes.values() if uuid in lane.backlog), None)

    def new_lane(self) -> Lane:
        """Return the wish for one more kernel, in the place in the queue of the first point that waits."""
        self._number += 1
        first = next(iter(self.again.values()), None) or next(iter(self.waiting.values()))
        lane = self.asked = self._lane(self._number, uuids.uuid4().hex, first)
        return lane

    def _lane(self, number: int, uuid: str, first: Ticket) -> Lane:
        lane = self.lanes[uuid] = Lane(self, number, uuid)
        name = f"{first.step}, kernel {number}"
        lane.ticket = Ticket(
            uuid, first.run, name, first.number, first.demand, partial(self._spec, lane), first.environment, first.step, resources=first.resources
        )
        return lane

    def _spec(self, lane: Lane) -> JobSpec:
        return replace(self.base, uuid=lane.uuid, point=None, attempt=1, folder=self.folder, env={}, lane=lane.number, points=lane.first)

    def point(self, ticket: Ticket) -> PointSpec:
        """Return what a kernel is told of a point: what differs from the first one's."""
        spec = ticket.spec()
        assert spec.point is not None
        params = {name: text for name, text in spec.params.items() if self.base.params.get(name) != text}
        return PointSpec(point=spec.point, uuid=spec.uuid, attempt=spec.attempt, params=params, env=spec.env)

    def choose(self, lane: Lane) -> tuple[list[str], list[Ticket]]:
        """Choose points for a kernel: of those that wait, which are to be stored as intents, and of those given before."""
        there = len(lane.backlog) + len(lane.outbox) + sum(to is lane for to in self.chosen.values())
        share = math.ceil((len(self.waiting) + len(self.again)) / max(1, len(self.lanes)))
        room = min(lane.wants - there, share)
        again = [self.again.pop(uuid) for uuid in list(self.again)[: max(0, room)]]
        chosen: list[str] = []
        for uuid in self.waiting:
            if len(chosen) >= room - len(again):
                break
            chosen.append(uuid)
        for uuid in chosen:
            del self.waiting[uuid]
            self.chosen[uuid] = lane
        return chosen, again

    def give_up(self) -> list[str]:
        """Return the points that wait, since none can start."""
        found = list(self.waiting)
        self.waiting.clear()
        self.refused.update(found)
        return found

    def give(self, lane: Lane, tickets: list[Ticket]) -> list[dict[str, Any]]:
        """Write down that a kernel is given points, and return what it is told; raises OSError."""
        points = [self.point(ticket) for ticket in tickets]
        line = {"kernel": lane.number, "uuid": lane.uuid, "points": [point.uuid for point in points]}
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        fd = os.open(f"{self.folder}/{GIVEN}", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, json.dumps(line).encode() + b"\n")
        finally:
            os.close(fd)
        lane.backlog.update((ticket.uuid, ticket) for ticket in tickets)
        if not lane.is_started:
            lane.first = tuple(points)
        return [asdict(point) for point in points]

    def restore(self, tickets: Iterable[Ticket]) -> Iterator[Lane]:
        """Give the kernels of an earlier life of the manager, with what they were given of these points."""
        left = {ticket.uuid: ticket for ticket in tickets}
        owner: dict[str, tuple[int, str]] = {}
        for line in _given(self.folder):
            for uuid in line["points"]:
                if uuid in left:
                    owner[uuid] = (line["kernel"], line["uuid"])
        for number, lane_uuid in dict.fromkeys(owner.values()):
            mine = [left.pop(uuid) for uuid, of in owner.items() if of == (number, lane_uuid)]
            lane = self._lane(number, lane_uuid, mine[0])
            lane.is_taken = lane.is_started = True
            lane.backlog = {ticket.uuid: ticket for ticket in mine}
            lane.first = tuple(self.point(ticket) for ticket in mine)
            yield lane
        self.again.update(left)  # the manager died between intent and deed

    def part(self, lane: Lane) -> None:
        """Forget a kernel."""
        self.lanes.pop(lane.uuid, None)
        if self.asked is lane:
            self.asked = None


def _given(folder: str) -> Iterator[dict[str, Any]]:
    try:
        text = Path(folder, GIVEN).read_text(encoding="utf-8")
    except OSError:
        return
    for line in text.splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _last_number(folder: str) -> int:
    numbers = [int(line["kernel"]) for line in _given(folder)]
    return max(numbers, default=0)
