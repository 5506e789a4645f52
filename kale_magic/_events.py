"""The manager's events as they come, on a connection of their own; made by the client."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from kale_magic import protocol
from kale_magic._open import open_connection
from kale_magic.errors import ManagerUnavailable
from kale_magic.model.events import Event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kale_magic import config
    from kale_magic._connection import Connection


class EventStream:
    """Events in order, each once; when the connection breaks it is opened again and goes on where it was.

    Iterate over it, or call :meth:`next` to wait for a limited time. If the manager no longer keeps all events
    after the last one seen, an event of kind ``gap`` says so: read the status again.
    """

    def __init__(self, settings: config.Settings, *, since: int, run: str | None, start: bool, timeout: float) -> None:
        self.seq = since
        self._settings, self._run, self._start, self._timeout = settings, run, start, timeout
        self._connection: Connection | None = None
        self._pending: list[Event] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Event]:
        while True:
            event = self.next(None)
            if event is not None:
                yield event

    def fileno(self) -> int:
        """Return the socket's descriptor, for select; opens the connection if need be."""
        return self._open().fileno()

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def next(self, timeout: float | None) -> Event | None:
        """Return the next event, or None if none came within ``timeout`` seconds (None: no limit).

        Raises
        ------
        ManagerUnavailable
            The connection broke and no manager could be reached or started.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if self._pending:
                return self._pending.pop(0)
            connection = self._open()
            if self._pending:
                continue
            left = None if deadline is None else max(deadline - time.monotonic(), 0.001)
            try:
                message = connection.read(left)
            except TimeoutError:
                return None
            except (OSError, EOFError):
                self.close()
                continue
            if "event" in message:
                event = Event.from_wire(message["event"])
                if event.seq > self.seq:
                    self.seq = event.seq
                    return event
            elif "seq" in message:  # how far the manager is, where the events in between are of other runs
                self.seq = max(self.seq, int(message["seq"]))

    def _open(self) -> Connection:
        if self._connection is None:
            connection = open_connection(self._settings, start=self._start, timeout=self._timeout)
            try:
                result = connection.ask(protocol.EVENTS, {"since": self.seq, "run": self._run}, self._timeout)
            except (OSError, EOFError) as exc:
                connection.close()
                raise ManagerUnavailable("The manager hung up when it was asked for events.") from exc
            except BaseException:
                connection.close()
                raise
            self._connection = connection
            if int(result["seq"]) < self.seq:  # its store was begun anew, and counts from the start
                self.seq = int(result["seq"])
                result["missed"] = 1
            if result.get("missed"):
                self._pending.append(
                    Event(self.seq, self._run or "", None, None, "", "gap", "", {"missed": result["missed"]})
                )
        return self._connection
