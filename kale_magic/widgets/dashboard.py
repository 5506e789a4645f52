"""The dashboard: the picture of the workflow with its buttons above, all other parts in tabs below."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anywidget
import ipywidgets
from traitlets import List, Unicode

from kale_magic.widgets._page import script, style
from kale_magic.widgets.charts import Resources
from kale_magic.widgets.logs import Logs
from kale_magic.widgets.parts import Dag, Step
from kale_magic.widgets.place import desk_here
from kale_magic.widgets.plots import Plots
from kale_magic.widgets.pools import Pools
from kale_magic.widgets.queue import Queue
from kale_magic.widgets.ssh import Ssh

if TYPE_CHECKING:
    from kale_magic.widgets.desk import Desk
    from kale_magic.widgets.parts import Part


class Tabs(anywidget.AnyWidget):  # type: ignore[misc] # anywidget is not typed
    """The names of the parts; which one is chosen shows it, by the style alone.

    Not ipywidgets' own: in one of five reloads of a page in JupyterLab 4.6 those no longer heard clicks.

    Parameters
    ----------
    titles : list of str
        The first is shown at first.
    """

    _esm = script("tabs")
    _css = style()
    titles = List(Unicode()).tag(sync=True)
    tab = Unicode().tag(sync=True)
    twin = Unicode("").tag(sync=True)

    def __init__(self, titles: list[str]) -> None:
        super().__init__(titles=titles, tab=titles[0].lower())
        self.add_class("kale-host")
        self.add_class("kale-tabs")


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
        self.parts: list[Part] = [part(self.desk) for part in (Step, Logs, Plots, Resources, Queue, Pools, Ssh)]
        shown = ipywidgets.VBox(self.parts)
        shown.add_class("kale-parts")
        for part in self.parts:
            part.add_class(f"kale-part-{part.title.lower()}")
        self.main = self.dag.main
        super().__init__([self.dag, Tabs([part.title for part in self.parts]), shown])

    def __repr__(self) -> str:
        return repr(self.main)
