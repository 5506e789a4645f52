"""Kale: declare steps in notebook cells, run them as batch jobs, look inside while they compute.

This module owns the public names and nothing else; each is imported when it is first asked for, so
that ``import kale_magic`` stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kale_magic.version import __version__

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from kale_magic.api import Run, Step, Workflow, connect

__all__ = ["Run", "Step", "Workflow", "__version__", "connect", "load_ipython_extension"]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562)."""
    if name in {"Run", "Step", "Workflow", "connect"}:
        from kale_magic import api

        return getattr(api, name)
    message = f"module 'kale_magic' has no attribute {name!r}"
    raise AttributeError(message)


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics; IPython calls it for ``%load_ext kale_magic``."""
    from kale_magic.magics import register

    register(shell)
