"""Where a widget is made: in a notebook with Kale's magics, whose workflow and manager it takes, or anywhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kale_magic.widgets.desk import Anywhere, Desk

if TYPE_CHECKING:
    from kale_magic.widgets.desk import Book

_ATTRIBUTE = "_kale_session"


def desk_here(run: str | None = None, step: str | None = None) -> Desk:
    """Return a desk on the notebook that is at work, or on the runs of the current folder.

    Raises
    ------
    ManagerUnavailable
        No manager could be reached or started.
    UnknownRunError, UnknownStepError
        There is no such run or step.
    """
    from IPython.core.getipython import get_ipython

    book: Book = getattr(get_ipython(), _ATTRIBUTE, None) or Anywhere()
    return desk_on(book, run, step)


def desk_on(book: Book, run: str | None = None, step: str | None = None) -> Desk:
    """Return a desk on a run (None: the newest) and a step of it; raises as :func:`desk_here`."""
    from kale_magic.api.find import find_run, find_step

    if step:
        target = find_step(book.client, f"{run}/{step}" if run and "/" not in step else step, book.scope)
        return Desk(book, run=target.run, step=target.step, point=target.point)
    return Desk(book, run=find_run(book.client, run, book.scope) if run else None)
