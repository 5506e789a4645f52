"""Sweeps whose points share warm kernels (``--reuse-kernel``), on this machine, in pools and as jobs of a batch system.

Each *lane* is one job of the executor below: a kernel that runs points one after another. A point is a job of the
manager's all the same, with its own state, attempts and result. Which lane was given which points is written into
``kernels.jsonl`` in the step's folder before it is; what became of them is read from the lane's own file
(:mod:`kale_proxy.pack`). So a manager that comes later finds out all of it, and what a dead lane had not begun is given
to another. The keepers do the work, see :mod:`kale_magic.executors._lane_keeper`; here is only whom a call is for.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kale_magic.abc import Executor
from kale_magic.executors import local, queues, slurm
from kale_magic.executors._lane_fed import FedKeeper
from kale_magic.executors._lane_shares import ShareKeeper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kale_magic.abc import Clock, QueueLine, Ticket
    from kale_magic.config import Settings
    from kale_magic.executors._lane_keeper import LaneKeeper
    from kale_magic.executors.pool import PoolExecutor
    from kale_magic.model.run import Demand, Report
    from kale_magic.model.step import Step


def create_local(settings: Settings, clock: Clock) -> LaneExecutor:
    """Return the executor of this machine (the registry calls it)."""
    return LaneExecutor(FedKeeper(local.create(settings, clock)))


def create_slurm(settings: Settings, clock: Clock) -> LaneExecutor:
    """Return the executor of this host's Slurm."""
    return LaneExecutor(ShareKeeper(slurm.create(settings, clock), settings.slurm_kernels))


def create_slurm_rest(settings: Settings, clock: Clock) -> LaneExecutor:
    """Return the executor of a Slurm that is reached by its REST service."""
    from kale_magic.executors import slurm_rest

    return LaneExecutor(ShareKeeper(slurm_rest.create(settings, clock), settings.slurm_kernels))


def create_pbs(settings: Settings, clock: Clock) -> LaneExecutor:
    """Return the executor of this host's PBS."""
    return LaneExecutor(ShareKeeper(queues.create_pbs(settings, clock), settings.slurm_kernels))


def create_lsf(settings: Settings, clock: Clock) -> LaneExecutor:
    """Return the executor of this host's LSF."""
    return LaneExecutor(ShareKeeper(queues.create_lsf(settings, clock), settings.slurm_kernels))


def create_flux(settings: Settings, clock: Clock) -> LaneExecutor:
    """Return the executor of this host's Flux."""
    return LaneExecutor(ShareKeeper(queues.create_flux(settings, clock), settings.slurm_kernels))


def of_pool(pool: PoolExecutor) -> LaneExecutor:
    """Return the executor of a pool."""
    return LaneExecutor(FedKeeper(pool, is_far=pool.outlives_host))


class LaneExecutor(Executor):
    """An executor that runs such sweeps in lanes, and hands on everything else; see :class:`kale_magic.abc.Executor`.

    Parameters
    ----------
    keeper : LaneKeeper
        Of the lanes, and of the executor in which these, and all other jobs, run.
    """

    shares_kernels = True

    def __init__(self, keeper: LaneKeeper) -> None:
        self.keeper, self.inner = keeper, keeper.inner
        inner = self.inner
        self.can_freeze, self.keeps_order, self.outlives_host = inner.can_freeze, inner.keeps_order, inner.outlives_host

    async def open(self, sink: Callable[[Report], None]) -> None:
        """Begin."""
        self.keeper.sink = sink
        self.keeper.wake = self.inner.wake = self.wake
        await self.inner.open(self.keeper.heard)

    async def close(self) -> None:
        """Let go; jobs go on."""
        await self.keeper.close()
        await self.inner.close()

    async def check(self, step: Step) -> Demand:
        """Return what each job of a step takes."""
        return await self.inner.check(step)

    # -- the queue ---------------------------------------------------------------------------------------

    def enqueue(self, ticket: Ticket) -> None:
        """Take a job into the queue."""
        if ticket.shares_kernel:
            self.keeper.add(ticket)
        else:
            self.inner.enqueue(ticket)

    def withdraw(self, uuid: str) -> None:
        """Take a job out of the queue."""
        (self.keeper if self.keeper.has(uuid) else self.inner).withdraw(uuid)

    def take(self) -> list[str]:
        """Return the jobs that start now."""
        return self.keeper.take()

    def start(self, uuid: str) -> None:
        """Start a taken job."""
        (self.keeper if self.keeper.has(uuid) else self.inner).start(uuid)

    def drop(self, uuid: str) -> None:
        """Give up a taken job."""
        (self.keeper if self.keeper.has(uuid) else self.inner).drop(uuid)

    def recover(self, tickets: Iterable[Ticket]) -> None:
        """Find out about jobs that may have been started in an earlier life."""
        known = list(tickets)
        others = [ticket for ticket in known if not ticket.shares_kernel]
        self.inner.recover([*self.keeper.recover(ticket for ticket in known if ticket.shares_kernel), *others])

    def hold(self, uuid: str) -> None:
        """Keep a waiting job from starting."""
        (self.keeper if self.keeper.has(uuid) else self.inner).hold(uuid)

    def release(self, uuid: str) -> None:
        """End the look at an interrupted job, or the hold of a waiting one."""
        (self.keeper if self.keeper.has(uuid) else self.inner).release(uuid)

    # -- started jobs ------------------------------------------------------------------------------------

    def cancel(self, uuid: str) -> None:
        """End a started job; of a lane's points only the one that is meant."""
        (self.keeper if self.keeper.has(uuid) else self.inner).cancel(uuid)

    def interrupt(self, uuid: str) -> None:
        """Interrupt a started job's code."""
        if (lane := self.keeper.lane_running(uuid)) is not None:
            self.keeper.stop(lane, uuid)
        elif not self.keeper.has(uuid):
            self.inner.interrupt(uuid)

    def freeze(self, uuid: str, *, is_on: bool) -> None:
        """Stop all processes of a started job, or let them go on; a point's are those of its kernel."""
        self.inner.freeze(self.kernel_of(uuid), is_on=is_on)

    # -- questions ---------------------------------------------------------------------------------------

    def kernel_of(self, uuid: str) -> str:
        """Return the job in whose kernel a job's code runs."""
        lane = self.keeper.lane_running(uuid)
        return uuid if lane is None else lane.uuid

    def script(self, ticket: Ticket) -> str:
        """Return the script by which a person can run the job; of a point, that of the kernel it would begin in."""
        if not ticket.shares_kernel:
            return self.inner.script(ticket)
        spec = ticket.spec()
        lane = replace(spec, point=None, folder=os.path.dirname(spec.folder), lane=1, is_share=self.keeper.is_shared_out)
        return self.inner.script(replace(ticket, spec=lambda: lane, point=None))

    async def survey(self, *, is_all: bool) -> list[dict[str, Any]]:
        """Return the batch system's own queue."""
        return await self.inner.survey(is_all=is_all)

    async def end(self, native_id: str) -> None:
        """End a job of this user's in it."""
        await self.inner.end(native_id)

    def reason(self, uuid: str) -> str:
        """Return why a queued job waits."""
        return (self.keeper if self.keeper.has(uuid) else self.inner).reason(uuid)

    def queue(self) -> list[QueueLine]:
        """Return what runs and what waits."""
        return self.keeper.queue()

    def describe(self) -> dict[str, Any]:
        """Return totals and what is in use."""
        return self.inner.describe()
