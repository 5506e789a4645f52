"""The pilot of a pool: keeps an allocation open on one node, and starts supervisors in it, one for each environment.

Owns the supervisors' lives and the one stream by which managers speak with all of them; knows nothing of steps, queues or
files of runs. Each line of the stream begins with the key of the supervisor it is for or from, ``-`` is the pilot itself
(see ``proxy/README.rst``). Managers come and go; the allocation's end, a request or SIGTERM ends the pilot and all below it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

from kale_proxy import children, places, procs
from kale_proxy.claim import pid_start
from kale_proxy.values import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

PROTOCOL = 1
ABANDONED_S = 3600.0  # without a manager and without steps for so long, nobody wants the allocation any more
_START_S = 90.0
_END_S = 6.0
_LINE_MAX = 64 << 20
_LOG_END = 4000
_OF_THE_ALLOCATION = ("SLURM_", "SLURMD_", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK", "TMPDIR")


def run(base: Path, walltime_s: float | None = None) -> int:
    """Be the pilot of this node until the end; return the exit code.

    Parameters
    ----------
    base : Path
        Of its folder, see :func:`kale_proxy.places.pilot_folder`; of a path that all managers of this user's home agree on.
    walltime_s : float, optional
        It ends by itself after so long, where no batch system ends it.
    """
    os.umask(0o077)
    for parent in (base.parent.parent, base.parent):
        places.private_dir(parent)
    folder = places.private_dir(places.pilot_folder(base, os.environ.get("SLURMD_NODENAME", "")))
    return asyncio.run(Pilot(folder, walltime_s).run())


class _Visit:
    """One manager's connection, and its streams to the supervisors."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.streams: dict[str, asyncio.StreamWriter] = {}

    def tell(self, message: dict[str, Any]) -> None:
        """Say something of our own."""
        self.writer.write(b"- " + json.dumps(message).encode() + b"\n")


class Pilot:
    """See the module.

    Parameters
    ----------
    folder : Path
        Its own (0700, on this node): the socket ``s``, and a folder for each supervisor.
    walltime_s : float or None
        See :func:`run`.
    """

    def __init__(self, folder: Path, walltime_s: float | None) -> None:
        self.folder = folder
        self._ends_at = None if walltime_s is None else time.time() + walltime_s
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._starting: dict[str, asyncio.Lock] = {}
        self._visits: set[_Visit] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()
        self._used_at = time.monotonic()

    async def run(self) -> int:
        """Serve until the end; return the exit code."""
        path = self.folder / "s"
        if await _answers(path):
            print(f"a pilot serves at {path} already", file=sys.stderr)
            return 1
        path.unlink(missing_ok=True)
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._over.set)
        server = await asyncio.start_unix_server(self._serve, path, limit=_LINE_MAX)
        info = {"pid": os.getpid(), "pid_start": pid_start(os.getpid()), "version": PROTOCOL, "ends_at": self._ends_at}
        write_atomic(self.folder / "pilot.json", json.dumps(info).encode())
        while not self._over.is_set() and not self._is_unwanted():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), self._patience())
        server.close()
        await self._end()
        places.remove_tree(self.folder)
        return 0

    def _patience(self) -> float:
        return 5.0 if self._ends_at is None else min(5.0, max(0.0, self._ends_at - time.time()))

    def _is_unwanted(self) -> bool:
        if self._ends_at is not None and time.time() >= self._ends_at:
            return True
        if self._visits or self._living():
            self._used_at = time.monotonic()
        return time.monotonic() - self._used_at > ABANDONED_S

    def _living(self) -> list[str]:
        return [key for key, process in self._processes.items() if process.returncode is None]

    # -- managers ------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("socket")
        if children.peer_uid(peer) != os.getuid():
            writer.close()
            return
        visit = _Visit(writer)
        self._visits.add(visit)
        living = self._living()
        visit.tell({"ev": "pilot", "version": PROTOCOL, "pid": os.getpid(), "host": socket.gethostname(), "keys": living, **allotment()})
        for key in living:
            self._spawn(self._join_or_tell(visit, key))
        try:
            while line := await reader.readline():
                await self._take(visit, line)
        except (OSError, ValueError):  # it hung up, or sent a line beyond all measure
            pass
        finally:
            self._visits.discard(visit)
            for stream in [*visit.streams.values(), writer]:
                stream.close()

    async def _take(self, visit: _Visit, line: bytes) -> None:
        key, _, body = line.partition(b" ")
        if key != b"-":
            stream = visit.streams.get(key.decode())
            if stream is None:
                visit.tell({"ev": "gone", "key": key.decode()})
            else:
                stream.write(body)
                await stream.drain()
            return
        message = json.loads(body)
        if message.get("op") == "open":
            self._spawn(self._open(visit, str(message["key"]), list(map(str, message["argv"])), dict(message["environ"])))
        elif message.get("op") == "end":
            self._over.set()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- supervisors ---------------------------------------------------------------------------

    async def _open(self, visit: _Visit, key: str, argv: list[str], environ: dict[str, str]) -> None:
        """Join a manager with a supervisor, which is started if it is not there."""
        async with self._starting.setdefault(key, asyncio.Lock()):
            deadline = time.monotonic() + _START_S
            pause, is_fresh = 0.002, False
            while key not in visit.streams:
                if await self._join(visit, key):
                    return
                process = self._processes.get(key)
                if process is None or (process.returncode is not None and not is_fresh):  # never started, or it had idled
                    try:
                        await self._start(key, argv, environ)
                    except OSError as exc:
                        visit.tell({"ev": "gone", "key": key, "code": 127, "log": f"{argv[0]} can't be started: {exc.strerror}"})
                        return
                    is_fresh = True
                elif process.returncode is not None or time.monotonic() > deadline:
                    visit.tell({"ev": "gone", "key": key, "code": process.returncode, "log": self._log_end(key)})
                    return
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, 0.05)

    async def _start(self, key: str, argv: list[str], environ: dict[str, str]) -> None:
        folder = self.folder / key
        folder.mkdir(mode=0o700, exist_ok=True)
        ours = {name: value for name, value in os.environ.items() if name.startswith(_OF_THE_ALLOCATION)}
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            self._processes[key] = await asyncio.create_subprocess_exec(
                *argv, os.fspath(folder), env={**environ, **ours}, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        finally:
            os.close(log)

    async def _join(self, visit: _Visit, key: str) -> bool:
        """Connect a manager to a supervisor; False if it does not answer."""
        try:
            reader, stream = await asyncio.open_unix_connection(self.folder / key / "s", limit=_LINE_MAX)
        except OSError:
            return False
        visit.streams[key] = stream
        self._spawn(self._forward(visit, key, reader, stream))
        return True

    async def _join_or_tell(self, visit: _Visit, key: str) -> None:
        if not await self._join(visit, key):
            visit.tell({"ev": "gone", "key": key})

    async def _forward(self, visit: _Visit, key: str, reader: asyncio.StreamReader, stream: asyncio.StreamWriter) -> None:
        prefix = key.encode() + b" "
        with contextlib.suppress(OSError, ValueError):
            while line := await reader.readline():
                visit.writer.write(prefix + line)
                await visit.writer.drain()
        stream.close()
        visit.streams.pop(key, None)
        if visit in self._visits:
            visit.tell({"ev": "gone", "key": key})

    def _log_end(self, key: str) -> str:
        try:
            return (self.folder / key / "log").read_text(encoding="utf-8", errors="replace")[-_LOG_END:]
        except OSError:
            return ""

    async def _end(self) -> None:
        """End the supervisors with their steps; what they say meanwhile still reaches the managers."""
        living = [self._processes[key] for key in self._living()]
        for process in living:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        if living:
            await asyncio.wait([asyncio.ensure_future(process.wait()) for process in living], timeout=_END_S)
        for process in living:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        await asyncio.sleep(0.05)
        for visit in list(self._visits):
            visit.writer.close()
        for task in list(self._tasks):
            task.cancel()


def allotment() -> dict[str, Any]:
    """Return what the allocation has of this node: cpus, memory_bytes, gpus (names for CUDA_VISIBLE_DEVICES); None where nothing says."""
    environ = os.environ
    limits = procs.cgroup_limits()
    cpus = environ.get("SLURM_CPUS_ON_NODE", "")
    memory = environ.get("SLURM_MEM_PER_NODE", "")
    gpus = environ.get("CUDA_VISIBLE_DEVICES", "") if "SLURM_JOB_ID" in environ else ""
    return {
        "cpus": int(cpus) if cpus.isdigit() else None,
        "memory_bytes": int(memory) << 20 if memory.isdigit() and int(memory) else limits.get("memory_bytes"),
        "gpus": [name for name in gpus.split(",") if name and name != "NoDevFiles"],
    }


async def _answers(path: Path) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return False
    writer.close()
    return True
