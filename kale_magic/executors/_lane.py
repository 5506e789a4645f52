"""A kernel that runs points of a sweep, and the sweep: what waits, what was given to whom. Reads and writes the step's folder."""

from __future__ import annotations

import contextlib
import json
import math
import os
import uuid as uuids
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_magic.abc import Ticket
from kale_proxy.pack import points_file, told_file
from kale_proxy.spec import PointSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kale_proxy.spec import JobSpec

GIVEN = "kernels.jsonl"  # which kernel was given which points
_AHEAD_S, _AHEAD_FAR_S = 0.4, 3.0  # so much work is handed to a kernel ahead
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
        self.count_begun = 0
        self.doubt: tuple[str, dict[str, Any]] | None = None  # uuid and result of a point that ended by what ended the kernel
        self.is_killed = False  # we asked for its end
        self.is_held = False  # in the batch system's queue
        self.wants = 1
        self._rate = 0.0
        self._at = 0
        self._ended_at = 0.0
        self.looked = 0.0  # when its file was read last
        self._rest = b""
        self._fd: int | None = None

    def unbegun(self) -> list[dict[str, Any]]:
        """Return the points that it was given and has not begun, as they are handed over."""
        return [asdict(self.group.point(ticket)) for uuid, ticket in self.backlog.items() if uuid != self.current]

    @property
    def has_begun(self) -> bool:
        """Whether it has begun any point."""
        return self.count_begun > 0

    def where(self) -> dict[str, Any]:
        """Return in which job of the batch system and on which node it runs, as far as that is known."""
        return {name: self.info[name] for name in ("native_id", "node") if self.info.get(name)}

    def tell(self, message: dict[str, Any]) -> None:
        """Leave it a message in a file, where nothing else leads to it (:func:`kale_proxy.pack.told_file`); raises OSError."""
        os.makedirs(self.group.folder, mode=0o700, exist_ok=True)
        fd = os.open(told_file(self.group.folder, self.number), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, json.dumps(message).encode() + b"\n")
        finally:
            os.close(fd)

    def read(self, moment: float) -> list[tuple[str, dict[str, Any]]]:
        """Return uuid and result of each point that has ended since the last look."""
        return self.absorb(*self.fetch(), moment)

    def fetch(self) -> tuple[int, bytes]:
        """Return what its file has beyond what was read, and where that begins; may be called in a thread."""
        at = self._at
        try:
            fd = self._open()
        except OSError:
            return at, b""
        data = b""
        try:
            while block := os.pread(fd, 1 << 20, at + len(data)):
                data += block
        finally:
            if fd != self._fd:
                os.close(fd)
        return at, data

    def _open(self) -> int:
        """Open its file: on another host's disk each time anew, since only that shows what was written there (NFS, close-to-open)."""
        if self._fd is not None:
            return self._fd
        fd = os.open(points_file(self.group.folder, self.number), os.O_RDONLY | os.O_CLOEXEC)
        if not self.group.is_far:
            self._fd = fd
        return fd

    def absorb(self, at: int, data: bytes, moment: float) -> list[tuple[str, dict[str, Any]]]:
        """Take up what :meth:`fetch` gave, unless it was taken up meanwhile; return uuid and result of each point that has ended."""
        if at != self._at:
            return []
        self.looked = moment
        self._at += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        ended = []
        for line in lines:
            record = _read(line)
            if "begin" in record:
                self.current, self.current_at = record["uuid"], record["at"]
                self.count_begun += 1
            elif "end" in record:
                if self.current == record["uuid"]:
                    self.current = ""
                ended.append((record["uuid"], record["result"]))
        if self._ended_at and ended:
            rate = len(ended) / max(moment - self._ended_at, 1e-3)
            self._rate = rate if not self._rate else self._rate + _SMOOTH * (rate - self._rate)
            self.wants = max(1, min(_MOST_AHEAD, math.ceil(self._rate * (_AHEAD_FAR_S if self.group.is_far else _AHEAD_S))))
        if ended or not self._ended_at:
            self._ended_at = moment
        return ended

    def close(self) -> None:
        """Let go of its file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _read(line: bytes) -> dict[str, Any]:
    """Return what a line says of the begin or end of a point; nothing of any other, nor of one that a full disk cut off."""
    if not line.startswith((b'{"begin"', b'{"end"')):
        return {}
    try:
        record: dict[str, Any] = json.loads(line)
    except ValueError:
        return {}
    return record


class Group:
    """One sweep: its points by where they are, and its kernels.

    Parameters
    ----------
    ticket : Ticket
        Any of its points.
    is_far : bool
        Its kernels run on other hosts.
    is_shared_out : bool
        Its kernels are given all their points when they are started.
    """

    def __init__(self, ticket: Ticket, *, is_far: bool = False, is_shared_out: bool = False) -> None:
        self.is_far, self._is_shared_out = is_far, is_shared_out
        self.key = (ticket.run, ticket.step)
        spec = ticket.spec()
        self.folder = os.path.dirname(spec.folder)
        self.base: JobSpec = replace(spec, params=_told_params(self.folder) or spec.params)
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
            uuid, first.run, name, first.number, first.demand, partial(self._spec, lane), first.environment, first.step, resources=first.resources,
            after=first.after,
        )  # fmt: skip
        return lane

    def _spec(self, lane: Lane) -> JobSpec:
        return replace(self.base, uuid=lane.uuid, point=None, attempt=1, folder=self.folder, env={}, lane=lane.number, points=lane.first, is_share=self._is_shared_out)

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

    def share(self, lane: Lane, most: int) -> tuple[list[str], list[Ticket]]:
        """Choose all the points that a kernel will ever get, of those that wait for the same steps; as :meth:`choose`.

        ``most`` kernels there may be: each that is yet to come gets as many. What was cut off before goes first, where it has most time.
        """
        after = lane.ticket.after
        there = [ticket for ticket in (*self.again.values(), *self.waiting.values()) if ticket.after == after]
        there.sort(key=lambda ticket: (-ticket.attempt, ticket.number))
        mine = there[:: max(1, most - len(self.lanes) + 1)]
        again = [self.again.pop(ticket.uuid) for ticket in mine if ticket.uuid in self.again]
        chosen = [ticket.uuid for ticket in mine if ticket.uuid in self.waiting]
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


def _told_params(folder: str) -> dict[str, str]:
    """Return the parameters that the kernels of an earlier life of the manager began with: what is told of points is what differs."""
    for path in sorted(Path(folder).glob("job*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return {str(name): str(text) for name, text in json.loads(path.read_bytes())["params"].items()}
    return {}


def _last_number(folder: str) -> int:
    numbers = [int(line["kernel"]) for line in _given(folder)]
    return max(numbers, default=0)
