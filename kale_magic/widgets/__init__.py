"""The widgets: ``Dashboard`` and its parts, each imported when it is first asked for, since anywidget takes its time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kale_magic.widgets.charts import Resources
    from kale_magic.widgets.dashboard import Dashboard
    from kale_magic.widgets.logs import Logs
    from kale_magic.widgets.parts import Dag, Step
    from kale_magic.widgets.plots import Plots
    from kale_magic.widgets.pools import Pools
    from kale_magic.widgets.queue import Queue
    from kale_magic.widgets.ssh import Ssh

__all__ = ["Dag", "Dashboard", "Logs", "Plots", "Pools", "Queue", "Resources", "Ssh", "Step"]
_PLACES = {
    "Dag": "parts",
    "Dashboard": "dashboard",
    "Logs": "logs",
    "Plots": "plots",
    "Pools": "pools",
    "Queue": "queue",
    "Resources": "charts",
    "Ssh": "ssh",
    "Step": "parts",
}


def __getattr__(name: str) -> object:
    """Import a widget when it is first used (PEP 562)."""
    if name in _PLACES:
        from importlib import import_module

        return getattr(import_module(f"kale_magic.widgets.{_PLACES[name]}"), name)
    message = f"module 'kale_magic.widgets' has no attribute {name!r}"
    raise AttributeError(message)
