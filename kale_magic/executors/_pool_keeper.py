"""Looks after the allocation of one pool: asks for it, finds it again, joins its nodes, notices its end, asks for another.

A step of it is one look: what the record says is wanted, what the place of the pilots says there is, and one deed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kale_magic.errors import SubmitError
from kale_magic.executors import _machine
from kale_magic.executors._pool_link import Link
from kale_magic.executors._pool_pilots import pilot_base
from kale_magic.executors._slurm_commands import NoAnswer
from kale_proxy.places import pilot_folder
from kale_proxy.tunnel.route import Route

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from kale_magic.config import Settings
    from kale_magic.executors._pool_pilots import Pilots, Sight
    from kale_magic.executors._pool_record import PoolBook
    from kale_magic.executors.pool import PoolExecutor

_log = logging.getLogger(__name__)
_SLOW_LOOK_S = 15.0
_LOCAL_LOOK_S = 0.2
_AT_REST_S = 60.0
_NODE_LOST_S = 30.0
_MOST_FRUITLESS = 3  # allocations in a row that ended without any step given to them


@dataclass(slots=True)
class _Apart:
    """A node that can't be joined: since when, when to try again, and whether it counts as gone."""

    since: float
    again_at: float = 0.0
    is_told: bool = False


class Keeper:
    """See the module.

    Parameters
    ----------
    pool : PoolExecutor
        Told of nodes and of the end.
    book : PoolBook
        Where the record is kept.
    pilots : Pilots
        Where the allocation comes from.
    settings : Settings
        Intervals and folders.
    """

    def __init__(self, pool: PoolExecutor, book: PoolBook, pilots: Pilots, settings: Settings) -> None:
        self._pool, self._book, self._pilots, self._settings = pool, book, pilots, settings
        self.links: dict[str, Link] = {}
        self.on_closed: Callable[[], object] = lambda: None
        self._nodes: tuple[str, ...] = ()
        self._apart: dict[str, _Apart] = {}  # nodes that no stream leads to
        self._ends_at: float | None = None
        self._words = ""
        self._end_words = ""
        self._fruitless = 0
        self._poked = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self._poll_s = settings.slurm_poll_s if pilots.is_far else _LOCAL_LOOK_S

    # -- life ------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Begin."""
        self.spawn(self._run())

    async def close(self) -> None:
        """Hang up, and end the background work."""
        self._is_closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for link in list(self.links.values()):
            link.close()
        await asyncio.sleep(0)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something in the background until it ends or :meth:`close`; a failure is logged."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("background work of pool %s failed", self._pool.record.name, exc_info=error)

    def poke(self) -> None:
        """Look soon."""
        self._poked.set()

    def poke_if_over(self) -> None:
        """Look soon if there is no allocation: there is work now."""
        if self._pool.record.is_over:
            self.poke()

    def worked(self) -> None:
        """Note that a step was given to the allocation, or ended in it."""
        self._fruitless = 0
        if self._pool.record.is_closing or self._pool.is_stuck():
            self.poke()

    # -- questions -------------------------------------------------------------------------------------------

    def left_s(self) -> float | None:
        """Return the seconds that the allocation has left; None if it has no end, or is not there."""
        return None if self._ends_at is None else max(0.0, self._ends_at - time.monotonic())

    def is_complete(self) -> bool:
        """Whether every node that does not count as gone is joined, and every supervisor there has said what it knows."""
        gone = {node for node, apart in self._apart.items() if apart.is_told}
        links = [self.links.get(node) for node in self._nodes if node not in gone]
        return bool(links) and all(link is not None and link.is_open and not link.expected for link in links)

    def default_cpus(self) -> int:
        """Return the cores of a node that does not say how many it has."""
        return self._pool.record.resources.cpus or (1 if self._pilots.is_far else self._settings.cpus or _machine.cores())

    def state(self) -> str:
        """Return ``waiting``, ``idle``, ``active``, ``draining``, ``ended`` or ``failed``."""
        record = self._pool.record
        if record.has_failed:
            return "failed"
        if record.is_over:
            return "ended"
        if record.is_closing:
            return "draining"
        if not any(link.is_open for link in self.links.values()):
            return "waiting"
        return "active" if self._pool.runs_any else "idle"

    def words(self) -> str:
        """Return why nothing can be started in it now."""
        record = self._pool.record
        if record.has_failed:
            return f"{record.words}. Open it again: %kale_pool open {record.name}, or cancel what waits: %kale_pool close {record.name} --now"
        if record.is_closing:
            return "closes when what was submitted to it has ended"
        if record.is_over:
            return f"{record.words}; another allocation is asked for when steps wait for it"
        return self._words or "is being submitted"

    # -- the allocation --------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Ask for an allocation under a new name; raises SubmitError and OSError."""
        record = self._pool.record
        record.pilot, record.native_id = self._book.new_pilot(), ""
        record.is_over, record.words, self._end_words, self._words = False, "", "", ""
        self._book.save(record)
        await self._submit()

    async def begin_again(self) -> None:
        """Ask for an allocation because a person has opened the pool again; raises as :meth:`begin`."""
        self._fruitless = 0
        try:
            await self.begin()
        except SubmitError as exc:
            self._over(exc.message.rstrip("."), is_failure=True)
            raise
        self.poke()

    async def _submit(self) -> None:
        record = self._pool.record
        record.native_id = await self._pilots.submit(record)
        self._book.save(record)

    async def end(self, words: str) -> None:
        """End the allocation with all that runs in it; ``words`` say why. Raises NoAnswer."""
        self._end_words = words
        for link in self.links.values():
            link.end()
        if self._pilots.is_far or not self.links:
            await self._pilots.end(self._pool.record)

    async def _run(self) -> None:
        while not self._is_closed:
            self._poked.clear()
            try:
                pause = await self._look()
            except (NoAnswer, SubmitError, OSError) as exc:
                self._words, pause = f"its state is not known now: {exc}", max(1.0, self._poll_s)
            except Exception as exc:  # the edge of the loop: a fault of ours in one look must not end all looking
                _log.exception("looking after pool %s failed", self._pool.record.name)
                self._words, pause = f"Kale failed to look after it: {exc}", _SLOW_LOOK_S
            if pause is None:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._poked.wait(), pause)

    async def _look(self) -> float | None:
        """Look once; return after how many seconds to look again, None if the pool is closed."""
        record = self._pool.record
        if record.is_over:
            return await self._look_without()
        sight = await self._pilots.look(record)
        if sight.native_id and sight.native_id != record.native_id:
            record.native_id = sight.native_id
            self._book.save(record)
        if sight.state == "gone":
            return await self._gone(sight.reason)
        self._words = sight.reason
        if record.is_closing and not self._pool.has_work and not self._pool.is_needed() and not self._end_words:
            await self.end("it was closed")
        if sight.state != "running":
            return self._poll_s
        self._ends_at = None if sight.left_s is None else time.monotonic() + sight.left_s
        await self._join(sight)
        if self._pool.is_stuck() and not self._end_words:
            await self.end("what waited for it did not fit into the time that was left")
            return self._poll_s
        is_at_rest = self.is_complete() and not record.is_closing and not self._end_words
        return _SLOW_LOOK_S if is_at_rest and self._pilots.is_far else max(self._poll_s, _LOCAL_LOOK_S)

    async def _look_without(self) -> float | None:
        """Decide whether another allocation is wanted."""
        record, pool = self._pool.record, self._pool
        if record.is_closing and not pool.has_work and not pool.is_needed():
            self.on_closed()
            return None
        if not pool.waits or record.has_failed:
            return self._poll_s if pool.has_work or record.is_closing else _AT_REST_S
        try:
            await self.begin()
        except SubmitError as exc:
            self._over(exc.message.rstrip("."), is_failure=True)
        return self._poll_s

    async def _gone(self, words: str) -> float:
        """Take the end of the allocation, or submit it again where it never was."""
        record = self._pool.record
        for link in list(self.links.values()):
            link.close()
        self.links.clear()
        self._apart.clear()
        self._nodes, self._ends_at = (), None
        self._fruitless += 1
        if not record.native_id and self._fruitless < _MOST_FRUITLESS and not record.is_closing:
            await self._submit()  # the manager was killed before, or the batch system forgot it
            return self._poll_s
        self._over(self._end_words or words, is_failure=self._fruitless >= _MOST_FRUITLESS)
        return 0.05

    def _over(self, words: str, *, is_failure: bool) -> None:
        record = self._pool.record
        record.is_over, record.has_failed, record.words = True, is_failure, words
        _log.info("pool %s: its allocation is over: %s", record.name, words)
        self._book.save(record)
        self._pool.pilot_is_over()

    # -- nodes -----------------------------------------------------------------------------------------------

    async def _join(self, sight: Sight) -> None:
        """Connect to the pilots of nodes to which no stream leads."""
        self._nodes = sight.nodes
        begun = time.monotonic()
        missing = [node for node in sight.nodes if node not in self.links and (node not in self._apart or self._apart[node].again_at <= begun)]
        if not missing:
            return
        self._words = f"starts on {', '.join(missing)}" if missing[0] else "its process starts"
        said = await asyncio.gather(*(self._connect(node) for node in missing))
        now = time.monotonic()
        for node, words in zip(missing, said, strict=True):
            if not words:
                self._apart.pop(node, None)
                continue
            apart = self._apart.setdefault(node, _Apart(now))
            apart.again_at = now + min((now - apart.since) / 4, _SLOW_LOOK_S)
            if now - apart.since > _NODE_LOST_S and not apart.is_told:
                _log.warning("pool %s: the pilot on %s can't be reached: %s", self._pool.record.name, node or "this machine", words)
                apart.is_told = True
                self._pool.node_is_over(node)
        if not self.links and not self._end_words and all(apart.is_told for apart in self._apart.values()):
            await self.end(f"its pilot could not be reached: {said[0]}")

    async def _connect(self, node: str) -> str:
        record = self._pool.record
        base = pilot_base(self._settings, record.pilot)
        route = Route(socket=str(pilot_folder(base, node) / "s"), node=node, job_id=record.native_id if node else "", python=record.python)
        link = self.links[node] = Link(node, self._pool)
        if words := await link.connect(route):
            self.links.pop(node, None)
            return words
        _log.info("pool %s: joined with %s by %s", record.name, node or "this machine", link.way)
        return ""

    def hung_up(self, link: Link) -> None:
        """Look soon what became of a node whose stream broke."""
        if self.links.get(link.node) is link:
            del self.links[link.node]
            self.poke()
