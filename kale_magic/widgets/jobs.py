"""A part that is about one job: which one, by the selection or chosen in the part itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from traitlets import Dict

from kale_magic.widgets.parts import Part
from kale_magic.widgets.viewmodel.focus import Job, focus, jobs, parse

if TYPE_CHECKING:
    from pathlib import Path

    from kale_magic.widgets.desk import Desk, Seen


_STAYS = frozenset({"running", "paused", "gated", "failed", "lost"})


class JobPart(Part):
    """Shows one job: begins anew when another one is meant, goes on otherwise."""

    job = Dict({"label": "", "state": "", "all": []}).tag(sync=True)

    def __init__(self, desk: Desk | None = None, *, run: str | None = None, step: str | None = None) -> None:
        self.shown: Job | None = None
        self.folder: Path | None = None
        super().__init__(desk, run=run, step=step)

    def begin(self, job: Job | None, folder: Path | None) -> None:
        """Show another job; None before the first run."""
        raise NotImplementedError

    def go_on(self, seen: Seen) -> None:
        """Show what is new of the same job."""
        raise NotImplementedError

    def asked(self, message: dict[str, Any]) -> str | None:  # noqa: ARG002 - for parts that ask more
        """Answer what a page asks beside another job."""
        return None

    def show(self, seen: Seen) -> None:
        """Look at the job that is meant."""
        meant = self._kept(seen) or focus(seen.status, self.desk.selected, self.desk.point)
        folder = self.desk.folder_of(*meant) if meant else None
        if (meant, folder) != (self.shown, self.folder) or not self.job.get("all"):
            self.shown, self.folder = meant, folder
            self.begin(meant, folder)
        else:
            self.go_on(seen)
        self.job = {"label": meant.label if meant else "", "state": self._state(seen, meant), "all": jobs(seen.status)}

    def heard(self, message: dict[str, Any]) -> str | None:
        """Turn to another job, or do what else is asked."""
        if message.get("t") == "job":
            job = parse(str(message.get("label") or ""))
            self.desk.select([job.step], job.point)
            return None
        return self.asked(message)

    def _kept(self, seen: Seen) -> Job | None:
        """Return the job that is shown while it runs, or if it failed, unless another is selected: not what begins to run beside it."""
        if self.shown is None or self.desk.selected or self.folder != self.desk.folder_of(*self.shown):
            return None
        return self.shown if self._state(seen, self.shown) in _STAYS else None

    @staticmethod
    def _state(seen: Seen, job: Job | None) -> str:
        if job is None or seen.status is None:
            return ""
        step = seen.status["steps"].get(job.step) or {}
        item = step if job.point is None else (step.get("points") or {}).get(str(job.point)) or {}
        return str(item.get("state") or "")
