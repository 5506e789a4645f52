"""Every error Kale raises on purpose, on one screen.

A message says what happened, to which id or command; ``hint`` says what to do next. ``code`` crosses
the wire between manager and client, and :func:`from_wire` rebuilds the class on the other side.
"""

from __future__ import annotations


class KaleError(Exception):
    """Base of all; a user sees ``message`` and ``hint`` as one sentence each, never a traceback of ours.

    Parameters
    ----------
    message : str
        What happened, naming the thing.
    hint : str
        The way out; may be empty.
    transient : bool
        Whether trying again later can help.
    """

    transient = False

    def __init__(self, message: str, hint: str = "", *, transient: bool | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if transient is not None:
            self.transient = transient

    def __str__(self) -> str:
        """Message and hint as one line."""
        return f"{self.message} {self.hint}".strip()

    @property
    def code(self) -> str:
        """Name of the class, which is what crosses the wire."""
        return type(self).__name__

    def to_wire(self) -> dict[str, object]:
        """Return the JSON form that :func:`from_wire` reads."""
        return {"code": self.code, "message": self.message, "hint": self.hint, "transient": self.transient}


class ConfigError(KaleError):
    """A setting, a folder or an environment variable is unusable."""


class UsageError(KaleError):
    """A command or magic was given wrong words."""


class StepSyntaxError(KaleError):
    """A step's cell or its magic line can't be read; ``line`` and ``column`` are 1-based, 0 if unknown."""

    def __init__(self, message: str, hint: str = "", *, line: int = 0, column: int = 0) -> None:
        super().__init__(message, hint)
        self.line = line
        self.column = column


class WorkflowError(KaleError):
    """The steps don't fit together."""


class CycleError(WorkflowError):
    """Steps wait for each other in a circle."""


class DuplicateOutputError(WorkflowError):
    """Two steps make a name, and nothing says which one a third means."""


class UnknownStepError(WorkflowError):
    """A step is named that the workflow or run does not have."""


class FormatError(WorkflowError):
    """A workflow file can't be read; the message names line, column and what is allowed."""


class ManagerError(KaleError):
    """The manager refused or failed."""


class ManagerUnavailable(ManagerError):  # noqa: N818 - the name is fixed by the project's style page
    """No manager answers."""

    transient = True


class ProtocolVersionError(ManagerError):
    """Client and manager are of versions that can't talk to each other."""


class StoreError(ManagerError):
    """The manager's database is damaged or can't be written."""


class UnknownRunError(ManagerError):
    """No run of that id is known."""


class ExecutorError(KaleError):
    """Something between the manager and where jobs run went wrong."""


class SubmitError(ExecutorError):
    """A job could not be handed to its executor."""


class UnknownExecutorError(ExecutorError):
    """No executor of that name is installed."""


class PoolError(ExecutorError):
    """A pool is not known, not open, or can't be had."""


class JobError(KaleError):
    """A user's job ended badly; never the manager's fault."""


class StepFailed(JobError):  # noqa: N818
    """A step's own code failed."""


class JobLost(JobError):  # noqa: N818
    """A job vanished without a result."""


class JobTimeout(JobError):  # noqa: N818
    """A job reached its walltime."""


class JobCancelled(JobError):  # noqa: N818
    """A job was cancelled."""


def from_wire(data: dict[str, object]) -> KaleError:
    """Rebuild an error that :meth:`KaleError.to_wire` wrote; an unknown code becomes a KaleError."""
    kinds = {cls.__name__: cls for cls in _subclasses(KaleError)}
    cls = kinds.get(str(data.get("code")), KaleError)
    error = cls(str(data.get("message", "unknown error")), str(data.get("hint", "")))
    error.transient = bool(data.get("transient", False))
    return error


def _subclasses(cls: type[KaleError]) -> set[type[KaleError]]:
    return {cls}.union(*(_subclasses(sub) for sub in cls.__subclasses__()))
