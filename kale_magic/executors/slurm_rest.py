"""Jobs of a Slurm cluster that is reached by its REST service alone: ``slurmrestd`` in the place of Slurm's commands.

All else is as in :mod:`kale_magic.executors.slurm`: the same protocol, the same job script, the same files on a disk that
this machine shares with the nodes. Only the way in which Slurm is spoken to is another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kale_magic.errors import SubmitError
from kale_magic.executors import slurm_json, slurm_text
from kale_magic.executors._slurm_commands import Answer, Limits, NoAnswer
from kale_magic.executors.rest_login import Authenticator, Refused, Silence, said
from kale_magic.executors.slurm import SlurmExecutor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kale_magic.abc import Clock
    from kale_magic.config import Settings
    from kale_magic.executors.slurm_text import Line
    from kale_magic.model.run import Demand
    from kale_magic.model.step import Step

NAME = "slurm-rest"
_AT_ONCE = 8  # requests
_HARMLESS = ("already", "Invalid job id", "not pending")


def create(settings: Settings, clock: Clock) -> RestExecutor:
    """Return the executor (the registry calls it)."""
    return RestExecutor(Authenticator(settings.keys_dir / "rest.json", settings.slurm_command_s), settings, clock)


class RestExecutor(SlurmExecutor):
    """See the module.

    Parameters
    ----------
    authenticator : Authenticator
        Whose login is used.
    settings : Settings
        Intervals, limits, and where keys are.
    clock : Clock
        The time.
    """

    can_freeze = False  # slurmrestd can't tell a job's worker from what it runs

    def __init__(self, authenticator: Authenticator, settings: Settings, clock: Clock) -> None:
        super().__init__(RestCommands(authenticator), settings, clock)
        self.authenticator = authenticator

    async def check(self, step: Step) -> Demand:
        """Do what every executor does, and refuse while there is no login."""
        try:
            self.authenticator.current()
        except Silence as exc:
            raise SubmitError(f"Executor {NAME}: {exc}") from None
        return await super().check(step)

    def look_again(self) -> None:
        """Ask anew what was not answered: there is another login."""
        self._probed.clear()
        self._book.set_up()
        self._book.spawn(self._learn())
        self._watcher.poke()

    async def _learn(self) -> None:
        with contextlib.suppress(NoAnswer):
            await self._submitter.learn()


class RestCommands:
    """What the executor asks of Slurm, by REST; see :class:`kale_magic.executors._slurm_commands.Slurm`."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._auth = authenticator
        self.took_s = 0.0

    async def squeue(self, *, is_all: bool = False) -> list[Line]:
        """Return this user's jobs, or everyone's, those that have ended a while ago too; raises NoAnswer."""
        begun = time.monotonic()
        found = await self._ask("GET", "/jobs")
        self.took_s = time.monotonic() - begun
        if not isinstance(found.get("jobs"), list):
            raise NoAnswer(f"slurmrestd listed no jobs: {said(found)}")
        user = self._auth.login.user if self._auth.login is not None else ""
        now = time.time()
        return [slurm_json.line_of(job, now) for job in found["jobs"] if is_all or job.get("user_name") == user]

    async def sacct(self, names: Sequence[str]) -> list[Line]:  # noqa: ARG002
        """Return nothing: the accounting is another service of slurmrestd, which not every site offers."""
        return []

    async def sbatch(self, path: str, environ: Mapping[str, str], after: str) -> Answer:
        """Submit a script; ``environ`` is the job's environment, ``after`` the value of ``--dependency`` or empty."""
        more = {"dependency": after, "kill_on_invalid_dependency": True} if after else {}
        try:
            script = await asyncio.to_thread(Path(path).read_text, "utf-8")
            number, words = await self._submit(script, environ, more)
        except SubmitError as exc:
            return Answer(refusal=exc.message)
        except OSError as exc:
            return Answer(refusal=f"{path} can't be read: {exc.strerror or exc}")
        except Refused as exc:
            return Answer(refusal=str(exc), is_full=slurm_text.is_full(str(exc)), words=str(exc))
        except Silence as exc:
            return Answer(words=str(exc))
        return Answer(number) if number else Answer(words=words or "slurmrestd gave no number")

    async def _submit(self, script: str, environ: Mapping[str, str], more: Mapping[str, Any]) -> tuple[str, str]:
        job = {**slurm_json.properties(script), "environment": dict(environ), **more}
        found = await self._auth.ask("POST", "/job/submit", {"script": script, "job": job})
        return str(found.get("job_id") or ""), said(found)

    async def probe(self, script: str) -> str:
        """Return why Slurm would not take a script, by a job that would begin in an hour and is cancelled at once.

        Raises
        ------
        SubmitError
            The script asks for what can't be asked by REST.
        """
        later = {"begin_time": "now+1hour", "name": "kale-probe", "standard_output": "/dev/null"}
        try:
            number, words = await self._submit(script, {"PATH": "/usr/bin:/bin"}, later)
            if number:
                await self.cancel([number])
        except Refused as exc:
            return "" if slurm_text.is_full(str(exc)) else str(exc)
        except (Silence, NoAnswer):
            return ""
        return words

    async def limits(self) -> Limits:
        """Return what the site allows; raises NoAnswer."""
        found = await self._ask("GET", "/partitions")
        version = ((found.get("meta") or {}).get("Slurm") or {}).get("release") or ""
        return Limits(version=str(version), walltimes=slurm_json.time_limits(found.get("partitions") or []))

    async def cancel(self, ids: Sequence[str]) -> None:
        """End jobs; raises NoAnswer. One that is over already is no fault."""
        await self._each("DELETE", [f"/job/{quote(native_id)}" for native_id in ids])

    async def signal(self, native_id: str, name: str, signal: str) -> None:  # noqa: ARG002 - there is no asking by name
        """Send a signal to all processes of a job; those that Kale sends, only its worker feels."""
        await self._each("DELETE", [f"/job/{native_id}?signal={signal}"])

    async def signal_steps(self, native_id: str, name: str, signal: str) -> None:
        """Do what :meth:`signal` does: slurmrestd knows no steps."""
        await self.signal(native_id, name, signal)

    async def hold(self, ids: Sequence[str], *, is_held: bool) -> None:
        """Hold or release jobs in the queue; raises NoAnswer."""
        await self._each("POST", [f"/job/{native_id}" for native_id in ids], {"hold": is_held})

    async def _each(self, method: str, paths: Sequence[str], body: dict[str, Any] | None = None) -> None:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(path: str) -> None:
            async with gate:
                await self._ask(method, path, body)

        await asyncio.gather(*map(one, paths))

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            return await self._auth.ask(method, path, body)
        except Silence as exc:
            raise NoAnswer(str(exc)) from exc
        except Refused as exc:
            if any(word in str(exc) for word in _HARMLESS):
                return {}
            raise NoAnswer(str(exc)) from exc
