"""Which executors there are, by name; each is imported when it is first used.

Those of other packages are entry points of the group ``kale_magic.executors``, each a function of (Settings, Clock)
that returns an :class:`kale_magic.abc.Executor`; see there for the contract.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from kale_magic.errors import UnknownExecutorError

if TYPE_CHECKING:
    from kale_magic.abc import Clock, Executor
    from kale_magic.config import Settings

DEFAULT = "local"
GROUP = "kale_magic.executors"
_OWN = {
    "local": "kale_magic.executors.lanes:create_local",
    "slurm": "kale_magic.executors.lanes:create_slurm",
    "pbs": "kale_magic.executors.lanes:create_pbs",
    "lsf": "kale_magic.executors.lanes:create_lsf",
    "flux": "kale_magic.executors.lanes:create_flux",
    "slurm-rest": "kale_magic.executors.lanes:create_slurm_rest",
    "snakemake": "kale_magic.executors.engine:create_snakemake",
    "cwltool": "kale_magic.executors.engine:create_cwltool",
}


@cache
def _known() -> dict[str, EntryPoint]:
    """Return all executors by name; one of ours can't be replaced by another package."""
    others = {entry.name: entry for entry in entry_points(group=GROUP)}
    return {**others, **{name: EntryPoint(name, value, GROUP) for name, value in _OWN.items()}}


def names() -> tuple[str, ...]:
    """Return the names of all executors, Kale's own first."""
    return (*_OWN, *sorted(_known().keys() - _OWN.keys()))


def create(name: str, settings: Settings, clock: Clock) -> Executor:
    """Return a new executor, not yet opened.

    Raises
    ------
    UnknownExecutorError
        There is none of that name, or its package can't be loaded; the message lists those there are.
    """
    check_name(name)
    try:
        executor: Executor = _known()[name].load()(settings, clock)
    except (ImportError, AttributeError) as exc:
        raise UnknownExecutorError(f"The executor {name} can't be loaded: {exc}.", "Install its package again, or remove it.") from exc
    return executor


def check_name(name: str) -> None:
    """Raise UnknownExecutorError if there is no executor of that name; whether a pool is open, the manager knows alone."""
    if name not in _known() and not name.startswith("pool:"):
        raise UnknownExecutorError(f"There is no executor {name!r}.", f"There is: {', '.join(names())}.")
