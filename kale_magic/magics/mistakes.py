"""How a person's mistake looks in a notebook: the cell fails, and one red line says why.

IPython shows an exception's own rendering when it has one; ours is the message alone, so nobody reads a
traceback through our code. The exception's name is the error's, which is what other programs look at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from IPython.core.error import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kale_magic.errors import KaleError

_RED, _PLAIN = "\x1b[31m", "\x1b[39m"


class Mistake(UsageError):  # type: ignore[misc] # noqa: N818 - IPython is not typed; what happened is a mistake
    """Ends a cell with one red line; ``traceback`` replaces it where code of the person's raised."""

    traceback: Sequence[str] = ()

    def _render_traceback_(self) -> list[str]:
        return list(self.traceback) or [f"{_RED}{self}{_PLAIN}"]


def mistake(error: KaleError) -> Mistake:
    """Return the exception that shows ``error`` and carries its name."""
    return named(error.code, str(error))


def named(name: str, message: str, traceback: Sequence[str] = ()) -> Mistake:
    """Return a :class:`Mistake` whose class has ``name``, with the message on one line."""
    kind = type(name, (Mistake,), {"__module__": __name__})
    found: Mistake = kind(" ".join(message.split()))
    found.traceback = tuple(traceback)
    return found
