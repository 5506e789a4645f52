"""The Python interface: declare a workflow, submit it, look at its runs and into its steps.

The magics and the command line are thin over it. Nothing here knows IPython; what a notebook shows of these
objects comes from their ``_repr_mimebundle_``. Each name is imported when it is first asked for, so that
``jupyter kale status`` does not wait for what only a declaration needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kale_magic.api.connection import Kale, connect
    from kale_magic.api.run import Run, Step
    from kale_magic.api.visits import Execution
    from kale_magic.api.workflow import Workflow

__all__ = ["Execution", "Kale", "Run", "Step", "Workflow", "connect"]

_HOMES = {
    "Execution": "visits",
    "Kale": "connection",
    "Run": "run",
    "Step": "run",
    "Workflow": "workflow",
    "connect": "connection",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562)."""
    if name in _HOMES:
        return getattr(import_module(f"kale_magic.api.{_HOMES[name]}"), name)
    message = f"module 'kale_magic.api' has no attribute {name!r}"
    raise AttributeError(message)
