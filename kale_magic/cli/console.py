"""Where a command writes: results on stdout, everything else on stderr, each as its stream can show it."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import TextIO


class Console:
    """The streams of one command.

    Parameters
    ----------
    is_json : bool
        Whether ``--json`` was given: then stdout gets the one object and nothing else.
    """

    def __init__(self, *, is_json: bool = False) -> None:
        self.is_json = is_json

    @property
    def is_live(self) -> bool:
        """Whether stderr is a terminal on which a line can be drawn again."""
        return sys.stderr.isatty() and os.environ.get("TERM", "") != "dumb"

    @property
    def is_asking(self) -> bool:
        """Whether there is a person to ask."""
        return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        import shutil

        return shutil.get_terminal_size((100, 24)).columns

    @property
    def table_width(self) -> int | None:
        """Columns to cut tables at: those of the terminal; None when stdout is a file or a pipe."""
        return self.width if sys.stdout.isatty() else None

    def is_ascii(self, stream: TextIO | None = None) -> bool:
        """Whether a stream (stdout) can't show box drawing."""
        encoding = getattr(stream or sys.stdout, "encoding", None) or "ascii"
        try:
            "✓█←".encode(encoding)
        except (UnicodeEncodeError, LookupError):
            return True
        return False

    def say(self, text: str = "") -> None:
        """Write a line for a person to stdout; not with ``--json``."""
        if not self.is_json:
            write(sys.stdout, text + "\n")

    def note(self, text: str) -> None:
        """Write a line to stderr."""
        write(sys.stderr, text + "\n")

    def data(self, value: Any) -> None:
        """Write the object that ``--json`` prints."""
        write(sys.stdout, json.dumps(value, indent=1, ensure_ascii=sys.stdout.encoding.lower() != "utf-8") + "\n")


def write(stream: TextIO, text: str) -> None:
    """Write to a stream at once; what its encoding lacks is shown by its code."""
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def now() -> datetime:
    """Return the time, for what is still running."""
    return datetime.now(UTC)
