"""Whose code is running: a visit's, or (none) the step's own.

A context variable, not a thread's name, so that a visitor's coroutines and ``asyncio.to_thread`` calls
are the visit's too, while every plain thread, in which it was never set, counts as the step's.

This module and its siblings ``visit_*`` import one another relatively and nothing else of Kale:
:func:`kale_proxy.visits.bootstrap_source` carries them into environments that have no Kale.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .visit_session import Visit

CURRENT: ContextVar[Visit | None] = ContextVar("kale_visit", default=None)


def current() -> Visit | None:
    """Return the visit whose code is running, None for the step; a closed visit's left-overs count as the step's."""
    visit = CURRENT.get()
    return None if visit is None or visit.is_closed else visit
