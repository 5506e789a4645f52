"""The batch queue as a widget: who waits, why, and a way to cancel that asks back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from traitlets import Dict, Unicode

from kale_magic.errors import KaleError, UsageError
from kale_magic.render import tables
from kale_magic.widgets._page import script
from kale_magic.widgets.parts import Part
from kale_magic.widgets.viewmodel.queue import joined, table

if TYPE_CHECKING:
    from kale_magic.widgets.desk import Desk, Seen


_SURVEY_S = 5.0  # between two questions to a batch system, which others use too
_WHOSE = ("kale", "user", "all")


class Queue(Part):
    """What runs and what waits: Kale's jobs, or the batch systems' own queues, this user's jobs or everyone's."""

    _esm = script("queue")
    title = "Queue"
    table = Dict({"heads": [], "rows": []}).tag(sync=True)
    when = Unicode("").tag(sync=True)
    whose = Unicode("kale").tag(sync=True)

    def __init__(self, desk: Desk | None = None, *, run: str | None = None, step: str | None = None) -> None:
        self._read_at = 0.0
        super().__init__(desk, run=run, step=step)

    def show(self, seen: Seen) -> None:
        """Read the queue anew; say from when it is if it can't be read."""
        if self.whose != "kale" and time.time() - self._read_at < _SURVEY_S:
            return
        try:
            self.table = table(self._jobs(), own=seen.runs)
            self._read_at = time.time()
        except KaleError as exc:
            self.when = f"as of {_clock(self._read_at)}: {exc}" if self._read_at else str(exc)
        else:
            self.when = f"as of {_clock(self._read_at)}"

    def heard(self, message: dict[str, Any]) -> str | None:
        """Cancel a job, or turn to another queue."""
        if message.get("t") == "whose":
            self._turn(str(message.get("whose")))
        if message.get("t") != "cancel":
            return None
        run, step, point = str(message.get("run")), str(message.get("step")), message.get("point")
        gone = self.desk.book.client.cancel(run, step, int(point) if point is not None else None)
        self.desk.refresh()
        return f"Cancelled {run}/{', '.join(gone)}." if gone else f"{run}/{step} was over."

    def _turn(self, whose: str) -> None:
        if whose not in _WHOSE:
            raise UsageError(f"There is no queue {whose!r}.")
        with self.desk.lock:
            self.whose, self._read_at = whose, 0.0
            self.show(self.desk.seen)

    def _jobs(self) -> list[dict[str, Any]]:
        ours = self.desk.client.queue()
        if self.whose == "kale":
            return ours
        return joined(self.desk.client.survey(is_all=self.whose == "all"), ours)

    def static(self) -> str:
        """Return the queue as a table."""
        rows = [[row["run"], row["label"], row["state"], *row["cells"]] for row in self.table["rows"]]
        if not rows:
            return f"<div>Nothing ran and nothing waited {self.when}.</div>"
        return str(tables.table(["run", "step", "state", *self.table["heads"]], rows, title=f"Queue {self.when}")["text/html"])


def _clock(moment: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(moment))
