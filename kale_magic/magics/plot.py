"""``%kale_plot``: a step's metrics, or columns of its files, drawn live under the cell until the step is over."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_magic.api.find import points_of, where_in
from kale_magic.api.plots import Source, of_metrics, of_table
from kale_magic.errors import KaleError, UsageError
from kale_magic.model.address import describe_point
from kale_magic.render.chart import chart_bundle

if TYPE_CHECKING:
    from collections.abc import Callable

    from kale_magic.api.find import Target
    from kale_magic.api.plots import Series
    from kale_magic.client import Client
    from kale_magic.magics.door import Request
    from kale_magic.magics.session import KaleMagics

_BETWEEN_S = 0.5
_SHARE = 10  # of the time goes into drawing, at most one part
_MOST_POINTS = 20
_FOLLOWS_S = 3600.0  # a step that is quiet so long is no longer followed
_log = logging.getLogger(__name__)


def plot(session: KaleMagics, request: Request) -> None:
    """Draw what a step measures."""
    args = request.args
    target = session.find(args.step)
    if args.file is None and (args.x or args.y):
        raise UsageError("--x and --y name columns of a --file.", "Name metrics after the step: %kale_plot STEP energy.")
    if args.file is not None:
        if args.metric:
            raise UsageError("--file has columns, not metrics.", f"Write --y {','.join(args.metric)}.")
        folder = Path(session.client.status(target.run)["workflow_folder"])
        read: Callable[[], Series] = partial(of_table, _file(target.files, folder, args.file), args.x, args.y)
        across = args.x or "row"
    else:
        read = partial(of_metrics, _sources(session.client, target), args.metric)
        across = "step"
    view = LivePlot(session, target, read, across)
    if view.start():
        session.keep_live(view)


def _file(step_folder: Path, folder: Path, name: str) -> Path:
    """Return a file's path: of the step's own folder if it is there, else of the workflow's, where its code works."""
    own = step_folder / name
    return own if own.exists() else folder / name


def _sources(client: Client, target: Target) -> list[Source]:
    """Return the jobs whose metrics are drawn: of a sweep, a line for each of its first points."""
    points = [] if target.point is not None else points_of(client, target.run, target.step)
    if not points:
        return [Source(label="", folder=target.files)]
    return [
        Source(label=describe_point(point), folder=target.files / str(number))
        for number, point in enumerate(points[:_MOST_POINTS])
    ]


class LivePlot:
    """One live plot: redrawn at most twice a second while its step is not over; the last drawing stays.

    Parameters
    ----------
    session : KaleMagics
        The notebook.
    target : Target
        The step.
    read : callable
        Returns the lines as they are now.
    across : str
        Name of the horizontal axis.
    """

    run = ""  # it is no display of a run

    def __init__(self, session: KaleMagics, target: Target, read: Callable[[], Series], across: str) -> None:
        self._session, self._target, self._read, self._across = session, target, read, across
        self._client: Client = session.follower()
        self._display_id = uuid.uuid4().hex
        self._last: dict[str, Any] | None = None
        self._is_unseen = False
        self._thread = threading.Thread(target=self._follow, name=f"kale-plot-{target}", daemon=True)

    @property
    def is_settled(self) -> bool:
        """Whether it has its last form, and was sent while a cell ran."""
        return not self._thread.is_alive() and not self._is_unseen

    def start(self) -> bool:
        """Draw it as it is now, and follow the step if it is not over (a terminal gets it once); say whether it does."""
        self._draw(self._target, is_new=True)
        if self._target.is_final or not self._session.is_rich:
            return False
        self._thread.start()
        return True

    def join(self, timeout: float = 3.0) -> None:
        """Wait for its end."""
        self._thread.join(timeout)

    def repeat_final(self) -> None:
        """Send the last form once more if it was sent while no cell ran."""
        if self._is_unseen and self._last is not None:
            self._is_unseen = False
            self._publish(self._last, is_new=False)

    def _follow(self) -> None:
        quiet_since = time.monotonic()
        try:
            while time.monotonic() - quiet_since < _FOLLOWS_S:
                started = time.monotonic()
                target = where_in(self._client, self._target.run, self._target.step, self._target.point)
                if self._draw(target, is_new=False):
                    quiet_since = started
                if target.is_final:
                    return
                time.sleep(max(_BETWEEN_S, _SHARE * (time.monotonic() - started)))
        except KaleError as exc:
            _log.debug("the plot of %s ended: %s", self._target, exc)
        except Exception:  # the thread's edge: a display that fails must not print into another cell
            _log.exception("the plot of %s ended", self._target)
        finally:
            self._client.close()

    def _draw(self, target: Target, *, is_new: bool) -> bool:
        """Draw it if it has changed; say whether it has."""
        bundle = chart_bundle(self._read(), title=f"{target} ({target.state})", x=self._across)
        if bundle == self._last:
            return False
        self._last = bundle
        self._is_unseen = target.is_final and not self._session.is_in_cell
        self._publish(bundle, is_new=is_new)
        return True

    def _publish(self, bundle: dict[str, Any], *, is_new: bool) -> None:
        publisher = self._session.shell.display_pub
        publisher.publish(data=bundle, transient={"display_id": self._display_id}, update=not is_new)
