"""Which comms are a client's own: what the step's code sends on them later has another parent, and is for it all the same.

A widget that a visitor's cell shows is moved by the step's loop, for instance. Used by the agent, which picks a client's
messages, and by the relay, which tells the next agent.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_MAX = 4096
_MAX_ID = 256


class OwnComms:
    """The ids of a client's open comms; the newest 4,096."""

    def __init__(self) -> None:
        self._ids: dict[str, None] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def add(self, ids: Iterable[str]) -> None:
        """Take comms that are known to be the client's."""
        for comm_id in ids:
            self._ids[comm_id] = None
            if len(self._ids) > _MAX:
                del self._ids[next(iter(self._ids))]

    def follow(self, parts: Sequence[bytes]) -> None:
        """Take note of a message of the client's, or caused by it: one that opens or closes a comm."""
        if b'"comm_open"' in parts[0]:
            self.add(_id_of(parts))
        elif b'"comm_close"' in parts[0]:
            for comm_id in _id_of(parts):
                self._ids.pop(comm_id, None)

    def has(self, parts: Sequence[bytes]) -> bool:
        """Tell whether a message with another cause is on one of these comms."""
        return bool(self._ids) and b'"comm_' in parts[0] and any(comm_id in self._ids for comm_id in _id_of(parts))


def known(value: object) -> tuple[str, ...]:
    """Return the ids in a field of HELLO; what is none is left out."""
    if not isinstance(value, list):
        return ()
    return tuple(item for item in value[:_MAX] if isinstance(item, str) and len(item) <= _MAX_ID)


def _id_of(parts: Sequence[bytes]) -> tuple[str, ...]:
    try:
        comm_id = json.loads(parts[3]).get("comm_id")
    except (ValueError, AttributeError):
        return ()
    return (comm_id,) if isinstance(comm_id, str) and len(comm_id) <= _MAX_ID else ()
