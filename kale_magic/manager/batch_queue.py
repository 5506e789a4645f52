"""The batch systems' own queues, as clients ask for them: everyone's jobs, and the end of one that is not Kale's."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Any

from kale_magic import protocol
from kale_magic.errors import ExecutorError, UsageError
from kale_magic.executors import registry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from kale_magic.abc import Executor

# By which it is seen that a batch system is in use on a host
_PROGRAMS = {"slurm": "squeue", "pbs": "qstat", "lsf": "bjobs", "flux": "flux"}
_JOB = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,%\[\]-]{0,199}")  # no option of a command


class BatchQueue:
    """See the module.

    Parameters
    ----------
    executors : mapping of str to Executor
        The manager's.
    """

    def __init__(self, executors: Mapping[str, Executor]) -> None:
        self._executors = executors

    def ops(self) -> dict[str, Callable[[dict[str, Any]], Awaitable[Any]]]:
        """Return what clients may ask, by the words of the protocol."""
        return {protocol.SURVEY: self._survey, protocol.END: self._end}

    async def _survey(self, fields: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the batch system's own queue: of the one named, or of all that have live jobs or whose commands are on this host."""
        wanted = fields.get("executor")
        if wanted is not None:
            registry.check_name(str(wanted))
        lines: list[dict[str, Any]] = []
        problems = []
        for name, executor in list(self._executors.items()):  # a pool may be closed meanwhile
            is_meant = name == wanted or (wanted is None and bool(executor.queue()))
            if not is_meant and (wanted is not None or not _is_here(name)):
                continue
            try:
                lines += [{"executor": name, **line} for line in await executor.survey(is_all=bool(fields.get("all")))]
            except ExecutorError as exc:
                if is_meant:
                    raise
                problems.append(exc)  # its commands are here, but it may never have been in use
        if problems and not lines:
            raise problems[0]
        return lines

    async def _end(self, fields: dict[str, Any]) -> dict[str, Any]:
        """End a job by the batch system's name of it."""
        name, job = str(fields.get("executor") or ""), str(fields.get("job") or "")
        registry.check_name(name)
        executor = self._executors.get(name)
        if executor is None or not _JOB.fullmatch(job):
            raise UsageError(f"{job!r} is no job of executor {name}.")
        await executor.end(job)
        return {"ended": job}


def _is_here(executor: str) -> bool:
    return executor in _PROGRAMS and shutil.which(_PROGRAMS[executor]) is not None
