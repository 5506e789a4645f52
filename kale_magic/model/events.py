"""What happened in a run, as the manager tells it to everyone: one numbered line per change.

The number (``seq``) is global to a manager and never used twice, so a client that was away asks for
everything after the last one it saw and misses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """One change.

    ``kind`` is ``state`` (a step, or one point of a sweep), ``run`` (the run itself) or ``note`` (something
    worth a line that changes no state). ``point`` is None for a step that is no sweep, and for the state of
    a sweep as a whole; ``data`` then has ``counts``. ``at`` is ISO 8601 in UTC. Kinds and keys of ``data``
    that a reader does not know are to be passed over.
    """

    seq: int
    run: str
    step: str | None
    point: int | None
    at: str
    kind: str
    state: str
    data: dict[str, Any] = field(default_factory=dict)

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "seq": self.seq,
            "run": self.run,
            "step": self.step,
            "point": self.point,
            "at": self.at,
            "kind": self.kind,
            "state": self.state,
            "data": self.data,
        }

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> Event:
        """Read what :meth:`to_wire` wrote; what a later version added is passed over."""
        return cls(
            int(data["seq"]),
            str(data["run"]),
            data.get("step"),
            data.get("point"),
            str(data.get("at", "")),
            str(data.get("kind", "note")),
            str(data.get("state", "")),
            dict(data.get("data") or {}),
        )


def iso(seconds: float) -> str:
    """Return seconds since the epoch as ISO 8601 in UTC with milliseconds, the form of every time we write."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
