"""What ``run`` does when a step waits for a person: gives up, lets it go on, or waits and asks on the terminal."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from kale_magic.errors import KaleError, UsageError

if TYPE_CHECKING:
    from kale_magic.cli.console import Console
    from kale_magic.client import Client
    from kale_magic.model.events import Event


class GateNeedsPerson(KaleError):  # noqa: N818 - an outcome
    """A step waits for a person, and there is none."""


class Gates:
    """What is done at the gates of one run.

    Parameters
    ----------
    client : Client
        The manager.
    console : Console
        Where a person may be.
    how : str or None
        ``fail``, ``continue`` or ``wait``; None: wait on a terminal, else fail.
    """

    def __init__(self, client: Client, console: Console, how: str | None) -> None:
        self._client = client
        self._console = console
        self._how = how or ("wait" if console.is_asking else "fail")

    def event(self, event: Event) -> None:
        """Take a change of the run; raises GateNeedsPerson where one is reached that nobody will open."""
        if event.state != "gated" or event.step is None or event.kind != "state":
            return
        from kale_magic.api.find import where_in
        from kale_magic.api.gate import go_on
        from kale_magic.api.visits import Visits
        from kale_magic.cli.act import ask_here

        target = where_in(self._client, event.run, event.step, event.point)
        if target.state != "gated":
            return
        if self._how == "fail":
            raise GateNeedsPerson(f"{target} {target.doing}.", "Run with --gates wait and continue it, or with --gates continue.")
        is_asked = target.reason.startswith("asks:") and self._console.is_asking
        if self._how == "wait" and not is_asked:
            self._console.note(f"kale: {target} {target.reason}; work in it: jupyter kale open {target}; then: jupyter kale continue {target}")
            return
        with contextlib.closing(Visits(self._client)) as visits, contextlib.suppress(UsageError):  # opened by another
            sys.stderr.flush()
            go_on(visits, target, {}, ask=ask_here if self._how == "wait" else None)
