"""The jobs of the adapter and what submitter and watcher share: telling, background work, whether Slurm answers."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from kale_magic.model.events import iso

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from kale_magic.abc import Clock
    from kale_magic.executors._slurm_job import Job
    from kale_magic.model.run import Report

_log = logging.getLogger(__name__)


class Book:
    """See the module. ``jobs`` are in the order in which they came; ``down`` is since when Slurm does not answer, and its words."""

    def __init__(self, clock: Clock, system: str = "Slurm") -> None:
        self.clock, self.system = clock, system
        self.jobs: dict[str, Job] = {}
        self.stand_ins: dict[str, str] = {}  # what others wait for and is no job of its own -> the job that does it, empty: not known yet
        self.down: tuple[str, str] | None = None
        self.tell: Callable[[Report], None] = lambda _: None
        self.poke: Callable[[], None] = lambda: None
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.TimerHandle] = set()

    def finish(self, report: Report) -> None:
        """Forget a job and tell what became of it."""
        job = self.jobs.pop(report.uuid, None)
        if job is not None:
            self.tell(report)

    def job_for(self, uuid: str) -> Job | None:
        """Return the job that does what others wait for; None if that is over, or no job of ours."""
        return self.jobs.get(self.stand_ins.get(uuid, uuid))

    def is_ahead(self, uuid: str) -> bool:
        """Whether the job that will do it has yet to be made."""
        return self.stand_ins.get(uuid) == ""

    def set_down(self, words: str) -> None:
        """Note that Slurm does not answer."""
        if self.down is None:
            _log.warning("%s does not answer: %s", self.system, words)
            self.down = iso(self.clock.now())[11:19], words
        else:
            self.down = self.down[0], words

    def set_up(self) -> None:
        """Note that Slurm answers."""
        if self.down is not None:
            _log.info("%s answers again; it did not since %s", self.system, self.down[0])
            self.down = None

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something in the background until it ends or :meth:`close`; a failure is logged."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def later(self, delay_s: float, deed: Callable[[], object]) -> None:
        """Do something after a while."""
        self._timers = {timer for timer in self._timers if timer.when() > asyncio.get_running_loop().time() and not timer.cancelled()}
        self._timers.add(asyncio.get_running_loop().call_later(delay_s, deed))

    async def close(self) -> None:
        """End the background work."""
        for timer in self._timers:
            timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("background work of the executor for %s failed", self.system, exc_info=error)
