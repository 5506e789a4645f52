"""Which executors there are, by name; each is imported when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from kale_magic.errors import UnknownExecutorError

if TYPE_CHECKING:
    from kale_magic.abc import Clock, Executor
    from kale_magic.config import Settings

DEFAULT = "local"
_ENGINES = {"snakemake": "create_snakemake", "cwltool": "create_cwltool"}  # both in kale_magic.executors.engine
_MODULES = {"local": "kale_magic.executors.local", "slurm": "kale_magic.executors.slurm"}


def names() -> tuple[str, ...]:
    """Return the names of all executors."""
    return (*_MODULES, *_ENGINES)


def create(name: str, settings: Settings, clock: Clock) -> Executor:
    """Return a new executor, not yet opened.

    Raises
    ------
    UnknownExecutorError
        There is none of that name; the message lists those there are.
    """
    check_name(name)
    if name in _ENGINES:
        make = getattr(import_module("kale_magic.executors.engine"), _ENGINES[name])
    else:
        make = import_module(_MODULES[name]).create
    executor: Executor = make(settings, clock)
    return executor


def check_name(name: str) -> None:
    """Raise UnknownExecutorError if there is no executor of that name."""
    if name not in names():
        raise UnknownExecutorError(f"There is no executor {name!r}.", f"There is: {', '.join(names())}.")
