"""Opening and closing pools: from words or keyword arguments to what the manager is asked; for magics, command line and programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kale_magic.errors import UsageError
from kale_magic.model.resources import Resources, parse_memory, parse_walltime

if TYPE_CHECKING:
    from kale_magic.client import Client

_NAMES = ("nodes", "cpus", "gpus", "memory", "walltime", "queue", "account", "qos", "constraint", "reservation", "native")


def open_pool(client: Client, name: str, executor: str | None = None, **asked: Any) -> dict[str, Any]:
    """Open a pool and return what is known of it at once: ``state`` is ``waiting`` until its allocation begins.

    Parameters
    ----------
    client : Client
        The manager's.
    name : str
        By which steps are submitted to it.
    executor : str, optional
        Where its allocation comes from: ``slurm`` (the default) or ``local``, a process of this machine.
    **asked
        ``nodes``; of each node ``cpus``, ``gpus``, ``memory`` (``"4GB"``); ``walltime`` (``"01:00:00"``), ``queue``,
        ``account``, ``qos``, ``constraint``, ``reservation``, ``native`` (a list of lines).

    Raises
    ------
    PoolError
        A pool of that name is open, or what it asks for can't be had.
    UsageError
        An option is unknown.
    """
    if unknown := [key for key in asked if key not in _NAMES]:
        raise UsageError(f"A pool has no option {unknown[0]!r}.", f"It has: {', '.join(_NAMES)}.")
    given = {key: value for key, value in asked.items() if value not in (None, (), [])}
    if "memory" in given:
        memory = given.pop("memory")
        given["memory_bytes"] = memory if isinstance(memory, int) else parse_memory(str(memory))
    if "walltime" in given:
        walltime = given.pop("walltime")
        given["walltime_s"] = walltime if isinstance(walltime, int) else parse_walltime(str(walltime))
    words = {key: value for key, value in asdict(Resources(**given)).items() if value not in (None, ())}
    return client.open_pool(name, executor or "slurm", words)
