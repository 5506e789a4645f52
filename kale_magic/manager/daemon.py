"""The manager's process: takes the lock, opens store, executors and socket, and ends when nobody needs it.

The only module that names concrete classes. Started by the client as ``python -m kale_magic.manager.daemon
--detach``; its words go to ``manager.log``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

from kale_magic import config, protocol
from kale_magic._batchjob import LOOKS_EACH_S, BatchJob, is_over
from kale_magic.errors import KaleError, ManagerUnavailable
from kale_magic.executors import registry
from kale_magic.manager.batch_queue import BatchQueue
from kale_magic.manager.lock import ManagerLock
from kale_magic.manager.pools import Pools
from kale_magic.manager.requests import Requests
from kale_magic.manager.rest import Rest
from kale_magic.manager.server import Server
from kale_magic.manager.service import Service
from kale_magic.manager.store import SqliteStore
from kale_magic.model.events import iso
from kale_magic.version import __version__
from kale_proxy.spec import ContainerSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

_log = logging.getLogger("kale_magic.manager")
_LOG_MAX_BYTES = 4 << 20


class SystemClock:
    """The system's time."""

    def now(self) -> float:
        """Return seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()


class Daemon:
    """One manager from its first to its last moment.

    Parameters
    ----------
    settings : Settings
        Where it lives and how long it idles.
    job : BatchJob, optional
        The batch job in which it was started, and with which it ends.
    """

    def __init__(self, settings: config.Settings, job: BatchJob | None = None) -> None:
        self._settings, self._job = settings, job
        self._lock = ManagerLock(settings.state_dir, job)
        self._over = asyncio.Event()
        self._used_at = time.monotonic()

    async def run(self) -> None:
        """Serve until idle, asked to end, or signalled; raises ManagerUnavailable if another manager is there."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # before the lock: who finds it taken sends one
        try:
            self._lock.acquire()
        except ManagerUnavailable:
            self._lock.call_holder()
            raise
        try:
            await self._run()
        finally:
            self._lock.release()

    async def _run(self) -> None:
        settings, clock = self._settings, SystemClock()
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._over.set)
        store = SqliteStore(settings.database, keep_events=settings.keep_events)
        executors = {name: registry.create(name, settings, clock) for name in registry.names()}
        pools = Pools(settings, clock, executors)
        service = Service(store, executors, clock)
        service.site = ContainerSpec(image="", runtime=settings.container_runtime, binds=settings.container_bind)
        hello = protocol.Hello(
            protocol.PROTOCOL_VERSION, __version__, os.getpid(), socket.gethostname(), iso(clock.now())
        )
        about = {
            "pid": hello.pid,
            "host": hello.host,
            "version": hello.version,
            "address": str(settings.socket),
            "started_at": hello.started_at,
        }
        server = Server(service, Requests(service, about, settings.keys_dir, pools, {**Rest(executors).ops(), **BatchQueue(executors).ops()}), hello, self._over.set)
        reopenings: list[asyncio.Task[None]] = []
        try:
            await service.open()
            pools.serve(service)
            await server.open(settings.socket)
            loop.add_signal_handler(signal.SIGHUP, lambda: reopenings.append(loop.create_task(server.reopen())))
            self._write_record({**about, **self._lock.owner, "protocol": hello.protocol})
            _log.info("Kale %s serves at %s", __version__, settings.socket)
            await self._until_over(service, server, pools)
        finally:
            has_runs = bool(service.runs)
            await server.close()
            await pools.close()
            await service.close()
            with contextlib.suppress(OSError):
                if has_runs:  # steps may run on this host: the next manager is best here too
                    settings.manager_file.replace(settings.last_file)
                else:
                    settings.manager_file.unlink()
        _log.info("ended")

    async def _until_over(self, service: Service, server: Server, pools: Pools) -> None:
        """Wait for a request or signal to end, or for so long without a live run, an open pool and a client."""
        idle_s = self._settings.idle_stop_s
        each_s = max(0.05, min(idle_s / 4, LOOKS_EACH_S if self._job is not None else 30.0))
        self._used_at = time.monotonic()
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), each_s)
            if self._job is not None and await asyncio.to_thread(is_over, self._job):  # not every site ends what a job leaves
                _log.info("%s, in which it was started, is over", self._job)
                return
            if service.runs or server.client_count or pools.is_any_open:
                self._used_at = time.monotonic()
            elif time.monotonic() - self._used_at >= idle_s:
                _log.info("idle for %g s", idle_s)
                return

    def _write_record(self, record: dict[str, object]) -> None:
        path = self._settings.manager_file
        temporary = path.with_name(f".manager.json.{os.getpid()}")
        with open(
            os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w", encoding="utf-8"
        ) as file:
            json.dump(record, file)
        os.replace(temporary, path)
        self._settings.last_file.unlink(missing_ok=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the manager; returns the exit code: 0 ended as it should or another one is there, 1 could not serve."""
    parser = argparse.ArgumentParser(prog="python -m kale_magic.manager.daemon", description="Kale's manager.")
    parser.add_argument("--detach", action="store_true", help="go on in the background, in a session of its own")
    parser.add_argument("--job", type=json.loads, help="the batch job in which it is started, as JSON")
    options = parser.parse_args(argv)
    if options.detach and _detach():
        return 0
    os.umask(0o077)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(message)s", stream=sys.stderr
    )
    try:
        settings = config.load()
        _trim_log(settings)
        asyncio.run(_serve(settings, BatchJob.from_words(options.job)))
    except KaleError as exc:
        if isinstance(exc, ManagerUnavailable) and exc.transient:  # whoever started us will find the other one
            _log.info("not needed: %s", exc)
            return 0
        _log.error("gives up: %s", exc)
        return 1
    except Exception as exc:  # the edge of the process: the reason must reach the log and who waits for us
        _log.exception("gives up: %s: %s", type(exc).__name__, exc)
        return 1
    return 0


def _detach() -> bool:
    """Go on in a child with a session of its own; return True in the parent, which tells the child's pid."""
    if (pid := os.fork()) != 0:
        sys.stdout.write(f"{pid}\n")
        return True
    os.setsid()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # who started us reads the other end until it is closed
    return False


async def _serve(settings: config.Settings, job: BatchJob | None) -> None:
    await Daemon(settings, job).run()


def _trim_log(settings: config.Settings) -> None:
    """Keep the log within bounds; it is appended to by every manager."""
    with contextlib.suppress(OSError):
        if settings.log_file.stat().st_size > _LOG_MAX_BYTES:
            os.truncate(settings.log_file, 0)


if __name__ == "__main__":
    sys.exit(main())
