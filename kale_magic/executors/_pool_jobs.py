"""One job of a pool, and what is concluded from its folder when no supervisor speaks for it.

The files are the truth: a result counts; a claim without one is a job that is lost, once a network disk has had time to
show it; no claim is a job that never began and waits again.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kale_magic.errors import KaleError
from kale_magic.executors._fate import Fate, find_out
from kale_magic.model.run import Report, ReportKind
from kale_proxy import procs

if TYPE_CHECKING:
    from kale_magic.abc import Ticket
    from kale_magic.executors.pool import PoolExecutor
    from kale_proxy.spec import JobSpec

_MOST_TRIES = 3
_SHOW_UP_S = 10.0
_LOOK_S = 0.3
_GRACE_S = 2.0
_DOUBT_S = 2.0


@dataclass(slots=True)
class Job:
    """A job that was given to a node, or is to be. ``turn`` counts what has become known of it.

    ``node`` is None while it is not known; ``key`` is its supervisor's; ``is_sent`` says that the supervisor has it;
    ``over`` is why the allocation that it was given to has ended, if it has.
    """

    ticket: Ticket
    node: str | None = None
    key: str = ""
    is_sent: bool = False
    is_cancelled: bool = False
    is_running: bool = False
    over: str = ""
    turn: int = 0
    tries: int = 0


def cancelled_before(uuid: str) -> Report:
    """Return the report of a job that was cancelled and never began."""
    return Report(ReportKind.ENDED, uuid, {"state": "cancelled", "reason": "cancelled by you before it began"})


class Settler:
    """Looks into the folders of jobs, in the background.

    Parameters
    ----------
    pool : PoolExecutor
        Told what was found.
    show_up_s : float
        How late a file of another host may show.
    """

    def __init__(self, pool: PoolExecutor, show_up_s: float = _SHOW_UP_S) -> None:
        self._pool, self._show_up_s = pool, show_up_s

    def settle(self, job: Job, *, refusal: str = "") -> None:
        """Find out what became of a job that no supervisor knows, or that one refused for the reason ``refusal``."""
        job.turn += 1
        self._pool.spawn(self._settle(job, job.turn, refusal))

    async def _settle(self, job: Job, turn: int, refusal: str) -> None:
        deadline = time.monotonic() + self._show_up_s
        try:
            spec = job.ticket.spec()
        except KaleError as exc:  # the run was stored by another version of Kale
            self._pool.refuse(job, exc.message)
            return
        while True:
            found = await asyncio.to_thread(find_out, spec)
            if not self._pool.is_current(job, turn):
                return
            is_late = time.monotonic() > deadline
            if found.fate is Fate.OVER:
                self._pool.ended(job, found.data)
                return
            if found.fate is Fate.UNBORN and (is_late or not job.is_running):
                self._never_began(job, refusal)
                return
            if found.fate is Fate.ALIVE and not refusal:
                await end_tree(spec)  # nobody watches over it any more, and it is about to be tried again
            elif found.fate is Fate.GONE and is_late:
                self._pool.lose(job)
                return
            await asyncio.sleep(_LOOK_S)

    def doubt(self, job: Job, result: dict[str, Any]) -> None:
        """Find out whether what killed a job was the end of its allocation, which may be known a moment later."""
        job.turn += 1
        self._pool.spawn(self._doubt(job, job.turn, result))

    async def _doubt(self, job: Job, turn: int, result: dict[str, Any]) -> None:
        deadline = time.monotonic() + _DOUBT_S
        while self._pool.is_current(job, turn):
            if job.over:
                self._pool.lose(job)
            elif time.monotonic() > deadline and self._pool.is_joined(job):
                self._pool.finish(job, Report(ReportKind.ENDED, job.ticket.uuid, result))
            else:
                await asyncio.sleep(_LOOK_S)

    def _never_began(self, job: Job, refusal: str) -> None:
        job.tries += 1
        if refusal:
            self._pool.refuse(job, refusal)
        elif job.is_running:  # it was about to
            self._pool.lose(job)
        elif job.tries >= _MOST_TRIES:
            self._pool.refuse(job, f"it was handed over {job.tries} times and never began")
        else:
            self._pool.put_back(job)


async def end_tree(spec: JobSpec) -> None:
    """End the processes of a job on this host: SIGTERM, and SIGKILL after a grace."""
    pid = find_out(spec).data.get("pid")
    if not isinstance(pid, int):
        return
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(OSError):
            procs.send(procs.tree(pid, spec.uuid), signum)
        await asyncio.sleep(_GRACE_S if signum == signal.SIGTERM else 0)
