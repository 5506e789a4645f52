"""The pools of this manager: opens, lists and closes them, and takes up those of the manager before.

Each pool is an executor of its own, under the name ``pool:NAME``; what the allocation does is the executor's business.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from kale_magic import protocol
from kale_magic.errors import PoolError, SubmitError, UsageError
from kale_magic.executors._pool_pilots import LocalPilots, SlurmPilots
from kale_magic.executors._pool_record import PREFIX, PoolBook, PoolRecord
from kale_magic.executors._slurm_commands import Commands, NoAnswer
from kale_magic.executors.lanes import LaneExecutor
from kale_magic.executors.lanes import of_pool as lanes_of_pool
from kale_magic.executors.pool import PoolExecutor
from kale_magic.model.environment import clean_environment
from kale_magic.model.events import iso
from kale_magic.model.resources import Resources
from kale_magic.model.stepname import STEP_NAME

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from kale_magic.abc import Clock, Executor
    from kale_magic.config import Settings
    from kale_magic.executors._pool_pilots import Pilots
    from kale_magic.manager.service import Service

_log = logging.getLogger(__name__)
_SWEEP_AGAIN_S = 30.0


class Pools:
    """See the module.

    Parameters
    ----------
    settings : Settings
        Where the state folder is; intervals.
    clock : Clock
        The time.
    executors : dict of str to Executor
        The manager's, to which the pools' are added.
    """

    def __init__(self, settings: Settings, clock: Clock, executors: dict[str, Executor]) -> None:
        self._settings, self._clock, self._executors = settings, clock, executors
        self._book = PoolBook(settings.state_dir)
        self._places: dict[str, Pilots] = {
            "slurm": SlurmPilots(Commands(os.environ, settings.slurm_command_s), settings, self._book),
            "local": LocalPilots(settings),
        }
        self._opening = asyncio.Lock()
        self._sweeping: asyncio.Task[None] | None = None
        self._service: Service
        for record in self._book.load():
            if record.executor in self._places:
                executors[PREFIX + record.name] = self._lanes(self._make(record))

    def serve(self, service: Service) -> None:
        """Begin: a service that is open has runs which may need pools, and takes reports."""
        self._service = service
        self._sweeping = asyncio.get_running_loop().create_task(self._sweep())

    async def close(self) -> None:
        """End the background work."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)

    @property
    def is_any_open(self) -> bool:
        """Whether an allocation is there or asked for, so that the manager stays."""
        return any(not pool.record.is_over for pool in self._all())

    def _all(self) -> list[PoolExecutor]:
        found = [lanes.inner for lanes in self._executors.values() if isinstance(lanes, LaneExecutor)]
        return [pool for pool in found if isinstance(pool, PoolExecutor)]

    def _pool(self, name: str) -> PoolExecutor | None:
        return next((pool for pool in self._all() if pool.record.name == name), None)

    def _lanes(self, pool: PoolExecutor) -> LaneExecutor:
        lanes = lanes_of_pool(pool)
        lanes.wake = self._wake
        return lanes

    def _make(self, record: PoolRecord) -> PoolExecutor:
        pool = PoolExecutor(record, self._book, self._places[record.executor], self._settings, self._clock)
        pool.is_needed = lambda: self._is_needed(record.name)
        pool.keeper.on_closed = lambda: self._forget(pool)
        return pool

    def ops(self) -> dict[str, Callable[[dict[str, Any]], Awaitable[Any]]]:
        """Return what clients may ask, by the words of the protocol."""
        return {protocol.POOL_OPEN: self.open, protocol.POOL_LIST: self._list, protocol.POOL_CLOSE: self._close}

    async def _list(self, _: dict[str, Any]) -> list[dict[str, Any]]:
        return self.lines()

    async def _close(self, words: dict[str, Any]) -> dict[str, Any]:
        answer = await self.shut(str(words.get("name") or ""), is_now=bool(words.get("now")))
        await self._service.committed()
        return answer

    # -- requests --------------------------------------------------------------------------------------------

    async def open(self, words: Mapping[str, Any]) -> dict[str, Any]:
        """Open a pool, or open it again; return what :meth:`lines` says of it.

        Raises
        ------
        PoolError
            It is open, or the place for its allocation refuses it.
        UsageError
            A name or an amount is none.
        """
        record = self._record_of(words)
        async with self._opening:
            known = self._pool(record.name)
            if known is not None:
                if not known.record.is_over or known.record.is_closing:
                    raise PoolError(f"Pool {record.name} is {known.keeper.state()} already.", f"Close it first: %kale_pool close {record.name}")
                if known.record.executor != record.executor:
                    raise PoolError(f"Pool {record.name} was of executor {known.record.executor}.", f"Close it first: %kale_pool close {record.name}")
            try:
                await self._places[record.executor].check(record)
                pool = await self._open(record, known)
            except SubmitError as exc:
                raise PoolError(exc.message, exc.hint) from exc
            except OSError as exc:
                raise PoolError(f"Pool {record.name} can't be stored: {exc.strerror or exc} ({exc.filename}).") from exc
        return pool.describe()

    async def _open(self, record: PoolRecord, known: PoolExecutor | None) -> PoolExecutor:
        if known is not None:
            known.record = record
            await known.keeper.begin_again()
            return known
        pool = self._make(record)
        try:
            await pool.keeper.begin()
        except SubmitError:
            self._book.remove(record)
            raise
        lanes = self._executors[PREFIX + record.name] = self._lanes(pool)
        await lanes.open(self._service.report)
        return pool

    def lines(self) -> list[dict[str, Any]]:
        """Return every pool with its state, nodes, time left, and what runs in it."""
        return [pool.describe() for pool in self._all()]

    async def shut(self, name: str, *, is_now: bool) -> dict[str, Any]:
        """Close a pool once the steps that are submitted to it have ended; ``is_now``: cancel them first.

        Raises
        ------
        PoolError
            There is no such pool.
        """
        pool = self._pool(name)
        if pool is None:
            raise unknown(name, [other.record.name for other in self._all()])
        cancelled = self._cancel_all(name) if is_now else []
        pool.record.is_closing = True
        self._book.save(pool.record)
        pool.keeper.poke()
        return {**pool.describe(), "cancelled": cancelled}

    def _record_of(self, words: Mapping[str, Any]) -> PoolRecord:
        name, executor = words.get("name"), words.get("executor") or "slurm"
        if not isinstance(name, str) or not STEP_NAME.fullmatch(name):
            raise UsageError(f"{name!r} is no name of a pool.", "A name is a letter, then letters, digits, _ or -.")
        if executor not in self._places:
            raise PoolError(f"There are no pools of executor {executor!r}.", f"There are of: {', '.join(self._places)}.")
        same = [pool.record.name for pool in self._all() if pool.record.name != name and pool.record.name.casefold() == name.casefold()]
        if same:
            raise PoolError(f"Pool {name} differs from pool {same[0]} only in case.", "Choose another name.")
        environ, _ = clean_environment({str(key): str(value) for key, value in dict(words.get("environ") or os.environ).items()})
        python = str(words.get("python") or sys.executable)
        if not os.access(python, os.X_OK):
            raise UsageError(f"The interpreter of the pool, {python}, can't be run.")
        return PoolRecord(
            name=name, executor=executor, resources=_resources(words.get("resources") or {}), python=python, environ=environ,
            opened_at=iso(self._clock.now()), pilot="",
        )  # fmt: skip

    def _wake(self) -> None:
        self._service.wake()

    # -- what follows ----------------------------------------------------------------------------------------

    def _is_needed(self, name: str) -> bool:
        """Whether a step of a live run is to go into a pool and has not ended."""
        return any(self._live_steps(name))

    def _live_steps(self, name: str) -> list[tuple[Any, str]]:
        return [
            (run, step)
            for run in self._service.runs.values()
            for step, body in run.context.steps.items()
            if body.executor == PREFIX + name and not run.machine.state(step).is_final
        ]

    def _cancel_all(self, name: str) -> list[str]:
        return [f"{run.record.id}/{job}" for run, step in self._live_steps(name) for job in self._service.cancel(run, step, None)]

    def _forget(self, pool: PoolExecutor) -> None:
        self._executors.pop(PREFIX + pool.record.name, None)
        self._book.remove(pool.record)

    async def _sweep(self) -> None:
        """End allocations of this home that no pool knows: their manager was killed while it closed or replaced them."""
        await asyncio.gather(*(self._sweep_at(executor, place) for executor, place in self._places.items()))

    async def _sweep_at(self, executor: str, place: Pilots) -> None:
        def known() -> frozenset[str]:
            return frozenset(pool.record.job_name for pool in self._all())

        for is_last in (False, True):
            try:
                async with self._opening:  # one that is just being opened is not among ours yet
                    count = await place.sweep(known)
            except (NoAnswer, SubmitError) as exc:
                _log.info("leaked allocations of %s were not looked for: %s", executor, exc)
                if not is_last:
                    await asyncio.sleep(_SWEEP_AGAIN_S)
            else:
                if count:
                    _log.info("ended %d leaked allocations of %s", count, executor)
                return


def unknown(name: str, known: list[str]) -> PoolError:
    """Return the error for a pool that is not there."""
    there = f"Open: {', '.join(known)}." if known else f"Open it: %kale_pool open {name} --executor slurm"
    return PoolError(f"There is no pool {name!r}.", there)


def _resources(words: Mapping[str, Any]) -> Resources:
    known = {item.name for item in fields(Resources)}
    if extra := [name for name in words if name not in known]:
        raise UsageError(f"A pool can't ask for {extra[0]!r}.")
    asked: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in words.items()}
    return Resources(**asked)
