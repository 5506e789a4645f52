"""Where the pilots of pools run: as batch jobs of Slurm, or as a process of this machine. How one is begun, seen, ended.

A pilot is known by its name, never by a number alone; one of an earlier manager of this home that no pool knows is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from kale_magic.errors import SubmitError
from kale_magic.executors import _machine, slurm_text
from kale_magic.executors._folder import write_private
from kale_magic.executors._pool_record import JOB_PREFIX
from kale_magic.executors._queue import LocalQueue
from kale_magic.model.step import Step
from kale_proxy.claim import pid_start
from kale_proxy.places import pilot_folder, private_dir

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kale_magic.config import Settings
    from kale_magic.executors._pool_record import PoolBook, PoolRecord
    from kale_magic.executors._slurm_commands import Commands
    from kale_magic.executors.slurm_text import Line

_BEGIN_S = 20.0
_SAME_LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class Sight:
    """What is known of a pilot: ``waiting``, ``running``, ``gone`` or ``unknown``, and why; the names of its nodes.

    ``left_s`` are the seconds that it has left, None if it has no end.
    """

    state: str
    reason: str = ""
    nodes: tuple[str, ...] = ()
    left_s: float | None = None
    native_id: str = ""


class Pilots(Protocol):
    """One place where pilots run."""

    is_far: bool  # whether they run on other hosts

    async def check(self, record: PoolRecord) -> None:
        """Refuse what can never be had; raises SubmitError."""

    async def submit(self, record: PoolRecord) -> str:
        """Begin a pilot; return its number if that is known at once. Raises SubmitError if there will be none."""

    async def look(self, record: PoolRecord) -> Sight:
        """Return what is known of a pilot; raises NoAnswer."""

    async def end(self, record: PoolRecord) -> None:
        """End a pilot with all that it runs; nothing happens if it is gone. Raises NoAnswer."""

    async def sweep(self, known: Callable[[], frozenset[str]]) -> int:
        """End the pilots of this home whose names ``known()`` has not; return how many there were. Raises NoAnswer."""


def pilot_base(settings: Settings, pilot: str) -> Path:
    """Return the base of a pilot's folders: short, as there are sockets in them."""
    return settings.socket_dir / "q" / pilot[:16]


class SlurmPilots:
    """Pilots that are batch jobs, on each node of which one process of ours runs.

    Parameters
    ----------
    commands : Commands
        How Slurm is spoken to.
    settings : Settings
        How long a job must be missing to count as gone, and where folders are.
    book : PoolBook
        Where their scripts and logs are.
    """

    is_far = True

    def __init__(self, commands: Commands, settings: Settings, book: PoolBook) -> None:
        self._commands, self._settings, self._book = commands, settings, book
        self._lines: list[Line] = []
        self._looked_at = 0.0
        self._looking = asyncio.Lock()
        self._missing: dict[str, tuple[int, float]] = {}  # pilot -> how often it was missing, since when

    async def check(self, record: PoolRecord) -> None:
        """Let Slurm say whether it would take the job."""
        if words := await self._commands.probe(slurm_text.probe_script(record.resources, "")):
            raise SubmitError(f"Pool {record.name} would be refused by Slurm: {words}.", "Change what it asks for; sinfo shows what there is.")

    async def submit(self, record: PoolRecord) -> str:
        """Run sbatch."""
        path = self._book.file(record.name, ".sh")
        base = pilot_base(self._settings, record.pilot)
        write_private(os.fspath(path), pilot_script(record, base, self._book.file(record.name, ".log")), 0o700)
        answer = await self._commands.sbatch(os.fspath(path), record.environ, "")
        if answer.refusal:
            raise SubmitError(f"Slurm refused pool {record.name}: {answer.refusal}.")
        return answer.native_id

    async def look(self, record: PoolRecord) -> Sight:
        """Find the job in Slurm's queue by its name."""
        line = await self._line(record.job_name)
        if line is None:
            count, since = self._missing.get(record.pilot, (0, time.monotonic()))
            self._missing[record.pilot] = count + 1, since
            is_gone = count >= 1 and time.monotonic() - since >= self._settings.slurm_grace_s
            return Sight("gone", "Slurm no longer knows its job") if is_gone else Sight("unknown", "is being submitted")
        self._missing.pop(record.pilot, None)
        if line.state in slurm_text.PENDING:
            return Sight("waiting", slurm_text.gloss(line, slurm_text.clock(line.starts_at)), native_id=line.job_id)
        if line.state == "RUNNING":
            return Sight("running", "", await self._nodes(line.node), slurm_text.read_time(line.time_left), line.job_id)
        if line.state in slurm_text.ALIVE:
            return Sight("unknown", f"its job is {line.state.lower()}", native_id=line.job_id)
        return Sight("gone", _ended_words(line), native_id=line.job_id)

    async def _line(self, name: str) -> Line | None:
        async with self._looking:  # one squeue for all pools
            if time.monotonic() - self._looked_at > _SAME_LOOK_S:
                self._lines = await self._commands.squeue()
                self._looked_at = time.monotonic()
        ours = [line for line in self._lines if line.name == name]
        living = sorted((line for line in ours if line.state in slurm_text.PENDING | slurm_text.ALIVE), key=lambda line: int(line.job_id))
        if len(living) > 1:  # sbatch was run twice, as its first answer did not come
            await self._commands.cancel([line.job_id for line in living[1:]])
        return living[0] if living else max(ours, key=lambda line: int(line.job_id), default=None)

    async def _nodes(self, names: str) -> tuple[str, ...]:
        if not any(sign in names for sign in "[,"):
            return (names,)
        return await self._commands.hostnames(names)

    async def end(self, record: PoolRecord) -> None:
        """Run scancel."""
        self._looked_at = 0.0
        line = await self._line(record.job_name)
        if line is not None and line.state in slurm_text.PENDING | slurm_text.ALIVE:
            await self._commands.cancel([line.job_id])
        self._looked_at = 0.0

    async def sweep(self, known: Callable[[], frozenset[str]]) -> int:
        """Cancel jobs whose names say that they are of this home."""
        if shutil.which("squeue") is None:
            return 0
        mine = JOB_PREFIX + self._book.tag
        lines = await self._commands.squeue()
        names = known()  # asked now: one may have been submitted meanwhile
        leaked = [
            line.job_id for line in lines
            if line.name.startswith(mine) and line.name not in names and line.state in slurm_text.PENDING | slurm_text.ALIVE
        ]  # fmt: skip
        if leaked:
            await self._commands.cancel(leaked)
        return len(leaked)


def pilot_script(record: PoolRecord, base: Path, log: Path) -> str:
    """Return the job script of a pilot: on one node it is the job itself, on several one process on each."""
    command = f"{shlex.quote(record.python)} -m kale_proxy pilot --dir {shlex.quote(os.fspath(base))}"
    nodes = record.resources.nodes or 1
    lines = [
        "#!/bin/bash",
        f"# Pool {record.name}, kept open by Kale: steps go into it without queueing. Close it by: jupyter kale pool close {record.name}",
        *slurm_text.directives(record.resources),
        f"#SBATCH --job-name={record.job_name}",
        f"#SBATCH --comment=kale-pool-{record.name}",
        f'#SBATCH --output="{os.fspath(log).replace("%", "%%")}"',
        "#SBATCH --chdir=/",
        "#SBATCH --no-requeue",
    ]
    if nodes > 1:
        lines.append("#SBATCH --ntasks-per-node=1")
        spread = f"srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --overlap --mpi=none --kill-on-bad-exit=0"
        command = f'{spread} --cpus-per-task="${{SLURM_CPUS_PER_TASK:-1}}" {command}'
    return "\n".join([*lines, "", f"exec {command}", ""])


def _ended_words(line: Line) -> str:
    words = {
        "TIMEOUT": "its walltime was reached",
        "CANCELLED": "its batch job was cancelled (scancel, or an administrator)",
        "COMPLETED": "its pilot ended",
        "FAILED": "its pilot was killed or could not start",
    }
    return words.get(line.state) or slurm_text.lost_words(line.state) or f"Slurm says {line.state}"


class LocalPilots:
    """A pilot that is a process of this machine, in a session of its own: for trying, and where there is no batch system."""

    is_far = False

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._begun: dict[str, float] = {}
        self._children: dict[str, int] = {}
        self._ends: dict[str, float] = {}

    async def check(self, record: PoolRecord) -> None:
        """Refuse what this machine does not have."""
        settings = self._settings
        there = LocalQueue(settings.cpus or _machine.cores(), settings.memory_bytes or _machine.memory_bytes())
        try:
            there.demand(Step(name=record.name, code="", resources=record.resources))
        except SubmitError as exc:
            raise SubmitError(exc.message.replace(f"Step `{record.name}`", f"Pool {record.name}").replace("local executor", "executor local"), exc.hint) from exc

    async def submit(self, record: PoolRecord) -> str:
        """Start the process."""
        base = pilot_base(self._settings, record.pilot)
        private_dir(base.parent)
        argv = [record.python, "-m", "kale_proxy", "pilot", "--dir", os.fspath(base)]
        if record.resources.walltime_s:
            argv += ["--walltime", str(record.resources.walltime_s)]
        self._begun[record.pilot] = time.monotonic()
        log = os.fspath(base) + ".log"
        try:
            self._children[record.pilot] = os.posix_spawn(  # noqa: ASYNC221 - returns at once; a Popen would expect to see its end
                argv[0],
                argv,
                record.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=True,
                setsigdef=[signal.SIGPIPE, signal.SIGINT],
            )
        except OSError as exc:
            raise SubmitError(f"The pilot of pool {record.name} can't be started: {exc.strerror} ({record.python}).") from exc
        return str(self._children[record.pilot])

    async def look(self, record: PoolRecord) -> Sight:
        """Read what the process has written of itself."""
        self._reap(record.pilot)
        info = _read_info(pilot_folder(pilot_base(self._settings, record.pilot), ""))
        if info is None:
            waited = time.monotonic() - self._begun.setdefault(record.pilot, time.monotonic())
            is_ours = record.pilot in self._children
            if (is_ours or not record.native_id) and waited < _BEGIN_S:
                return Sight("waiting", "its process starts")
            return Sight("gone", self._ended_words(record) or "its process ended")
        pid = int(info["pid"])
        if info.get("ends_at") is not None:
            self._ends[record.pilot] = float(info["ends_at"])
        if pid_start(pid) != info.get("pid_start"):
            return Sight("gone", self._ended_words(record) or f"its process (pid {pid}) is gone")
        ends_at = self._ends.get(record.pilot)
        left = None if ends_at is None else max(0.0, ends_at - time.time())
        return Sight("running", "", ("",), left, str(pid))

    async def end(self, record: PoolRecord) -> None:
        """Send SIGTERM, also to a process of ours that has only just begun and has said nothing yet."""
        info = _read_info(pilot_folder(pilot_base(self._settings, record.pilot), ""))
        self._reap(record.pilot)
        pid = self._children.get(record.pilot) if info is None else int(info["pid"])
        if pid is not None and (info is None or pid_start(pid) == info.get("pid_start")):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGTERM)

    async def sweep(self, known: Callable[[], frozenset[str]]) -> int:
        """End pilots whose folders are there and belong to no pool."""
        bases = {pilot_base(self._settings, name.removeprefix(JOB_PREFIX)).name for name in known()}
        count = 0
        for path in (self._settings.socket_dir / "q").glob("*/pilot.json"):
            info = _read_info(path.parent)
            if path.parent.name.rpartition("-")[0] in bases or info is None:
                continue
            if pid_start(int(info["pid"])) == info.get("pid_start"):
                count += 1
                with contextlib.suppress(OSError):
                    os.kill(int(info["pid"]), signal.SIGTERM)
        return count

    def _ended_words(self, record: PoolRecord) -> str:
        ends_at = self._ends.get(record.pilot)
        return "its walltime was reached" if ends_at is not None and time.time() >= ends_at else ""

    def _reap(self, pilot: str) -> None:
        """Take the exit status of a process that we started, and forget it then."""
        if (pid := self._children.get(pilot)) is None:
            return
        try:
            done, _ = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            done = pid
        if done:
            del self._children[pilot]
            self._begun[pilot] = float("-inf")


def _read_info(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / "pilot.json").read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("pid"), int) else None

