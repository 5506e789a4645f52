"""``%kale_dashboard``: the widgets, and beside each a static twin that lives on in the saved notebook."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

from kale_magic.widgets.place import desk_on
from kale_magic.widgets.static_html import stand_in

if TYPE_CHECKING:
    from kale_magic.magics.door import Request
    from kale_magic.magics.session import KaleMagics
    from kale_magic.widgets.desk import Seen
    from kale_magic.widgets.parts import Part

_LEAST_S = 5.0  # between two looks at whether the static twin is to be written anew


def dashboard(session: KaleMagics, request: Request) -> None:
    """Show the dashboard, or one part of it."""
    args = request.args
    desk = desk_on(session, args.run, args.step)
    from kale_magic import widgets

    shown = getattr(widgets, (args.part or "dashboard").capitalize())(desk=desk)
    if not session.is_rich:
        print(shown.main.text())
        desk.close()
        return
    from IPython.display import display

    session.keep_dashboard(desk)
    desk.after = Twin(session, shown.main).show
    display(shown)


class Twin:
    """The static output above a widget: hidden while the widget is seen, and what a saved notebook shows later."""

    def __init__(self, session: KaleMagics, part: Part) -> None:
        self._session = session
        self._part = part
        self._key = part.twin = uuid.uuid4().hex[:12]
        self._mark: object = None
        self._next = 0.0
        self._is_shown = False
        self.show(part.desk.seen)

    def show(self, seen: Seen) -> None:
        """Write the twin anew: at once when the run has ended, now and then before."""
        mark = self._part.mark(seen)
        started = time.monotonic()
        if mark == self._mark or (not self._part.is_last(seen) and started < self._next):
            return
        self._mark = mark
        text = self._part.text()
        data = {"text/plain": text, "text/html": stand_in(self._key, self._part.static())}
        self._session.shell.display_pub.publish(data=data, transient={"display_id": self._key}, update=self._is_shown)
        self._is_shown = True
        self._next = time.monotonic() + max(_LEAST_S, 20 * (time.monotonic() - started))  # a large one is written more rarely
