"""The one place that runs a batch system's commands: without a shell, with a deadline, off the manager's loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from asyncio import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended. ``code`` is None when it did not end in time and was killed; ``took_s`` is how long it ran."""

    code: int | None
    out: str
    err: str
    took_s: float

    @property
    def is_ok(self) -> bool:
        """Whether it did what was asked."""
        return self.code == 0


class CommandMissing(Exception):  # noqa: N818 - a state of the machine
    """There is no such program on the path; the message names it."""


def require(name: str) -> str:
    """Return where a program is; raises CommandMissing."""
    found = shutil.which(name)
    if found is None:
        raise CommandMissing(name)
    return found


async def run(argv: Sequence[str], *, timeout: float, environ: Mapping[str, str], stdin: str = "") -> Done:
    """Run a command and return how it ended.

    Parameters
    ----------
    argv : sequence of str
        The program (looked for on the path of this process) and its arguments; no shell sees them.
    timeout : float
        Seconds after which it is killed with everything that it started.
    environ : mapping of str to str
        Its whole environment.
    stdin : str
        What it is given to read.

    Raises
    ------
    CommandMissing
        The program is not installed.
    """
    program = require(argv[0])
    begun = time.monotonic()
    process = await subprocess.create_subprocess_exec(
        program, *argv[1:], stdin=subprocess.PIPE if stdin else subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=dict(environ), start_new_session=True,
    )  # fmt: skip
    try:
        out, err = await asyncio.wait_for(process.communicate(stdin.encode(errors="surrogateescape") or None), timeout)
        code = process.returncode
    except TimeoutError:
        out = err = b""
        code = None
    finally:
        if process.returncode is None:  # also when we were cancelled
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return Done(code, out.decode(errors="replace"), err.decode(errors="replace"), time.monotonic() - begun)
