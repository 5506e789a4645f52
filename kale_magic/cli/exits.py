"""Exit codes, and which one an error has."""

from __future__ import annotations

import re
from enum import IntEnum

from kale_magic.errors import (
    ConfigError,
    KaleError,
    ManagerError,
    UnknownExecutorError,
    UnknownRunError,
    UnknownStepError,
    UsageError,
)

# What the shared parts call %kale_logs is another word here.
_MAGIC = re.compile(r"%kale_(logs|wait|status|runs|stop|cancel|queue|push|pause|resume|rerun|continue)\b")


class Exit(IntEnum):
    """What the shell gets."""

    OK = 0
    FAILED = 1  # the workflow, a job, or a check of it
    USAGE = 2
    UNREACHABLE = 3  # the manager or the queue
    TIMEOUT = 4
    INTERRUPTED = 130  # 128 + SIGINT, as shells have it
    BROKEN_PIPE = 141  # 128 + SIGPIPE


def code_of(error: BaseException) -> Exit:
    """Return the exit code of an error that a command ended with."""
    if isinstance(error, TimeoutError):
        return Exit.TIMEOUT
    if isinstance(
        error, UsageError | UnknownRunError | UnknownStepError | UnknownExecutorError | ConfigError | OSError
    ):
        return Exit.USAGE
    if isinstance(error, ManagerError):
        return Exit.UNREACHABLE
    if isinstance(error, KaleError) and error.transient:
        return Exit.UNREACHABLE
    return Exit.FAILED


def sentence(error: BaseException) -> str:
    """Return what to say of an error, on one line."""
    if isinstance(error, KaleError):
        text = str(error)
    elif isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        text = f"{name}{error.strerror}."
    else:
        text = str(error) or type(error).__name__
    return " ".join(_MAGIC.sub(r"jupyter kale \1", text).split())
