"""The live display of a run: one output under the cell, kept up to date until the run is over.

A daemon thread follows the manager's events and, at most five times a second, reads the status and updates
the display in place; the last update leaves a static picture and table in the notebook. A terminal, which
can't update in place, gets a line whenever a step changes.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kale_magic.api.run import bundle_of
from kale_magic.errors import KaleError, ManagerUnavailable, UnknownRunError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kale_magic._events import EventStream
    from kale_magic.client import Client
    from kale_magic.magics.session import KaleMagics

_BETWEEN_S = 0.2  # at most five updates a second
_TICK_S = 1.0  # elapsed times move although nothing happens
_RETRY_S = 1.0  # between looks for a manager, while there is none
_JOIN_S = 3.0
_FINAL = frozenset({"completed", "failed", "cancelled"})
_log = logging.getLogger(__name__)


class LiveView:
    """One live display.

    Parameters
    ----------
    session : KaleMagics
        The notebook.
    run : str
        The run's id.
    edges : iterable of (producer, consumer)
        The picture's arrows.
    note : str
        A sentence that stays above the picture.
    """

    def __init__(self, session: KaleMagics, run: str, *, edges: Iterable[tuple[str, str]] = (), note: str = "") -> None:
        self.run = run
        self._session = session
        self._client: Client = session.follower()
        self._edges = tuple(edges)
        self._note = note
        self._display_id = uuid.uuid4().hex
        self._is_shown = False
        self._final: dict[str, Any] | None = None
        self._is_final_unseen = False
        self._said: dict[str, str] = {}
        self._thread = threading.Thread(target=self._follow, name=f"kale-live-{run}", daemon=True)

    @property
    def is_settled(self) -> bool:
        """Whether the display has its last form, and was sent while a cell ran."""
        return not self._thread.is_alive() and self._thread.ident is not None and not self._is_final_unseen

    def start(self) -> None:
        """Show the run as it is now, and follow it."""
        status = self._client.status(self.run, brief=True)
        self._show(status)
        if status["state"] not in _FINAL:
            self._thread.start()

    def join(self, timeout: float = _JOIN_S) -> None:
        """Wait until the display shows the end of its run."""
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def repeat_final(self) -> None:
        """Send the last form once more if it was sent while no cell ran."""
        if self._is_final_unseen and self._final is not None:
            self._is_final_unseen = False
            self._publish(self._final)

    def _follow(self) -> None:
        try:
            import kale_proxy.visitor  # noqa: F401 - so that the first %%kale_attach need not load it

            while not self._has_followed():
                time.sleep(_RETRY_S)
        except UnknownRunError:
            _log.debug("run %s is gone", self.run)
        except KaleError as exc:
            self._say(f"{self.run} is no longer followed here: {exc} See %kale_status.")
        except Exception:  # the thread's edge: a display that fails must not print into another cell
            _log.exception("the display of run %s ended", self.run)
        finally:
            self._client.close()

    def _has_followed(self) -> bool:
        """Show the run until it is over; False when there is no manager, which may come back."""
        try:
            status = self._client.status(self.run, brief=True)
            with self._client.events(since=int(status["seq"]), run=self.run) as stream:
                while True:
                    started = time.monotonic()
                    self._show(status)
                    if status["state"] in _FINAL:
                        return True
                    self._pause(stream, time.monotonic() - started)
                    status = self._client.status(self.run, brief=True)
        except ManagerUnavailable:
            return False

    def _pause(self, stream: EventStream, cost: float) -> None:
        """Wait for an event, then long enough that updates stay rare and take a small part of the time."""
        shown = time.monotonic()
        if stream.next(_TICK_S) is None:
            return
        until = shown + max(_BETWEEN_S, 4 * cost)
        while (left := until - time.monotonic()) > 0:
            stream.next(left)

    def _show(self, status: dict[str, Any]) -> None:
        is_final = status["state"] in _FINAL
        if self._session.is_rich:
            bundle = bundle_of(status, self._edges, now=None if is_final else datetime.now(UTC), note=self._note)
            if is_final:
                self._final = bundle
                self._is_final_unseen = not self._session.is_in_cell
            self._publish(bundle)
        else:
            self._tell(status)

    def _publish(self, bundle: dict[str, Any]) -> None:
        publisher = self._session.shell.display_pub
        publisher.publish(data=bundle, transient={"display_id": self._display_id}, update=self._is_shown)
        self._is_shown = True

    def _tell(self, status: dict[str, Any]) -> None:
        from kale_magic.render.text import run_line
        from kale_magic.render.view import node_of_status, reason_of, tracebacks

        lines = [] if self._said else [f"{self.run}: {len(status['steps'])} steps. {self._note}".rstrip()]
        for name, step in status["steps"].items():
            node = node_of_status(name, step)
            words = " ".join(filter(None, [node.state, node.tally]))
            if words != self._said.get(name, "waiting"):
                lines.append(f"  {name}: {words}{f' ({reason})' if (reason := reason_of(step)) else ''}")
            self._said[name] = words
        if status["state"] in _FINAL:
            lines += [text for _, text in tracebacks(status)]
            lines.append(run_line(status))
        if lines:
            self._say("\n".join(lines))

    def _say(self, text: str) -> None:
        print(text, flush=True)
