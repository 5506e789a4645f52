"""Whether the steps that a job needs have completed, by their own results.

A batch system's word is not enough: Slurm starts a job that waits ``afterok`` on a job which the controller has
forgotten, whatever became of that one (sbatch(1), ``--kill-on-invalid-dep``; MinJobAge of slurm.conf(5)).
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kale_proxy import pack
from kale_proxy.record import RESULT

if TYPE_CHECKING:
    from kale_proxy.spec import JobSpec, ParentSpec

_SHOW_UP_S = 5.0  # a network disk may show a file of another host that late
_ASK_EVERY_S = 0.2


class ParentNotDone(Exception):  # noqa: N818 - an outcome, not a fault
    """A parent has not completed; the message names it and what is known."""


def require(spec: JobSpec, *, patience_s: float = _SHOW_UP_S) -> None:
    """Return when every parent has completed.

    Parameters
    ----------
    spec : JobSpec
        With its ``parents``.
    patience_s : float
        How long a result that is not there is waited for.

    Raises
    ------
    ParentNotDone
        One has failed, or has no result after ``patience_s``.
    """
    deadline = time.monotonic() + patience_s
    for parent in spec.parents:
        for folder in parent.folders():
            while (state := _state(folder)) is None and time.monotonic() < deadline:
                time.sleep(_ASK_EVERY_S)
            if state != "completed":
                raise ParentNotDone(_words(parent, folder, state))


def _state(folder: str) -> str | None:
    try:
        return str(json.loads(Path(folder, RESULT).read_bytes())["state"])
    except (OSError, ValueError, KeyError):
        packed = pack.result(Path(folder))
        return None if packed is None else str(packed["state"])


def _words(parent: ParentSpec, folder: str, state: str | None) -> str:
    name = parent.step if parent.point_count is None else f"{parent.step}[{Path(folder).name}]"
    return f"`{name}`, which it needs, " + (f"is {state}" if state else "has no result")
