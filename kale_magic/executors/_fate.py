"""What became of a job, read from its folder: the result, or the claim and the process that made it.

The files are the truth (DESIGN, "The protocol"); nothing is concluded from a supervisor's silence.
"""

from __future__ import annotations

import socket
import time
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_proxy import claim
from kale_proxy.record import read_result

if TYPE_CHECKING:
    from kale_proxy.spec import JobSpec

_HALF_WRITTEN_S = 10.0
_SIGN_OF_LIFE_S = 60.0


class Fate(Enum):
    """What a folder says about an attempt."""

    OVER = "over"  # there is a result
    ALIVE = "alive"  # claimed, and the process lives
    GONE = "gone"  # claimed, the process is gone, no result
    UNBORN = "unborn"  # never claimed


@dataclass(frozen=True, slots=True)
class Finding:
    """A fate, and the result, the claim's owner, or the sentence that belong to it."""

    fate: Fate
    data: dict[str, Any]


def find_out(spec: JobSpec, *, by_signs: bool = False) -> Finding:
    """Return what became of an attempt.

    ``by_signs``: it may run on another host, under a manager that was there; then what it wrote lately says whether it lives.
    """
    if (result := _result(spec)) is not None:
        return Finding(Fate.OVER, result)
    owner = claim.owner_of(spec)
    if owner is None:
        return Finding(Fate.UNBORN, {})
    if by_signs and owner.get("host") not in {None, socket.gethostname()}:
        return _elsewhere(spec, owner)
    if claim.is_alive(owner) or (not owner and _is_fresh(claim.path_of(spec))):
        return Finding(Fate.ALIVE, owner)
    if (result := _result(spec)) is not None:  # it ended between the two looks
        return Finding(Fate.OVER, result)
    if owner.get("boot") not in {None, claim.boot_id()}:
        why = "the machine was started anew while it ran"
    else:
        why = f"its process (pid {owner.get('pid', 'unknown')}) is gone and left no result"
    return Finding(Fate.GONE, {"reason": why, "uuid": owner.get("uuid")})


def _elsewhere(spec: JobSpec, owner: dict[str, Any]) -> Finding:
    """Judge an attempt on another host by the samples of its resources, which its supervisor takes every five seconds."""
    written = [path for path in (claim.path_of(spec), Path(spec.folder, "resources.jsonl")) if path.exists()]
    age_s = time.time() - max((path.stat().st_mtime for path in written), default=0.0)
    if age_s < _SIGN_OF_LIFE_S:
        return Finding(Fate.ALIVE, owner)
    return Finding(Fate.GONE, {"reason": f"it ran on {owner['host']} and has given no sign of life for {_SIGN_OF_LIFE_S:g} s", "uuid": owner.get("uuid")})


def _result(spec: JobSpec) -> dict[str, Any] | None:
    result = read_result(spec)
    return None if result is None else asdict(result)


def _is_fresh(path: Path) -> bool:
    """Whether a claim without content may still be about to be written."""
    try:
        return time.time() - path.stat().st_mtime < _HALF_WRITTEN_S
    except OSError:
        return False
