"""Holding a step still and letting it go on: between two lines by its kernel, or all its processes by its executor.

A pause goes to the step's own agent, as a visit does, so that it works the same wherever the step runs; freezing goes
by the manager, whose executor knows every process. Called by the Python API, the magics and the command line.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from kale_magic.api.find import refuse_without_kernel
from kale_magic.errors import JobError, UsageError

if TYPE_CHECKING:
    from kale_magic.api.find import Target
    from kale_magic.api.visits import Visits

_FRAME = re.compile(r'File "(?P<file>[^"]*)", line (?P<line>\d+), in (?P<function>\S+)')
LONGEST_S = 7 * 86400.0
_FREEZE_S = 5.0  # so long may a batch system take to pass on what it was asked
_NO_KERNEL = frozenset({"shell", "script"})


def pause(visits: Visits, target: Target, *, lease_s: float = LONGEST_S, is_freezing: bool = False) -> str:
    """Hold one job; return a sentence's end: ``is held at line 3 of f``, or that it will be when its present call returns.

    Parameters
    ----------
    visits : Visits
        The way into the step.
    target : Target
        One job.
    lease_s : float
        After so many seconds it goes on by itself; not if it is frozen.
    is_freezing : bool
        Stop all its processes instead.

    Raises
    ------
    UsageError
        It does not run, or can't be held this way.
    """
    if target.live is None and not target.state == "running":
        raise UsageError(f"{target} {target.doing}: only a running step can be paused.")
    if is_freezing:
        visits.client.freeze(target.run, target.step, target.point, is_on=True)
        end = time.monotonic() + _FREEZE_S
        while not visits.client.where(target.run, target.step, target.point)["reason"].startswith("frozen"):
            if time.monotonic() > end:
                return "is being frozen: where it runs was asked to, and has not said so yet"
            time.sleep(0.02)
        return "is frozen: all its processes stand, and no visitor is answered"
    if target.kind in _NO_KERNEL:
        raise UsageError(f"{target} is a {target.kind} step: it has no lines to hold it between.", "Stop its processes: --freeze.")
    if target.state == "paused":
        return target.doing
    reply = _ask(visits, target, {"op": "pause", "lease_s": lease_s})
    if reply.get("state") == "held":
        return f"is held at {_place(reply.get('where') or [])}"
    return "will be held when its present call returns to Python"


def resume(visits: Visits, target: Target) -> str:
    """Let one job go on, or end the look at one that was stopped or has failed; return a sentence's end.

    Raises
    ------
    UsageError
        It is not paused.
    """
    if target.live is None:
        raise UsageError(f"{target} {target.doing}: there is nothing to resume.")
    if target.reason.startswith("frozen"):
        visits.client.freeze(target.run, target.step, target.point, is_on=False)
        return "goes on"
    if target.state == "paused" and not target.reason.startswith("held"):
        visits.client.release(target.run, target.step, target.point)
        return "was over; its kernel is no longer kept. To go on from its checkpoint: %kale_rerun"
    if target.kind in _NO_KERNEL:
        raise UsageError(f"{target} {target.doing}: it is not paused.")
    _ask(visits, target, {"op": "resume"})
    return "goes on"


def _ask(visits: Visits, target: Target, content: dict[str, object]) -> dict[str, object]:
    refuse_without_kernel(target)
    if target.kernel is None:
        raise UsageError(f"{target} {target.doing}: its kernel is not ready yet.", "Try again in a moment.")
    reply = visits.ask_kernel(target, content)
    if reply is None:
        raise UsageError(f"The kernel of {target} can't hold its code still.", "Stop its processes instead: --freeze.")
    if reply.get("status") != "ok":
        raise JobError(f"{target} can't be paused: {reply.get('evalue') or reply}.")
    return reply


def _place(where: list[str] | object) -> str:
    """Return the innermost line of a traceback in words: of the step's cell by its number alone."""
    lines = [line.strip() for line in where if isinstance(line, str)] if isinstance(where, list) else []
    match = _FRAME.match(lines[-1]) if lines else None
    if match is None:
        return "its present line"
    file = "" if "ipykernel" in match["file"] else f" ({match['file']})"
    return f"line {match['line']}" + (f" of {match['function']}" if match["function"] != "<module>" else "") + file
