"""Slurm's commands: what is asked, with which deadline, and what an answer means. Nothing is concluded from silence."""

from __future__ import annotations

import asyncio
import os
import pwd
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kale_magic.errors import SubmitError
from kale_magic.executors import _command, slurm_text
from kale_magic.executors._command import CommandMissing, Done

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_CHUNK = 200
_ACCOUNTED = "now-60days"  # sacct looks at today alone if it is not told


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an sbatch: the job's number, or a refusal for good, or neither: then it is not known."""

    native_id: str = ""
    refusal: str = ""
    is_full: bool = False
    words: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the site allows: numbers in an array, and the longest walltime of each partition in seconds."""

    version: str = ""
    most_tasks: int = 1001
    walltimes: Mapping[str, int | None] | None = None


class NoAnswer(Exception):  # noqa: N818 - a state of the system
    """Slurm did not answer; the message has its words."""


class Slurm(Protocol):
    """What the executor asks of Slurm, by its commands or by its REST service; see :class:`Commands` for each."""

    took_s: float

    async def squeue(self, *, is_all: bool = False) -> list[slurm_text.Line]:
        """Return this user's jobs, or everyone's."""

    async def sacct(self, names: Sequence[str]) -> list[slurm_text.Line]:
        """Return what the site's accounting keeps of jobs of these names; empty where it can't be asked."""

    async def sbatch(self, path: str, environ: Mapping[str, str], after: str) -> Answer:
        """Submit a script."""

    async def probe(self, script: str) -> str:
        """Return why Slurm would not take a script."""

    async def limits(self) -> Limits:
        """Return what the site allows."""

    async def cancel(self, ids: Sequence[str]) -> None:
        """End jobs."""

    async def signal(self, native_id: str, name: str, signal: str) -> None:
        """Send a signal to a job's worker."""

    async def signal_steps(self, native_id: str, name: str, signal: str) -> None:
        """Send a signal to what ``srun`` started in a job."""

    async def hold(self, ids: Sequence[str], *, is_held: bool) -> None:
        """Hold or release jobs in the queue."""


class Commands:
    """See the module.

    Parameters
    ----------
    environ : mapping of str to str
        Of this process; variables of a job that it may be in are left out.
    command_s : float
        How long a command may take.
    """

    def __init__(self, environ: Mapping[str, str], command_s: float) -> None:
        self._command_s = command_s
        kept = {name: value for name, value in environ.items() if name == "SLURM_CONF" or not name.startswith(("SLURM_", "SBATCH_", "SQUEUE_"))}
        self._environ = {**kept, "LC_ALL": "C", "SLURM_TIME_FORMAT": "%s"}
        self._conf = environ.get("SLURM_CONF")
        self._user = pwd.getpwuid(os.getuid()).pw_name
        self._has_no_accounting = False
        self.took_s = 0.0

    async def squeue(self, *, is_all: bool = False) -> list[slurm_text.Line]:
        """Return this user's jobs, or everyone's, those that have ended a while ago too; raises NoAnswer."""
        whose = [] if is_all else [f"--user={self._user}"]
        states = [] if is_all else ["--states=all"]
        done = await self._run(["squeue", "--noheader", f"--format={slurm_text.SQUEUE_FORMAT}", *whose, *states], self._command_s)
        self.took_s = done.took_s
        if not done.is_ok:
            raise NoAnswer(_words("squeue", done, self._command_s))
        try:
            return slurm_text.read_squeue(done.out)
        except ValueError as exc:
            raise NoAnswer(f"squeue printed what is not understood: {exc}") from exc

    async def sacct(self, names: Sequence[str]) -> list[slurm_text.Line]:
        """Return what the site's accounting keeps of jobs of these names; empty where there is none, or it does not answer.

        By names, as a number may be that of another job by now, or may never have been heard.
        """
        if self._has_no_accounting:
            return []
        found = []
        argv = ["sacct", "--noheader", "--parsable2", "--allocations", f"--format={slurm_text.SACCT_FORMAT}", f"--starttime={_ACCOUNTED}"]
        for start in range(0, len(names), _CHUNK):
            try:
                done = await self._run([*argv, f"--name={','.join(names[start : start + _CHUNK])}"], self._command_s)
            except SubmitError:  # not installed
                self._has_no_accounting = True
                return []
            self._has_no_accounting = "accounting storage is disabled" in done.err
            if not done.is_ok:
                return []
            found += slurm_text.read_sacct(done.out)
        return found

    async def sbatch(self, path: str, environ: Mapping[str, str], after: str) -> Answer:
        """Submit a script; ``environ`` is the job's environment, ``after`` the value of ``--dependency`` or empty."""
        argv = ["sbatch", "--parsable", "--export=ALL"]
        if after:
            argv += [f"--dependency={after}", "--kill-on-invalid-dep=yes"]
        where = {"SLURM_CONF": self._conf} if self._conf else {}
        try:
            done = await _command.run([*argv, path], timeout=self._command_s, environ={**environ, **where})
        except CommandMissing as exc:
            return Answer(refusal=_missing(exc).message)
        words = slurm_text.said(done.err) or _words("sbatch", done, self._command_s)
        if done.is_ok and (native_id := slurm_text.read_sbatch(done.out)):
            return Answer(native_id)
        if done.code is None or slurm_text.is_unsure(done.err):
            return Answer(words=words)
        return Answer(refusal=words, is_full=slurm_text.is_full(done.err), words=words)

    async def probe(self, script: str) -> str:
        """Return why Slurm would not take a script, in its own words; empty if it would, or does not answer.

        Raises
        ------
        SubmitError
            There is no sbatch here.
        """
        try:
            done = await self._run(["sbatch", "--test-only"], self._command_s, stdin=script)
        except NoAnswer:
            return ""
        if done.is_ok or done.code is None or slurm_text.is_unsure(done.err) or slurm_text.is_full(done.err):
            return ""
        words = slurm_text.said(done.err)
        return words if "node configuration" not in words else await self._probe_later(script)

    async def _probe_later(self, script: str) -> str:
        """Do what :meth:`probe` does by a job that would begin in an hour, and is cancelled at once.

        ``--test-only`` gives the same answer for what the cluster never has and for nodes that are drained today; and a held job is not looked at.
        """
        argv = ["sbatch", "--parsable", "--begin=now+1hour", "--job-name=kale-probe", "--output=/dev/null"]
        try:
            done = await self._run(argv, self._command_s, stdin=script)
            if done.is_ok and (native_id := slurm_text.read_sbatch(done.out)):
                await self.cancel([native_id])
        except NoAnswer:
            return ""
        return "" if done.is_ok or done.code is None or slurm_text.is_unsure(done.err) else slurm_text.said(done.err)

    async def limits(self) -> Limits:
        """Return what the site allows; raises NoAnswer."""
        config, sinfo = await asyncio.gather(
            self._run(["scontrol", "show", "config"], self._command_s), self._run(["sinfo", "--noheader", "--format=%P|%l"], self._command_s)
        )
        if not config.is_ok:
            raise NoAnswer(_words("scontrol", config, self._command_s))
        pairs = dict(line.partition("=")[::2] for line in config.out.splitlines() if "=" in line)
        known = {name.strip(): value.strip() for name, value in pairs.items()}
        most = known.get("MaxArraySize", "")
        return Limits(
            known.get("SLURM_VERSION", ""),
            int(most) if most.isdigit() else 1001,
            slurm_text.read_time_limits(sinfo.out) if sinfo.is_ok else None,
        )

    async def hostnames(self, names: str) -> tuple[str, ...]:
        """Return the nodes of ``node[1-3],other``; raises NoAnswer."""
        done = await self._run(["scontrol", "show", "hostnames", names], self._command_s)
        if not done.is_ok:
            raise NoAnswer(_words("scontrol", done, self._command_s))
        return tuple(done.out.split())

    async def cancel(self, ids: Sequence[str]) -> None:
        """End jobs; raises NoAnswer. One that is over already is no fault."""
        await self._each(["scancel"], ids, "already|Invalid job id")

    async def signal(self, native_id: str, name: str, signal: str) -> None:
        """Send a signal to a job's worker, if the number is still that of the job of this name."""
        await self._run(["scancel", "--batch", f"--signal={signal}", f"--name={name}", native_id], self._command_s)

    async def signal_steps(self, native_id: str, name: str, signal: str) -> None:
        """Send a signal to what ``srun`` started in a job, on all its nodes, and not to its worker."""
        await self._run(["scancel", f"--signal={signal}", f"--name={name}", native_id], self._command_s)

    async def hold(self, ids: Sequence[str], *, is_held: bool) -> None:
        """Hold or release jobs in the queue; raises NoAnswer."""
        for start in range(0, len(ids), _CHUNK):
            numbers = ",".join(ids[start : start + _CHUNK])
            await self._each(["scontrol", "uhold" if is_held else "release"], [numbers], "Invalid job|not pending|already")

    async def _each(self, argv: Sequence[str], ids: Sequence[str], harmless: str) -> None:
        for start in range(0, len(ids), _CHUNK):
            done = await self._run([*argv, *ids[start : start + _CHUNK]], self._command_s)
            lines = [line for line in done.err.splitlines() if not any(word in line for word in harmless.split("|"))]
            if done.code is None or (not done.is_ok and lines and slurm_text.is_unsure(done.err)):
                raise NoAnswer(_words(argv[0], done, self._command_s))

    async def _run(self, argv: Sequence[str], timeout: float, stdin: str = "") -> Done:
        try:
            return await _command.run(argv, timeout=timeout, environ=self._environ, stdin=stdin)
        except CommandMissing as exc:
            raise _missing(exc) from exc


def _missing(exc: CommandMissing) -> SubmitError:
    return SubmitError(
        f"There is no program {exc} on {os.uname().nodename}, where the manager runs.",
        "Executor slurm needs Slurm's commands: work on a login host (%kale_workflow --host), by its REST service (--executor slurm-rest), or with --executor local.",
    )


def _words(name: str, done: Done, limit: float) -> str:
    if done.code is None:
        return f"{name} did not end within {limit:g} s"
    return slurm_text.said(done.err) or f"{name} ended with exit code {done.code}"
