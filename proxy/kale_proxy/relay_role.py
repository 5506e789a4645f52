"""What a relay's front end is to the kernel (a visitor who leaves it alone, or the owner for whom it is there), and how the link is."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

VISITOR_WAITS_S = 600.0


@dataclass(slots=True)
class Role:
    """A front end's part; made by :func:`visitor` and :func:`owner`.

    Attributes
    ----------
    is_owner : bool
        Whether the front end's word ends the kernel; it then hears all that the kernel prints.
    title : str
        What the banner calls the kernel.
    ended : str
        The error's name in cells for which there is no kernel any more.
    start_s : float
        How long a cell waits for a kernel that does not start.
    is_done : bool
        Whether the front end, or who runs it, has asked for the end.
    is_restart : bool
        Whether that is so that there will be a fresh kernel.
    is_passed_on : bool
        Whether the agent has been told to make one.
    """

    is_owner: bool
    title: str
    ended: str
    start_s: float
    hello: dict[str, Any] = field(default_factory=dict)
    is_done: bool = False
    is_restart: bool = False
    is_passed_on: bool = False

    def finish(self, *, is_restart: bool = False) -> bool:
        """Take note that the end was asked for; return whether the agent is to give the kernel a fresh start."""
        self.is_done, self.is_restart = True, is_restart
        return self.is_owner and is_restart


def visitor(name: str) -> Role:
    """Return the part of a visitor to the step ``name``, whose end is the visit's alone."""
    return Role(is_owner=False, title=f"a visit to {name}", ended="StepEnded", start_s=VISITOR_WAITS_S)


def owner() -> Role:
    """Return the part of the notebook whose own kernel runs in a job; a batch queue may let it wait for days."""
    hello = {"iopub": "all", "owner": True}
    return Role(is_owner=True, title="a kernel in a job of its own", ended="KernelEnded", start_s=math.inf, hello=hello)


class Standing(NamedTuple):
    """How a relay's link to its step is: the state of it, for people.

    ``mode`` is what the kernel has granted, or what was asked for while there is no link; ``way`` leads to another host, empty
    is this machine; ``doing`` goes on after the step's name and says why there is no link; ``over`` is the sentence for a
    step whose kernel won't come any more; ``language`` is what the kernel speaks, empty before it has said so.
    """

    is_joined: bool
    mode: str
    way: str
    away_since: float
    doing: str
    over: str
    language: str
