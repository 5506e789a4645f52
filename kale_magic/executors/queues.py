"""Jobs of PBS Professional, LSF and Flux: the protocol of the Slurm executor with other commands and another script.

Nothing is lost and nothing runs twice for the same reasons as there (:mod:`kale_magic.executors.slurm`): a job is known by a
name of its own, files in the step's folder are the truth, silence means nothing. The manager keeps the order of the steps and starts each
point of a sweep as a job. What differs between systems is a :class:`kale_magic.executors._dialect.Dialect`.

No library is between: psij-python 0.9.11 (the newest, of May 2025) was tried. It ends jobs that it did not hear of, stops at
an LSF job that has a reason, gives PBS no cores per task and no GPUs, and wants Flux's own Python.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from kale_magic.errors import SubmitError
from kale_magic.executors import _command, slurm_text
from kale_magic.executors._command import CommandMissing, Done
from kale_magic.executors._flux import Flux
from kale_magic.executors._lsf import Lsf
from kale_magic.executors._pbs import Pbs
from kale_magic.executors._slurm_batch import Batch, batches
from kale_magic.executors._slurm_commands import Answer, Commands, Limits, NoAnswer
from kale_magic.executors.slurm import SlurmExecutor
from kale_magic.executors.slurm_text import ScriptParts
from kale_magic.model.run import Demand

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kale_magic.abc import Clock, Environment, Ticket
    from kale_magic.config import Settings
    from kale_magic.executors._dialect import Dialect
    from kale_magic.executors.slurm_text import Line
    from kale_magic.model.step import Step

_CHUNK = 200
_SIGNALS = {"23": "URG", "28": "WINCH"}  # the numbers that the Slurm executor sends


def create_pbs(settings: Settings, clock: Clock) -> QueueExecutor:
    """Return the executor of this host's PBS Professional or OpenPBS."""
    return QueueExecutor(Pbs(), settings, clock)


def create_lsf(settings: Settings, clock: Clock) -> QueueExecutor:
    """Return the executor of this host's LSF."""
    return QueueExecutor(Lsf(), settings, clock)


def create_flux(settings: Settings, clock: Clock) -> QueueExecutor:
    """Return the executor of this host's Flux."""
    return QueueExecutor(Flux(), settings, clock)


class QueueCommands(Commands):
    """The commands of one system; parameters as :class:`kale_magic.executors._slurm_commands.Commands`."""

    def __init__(self, dialect: Dialect, environ: Mapping[str, str], command_s: float) -> None:
        super().__init__(environ, command_s)
        self._dialect = dialect
        self._where = {name: environ[name] for name in dialect.carried if name in environ}

    async def squeue(self, *, is_all: bool = False) -> list[Line]:
        """Return this user's jobs, or everyone's; raises NoAnswer."""
        user, dialect = "" if is_all else self._user, self._dialect
        if not (find := dialect.find(user)):
            done = await self._run(dialect.show((), user), self._command_s)
            self.took_s = done.took_s
            return self._read(done)
        done = await self._run(find, self._command_s)
        if dialect.learn(done.err):
            done = await self._run(dialect.find(user), self._command_s)
        is_doubtful = not done.is_ok or (bool(done.err.strip()) and not done.out.strip())  # OpenPBS complains with exit code 0
        if is_doubtful and not self._has(done, dialect.none):
            raise NoAnswer(self._words(find[0], done))
        ids, found, self.took_s = done.out.split(), list[slurm_text.Line](), done.took_s
        for start in range(0, len(ids), _CHUNK):
            done = await self._run(dialect.show(ids[start : start + _CHUNK], user), self._command_s)
            self.took_s += max(0.0, done.took_s - dialect.waits_s)
            found += self._read(done)
        return found

    def _read(self, done: Done) -> list[Line]:
        if self._has(done, self._dialect.none):
            return []
        if not done.is_ok and not done.out.strip():
            raise NoAnswer(self._words(self._dialect.show((), "")[0], done))
        try:
            return self._dialect.read_jobs(done.out)
        except ValueError as exc:
            raise NoAnswer(f"{self._dialect.system} printed what is not understood: {exc}") from exc

    async def sacct(self, names: Sequence[str]) -> list[Line]:  # noqa: ARG002
        """Return nothing: what the queue has forgotten is not asked for elsewhere."""
        return []

    async def sbatch(self, path: str, environ: Mapping[str, str], after: str) -> Answer:  # noqa: ARG002 - the manager keeps the order
        """Submit a script."""
        argv, is_input = self._dialect.submit(path)
        text = await asyncio.to_thread(Path(path).read_text, encoding="utf-8") if is_input else ""
        try:
            done = await _command.run(argv, timeout=self._command_s, environ={**environ, **self._where}, stdin=text)
        except CommandMissing as exc:
            return Answer(refusal=self._missing(exc).message)
        words = self._words(argv[0], done)
        if done.is_ok and (native_id := self._dialect.read_id(done.out)):
            return Answer(native_id)
        if done.code is None or not done.err.strip() or self._has(done, self._dialect.unsure):
            return Answer(words=words)
        return Answer(refusal=words, is_full=self._has(done, self._dialect.full), words=words)

    async def limits(self) -> Limits:
        """Return no limits but one: a submission is one job. Raises SubmitError if the system's programs are not here."""
        try:
            _command.require(self._dialect.program)
        except CommandMissing as exc:
            raise self._missing(exc) from exc
        return Limits(most_tasks=1)

    async def cancel(self, ids: Sequence[str]) -> None:
        """End jobs; raises NoAnswer."""
        for native_id in ids:
            await self._tell(self._dialect.cancel(native_id))

    async def signal(self, native_id: str, name: str, signal: str) -> None:  # noqa: ARG002
        """Send a signal to a job."""
        await self._tell(self._dialect.signal(native_id, _SIGNALS.get(signal, signal)))

    async def hold(self, ids: Sequence[str], *, is_held: bool) -> None:
        """Hold or release jobs; raises NoAnswer."""
        for native_id in ids:
            await self._tell(self._dialect.hold(native_id, is_held=is_held))

    async def _tell(self, argv: list[str]) -> None:
        done = await self._run(argv, self._command_s)
        if not done.is_ok and not self._has(done, self._dialect.over):
            raise NoAnswer(self._words(argv[0], done))

    async def _run(self, argv: Sequence[str], timeout: float, stdin: str = "") -> Done:
        try:
            return await _command.run(argv, timeout=timeout, environ=self._environ, stdin=stdin)
        except CommandMissing as exc:
            raise self._missing(exc) from exc

    def _has(self, done: Done, words: Sequence[str]) -> bool:
        low = done.err.lower()
        return not done.is_ok and any(word in low for word in words)

    def _words(self, name: str, done: Done) -> str:
        if done.code is None:
            return f"{name} did not end within {self._command_s:g} s"
        lines = [re.sub(rf"^{re.escape(name)}(?:[ -]\w+)?: ?(?:error: )?", "", line, flags=re.IGNORECASE).strip().rstrip(".") for line in done.err.splitlines()]
        return "; ".join(dict.fromkeys(filter(None, lines))) or f"{name} ended with exit code {done.code}"

    def _missing(self, exc: CommandMissing) -> SubmitError:
        return SubmitError(
            f"There is no program {exc} on {os.uname().nodename}, where the manager runs.",
            f"The executor needs the commands of {self._dialect.system}: work on a login host (%kale_workflow --host), or with another --executor.",
        )


class QueueExecutor(SlurmExecutor):
    """See the module, and :class:`kale_magic.abc.Executor` for what each method promises."""

    keeps_order = False
    can_freeze = False

    def __init__(self, dialect: Dialect, settings: Settings, clock: Clock) -> None:
        self.system, self._dialect = dialect.system, dialect
        super().__init__(QueueCommands(dialect, os.environ, settings.slurm_command_s), settings, clock)
        self._submitter.script_of = self._script_of

    async def check(self, step: Step) -> Demand:
        """Return what each job takes; refuse what can't be said to this system. Its own limits it says itself, when a job is submitted."""
        asked = step.resources
        await self._commands.limits()
        lines = [*asked.native, *self._own(step.code if step.kind == "script" else "")]
        if any(re.match(self._dialect.array, line) for line in lines):
            raise SubmitError(f"Step `{step.name}` asks for an array by a line of its own.", "Write a sweep instead: --each i=range(10).")
        if step.kind == "python" and (asked.ntasks or 1) > 1:
            raise SubmitError(f"Step `{step.name}` asks for {asked.ntasks} ranks of a Python cell, which only Slurm's srun starts.", "Write a --shell step that calls mpirun.")
        if words := self._dialect.lack(asked):
            raise SubmitError(f"Step `{step.name}` asks for {words.partition(':')[0]}.", words.partition(": ")[2].capitalize() + ".")
        return Demand(max(1, (asked.cpus or 1) * (asked.ntasks or 1)), asked.memory_bytes or 0, asked.gpus or 0)

    def script(self, ticket: Ticket) -> str:
        """Return the job script."""
        [batch] = batches([ticket], 1)
        return self._script_of(batch, ticket.environment())

    def freeze(self, uuid: str, *, is_on: bool) -> None:
        """Do nothing: ``can_freeze`` says so."""

    def _own(self, code: str) -> list[str]:
        """Return the directives of a batch script, which stand before its first command."""
        found, mark = [], self._dialect.mark.replace(" ", "")
        for line in code.splitlines():
            if line.replace(" ", "").startswith(mark):
                found.append(line.rstrip())
            elif line.strip() and not line.startswith("#"):
                break
        return found

    def _script_of(self, batch: Batch, environment: Environment) -> str:
        """Return the script: the directives, then what a Slurm job's has as well."""
        ticket, mark = batch.any_ticket, self._dialect.mark
        spec = ticket.spec()
        native = [line if line.startswith("#") else f"{mark} {line}" for line in ticket.resources.native]
        point = "" if spec.point is None else f"[{spec.point}]"
        own = slurm_text.file_name(spec, "job.sh")
        argv, is_input = self._dialect.submit(own)
        what = f"Step {spec.step}{point} of run {spec.run}, attempt {spec.attempt}" if spec.lane is None else slurm_text.lane_words(spec)
        head = [
            "#!/bin/bash",
            f"# {what}; written by Kale, to be submitted by: {' '.join(argv)}{f' < {own}' if is_input else ''}",
            *self._dialect.directives(ticket.resources, batch.name, f"{spec.folder}/{slurm_text.file_name(spec, 'job.log')}"),
            *native,
            *self._own(spec.code if spec.kind == "script" else ""),
            "",
            f"cd {shlex.quote(spec.cwd)} || exit 1",
            *([f"export {self._dialect.workdir}=$PWD"] if self._dialect.workdir else []),  # the manager submits from elsewhere
            f"folder={shlex.quote(spec.folder)}",
        ]
        return "\n".join([*head, *slurm_text.body(ScriptParts(batch.name, spec, environment, ticket.resources)), ""])
