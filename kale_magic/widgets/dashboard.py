"""The dashboard: the picture of the workflow with its buttons above, all other parts in tabs below."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ipywidgets

from kale_magic.widgets.charts import Plots, Resources
from kale_magic.widgets.logs import Logs
from kale_magic.widgets.parts import Dag, Step
from kale_magic.widgets.place import desk_here
from kale_magic.widgets.queue import Queue
from kale_magic.widgets.ssh import Ssh

if TYPE_CHECKING:
    from kale_magic.widgets.desk import Desk
    from kale_magic.widgets.parts import Part


class Dashboard(ipywidgets.VBox):  # type: ignore[misc] # ipywidgets is not typed
    """All parts on one run.

    Parameters
    ----------
    run : str, optional
        The run; the newest, as they come, if none is given.
    """

    def __init__(self, run: str | None = None, *, desk: Desk | None = None) -> None:
        self.desk = desk or desk_here(run)
        self.dag = Dag(desk=self.desk)
        self.parts: list[Part] = [part(self.desk) for part in (Step, Logs, Plots, Resources, Queue, Ssh)]
        tabs = ipywidgets.Tab(self.parts, titles=[part.title for part in self.parts])
        self.main = self.dag.main
        super().__init__([self.dag, tabs])

    def __repr__(self) -> str:
        return repr(self.main)
