"""What the parts of one dashboard share: which run, which steps are selected, and one thread that follows the run.

The thread has a client of its own, so a cell that computes for an hour delays nothing; it looks at most five times a
second, however much happens. Owns no widget: parts are told through :class:`Watches`. Called by the widgets and by
``%kale_dashboard``.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kale_magic.api import mirror
from kale_magic.api.copies import Copies
from kale_magic.api.find import Scope
from kale_magic.errors import KaleError, ManagerUnavailable, UnknownRunError, WorkflowError
from kale_magic.model import dataflow
from kale_magic.render.view import Graph, graph_of_plan, graph_of_status
from kale_magic.widgets.tables import SUFFIXES
from kale_proxy import pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kale_magic._events import EventStream
    from kale_magic.client import Client
    from kale_magic.model.workflow import Workflow

_BETWEEN_S = 0.2  # at most five updates a second
_TICK_S = 1.0  # elapsed times and logs move although no state changes
_RUNS_SHOWN = 30
_FINAL = frozenset({"completed", "failed", "cancelled"})
_log = logging.getLogger(__name__)


class Book(Protocol):
    """Where a dashboard is: a notebook with Kale's magics, or any other Python."""

    @property
    def client(self) -> Client:
        """The manager, for what the person does."""

    @property
    def folder(self) -> Path:
        """The workflow's folder."""

    @property
    def scope(self) -> Scope:
        """Whose runs are meant."""

    @property
    def submitted(self) -> dict[str, Workflow]:
        """What runs of this notebook were submitted with."""

    def declared(self) -> Workflow | None:
        """Return the workflow as the notebook has it now."""

    def follower(self) -> Client:
        """Return a client for the thread, which never starts a manager that somebody has stopped."""


class Texts(Protocol):
    """What looks through a file of any size; see :mod:`kale_proxy.pieces`."""

    def before(self, path: Path, end: int) -> pieces.Piece:
        """Return the lines that stand before a position."""

    def find(self, path: Path, word: str, at: int, *, is_backward: bool = False) -> int | None:
        """Return where a word stands next."""

    def around(self, path: Path, at: int) -> tuple[pieces.Piece, int]:
        """Return the lines around a position, and the number of the one that has it."""


class Watches(Protocol):
    """A part, as the desk sees it."""

    def show(self, seen: Seen) -> None:
        """Show the run as it is now; called from the desk's thread, and from that of a click."""


class Anywhere:
    """A :class:`Book` without a notebook: the runs of the current folder."""

    def __init__(self) -> None:
        from kale_magic.client import Client

        self.client = Client.connect()
        self.folder = Path.cwd()
        self.scope = Scope(folder=self.folder)
        self.submitted: dict[str, Workflow] = {}

    def declared(self) -> None:
        """Return None: nothing is declared here."""

    def follower(self) -> Client:
        """Return a client for the thread."""
        from kale_magic import config
        from kale_magic.client import Client

        return Client(config.load(), start=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """The run as it was at one moment; ``status`` is None before the first run, ``problem`` is why nothing is known."""

    graph: Graph
    status: dict[str, Any] | None = None
    workflow: Workflow | None = None
    runs: tuple[str, ...] = ()
    problem: str = ""
    at: float = field(default_factory=time.time)

    @property
    def run(self) -> str:
        """The run's id, empty before the first."""
        return str(self.status["run"]) if self.status else ""

    @property
    def states(self) -> dict[str, str]:
        """State of each step."""
        return {node.name: node.state for node in self.graph.nodes}


class Desk:
    """One dashboard's shared part.

    Parameters
    ----------
    book : Book
        Where it is.
    run : str, optional
        The run to show; the newest one in scope, as new ones come, if none is given.
    step : str, optional
        The step to select at the start.
    """

    def __init__(self, book: Book, *, run: str | None = None, step: str | None = None, point: int | None = None) -> None:
        self.book = book
        self.selected: list[str] = [step] if step else []
        self.point = point
        self.lock = threading.RLock()
        self._run = run
        self._parts: weakref.WeakSet[Any] = weakref.WeakSet()
        self._workflows: dict[str, tuple[Workflow | None, tuple[tuple[str, str], ...]]] = {}
        self._wake = threading.Event()
        self._is_closed = False
        self.after: Callable[[Seen], None] | None = None  # called after the parts
        self._client = book.follower()
        self._copies = Copies(book.follower(), self.show, sorted(SUFFIXES)) if self._client.host else None
        self._thread: threading.Thread | None = None
        self.seen = Seen(graph=Graph(()))

    def add(self, part: Watches) -> None:
        """Tell a part from now on; the first one starts the thread."""
        with self.lock:
            self._parts.add(part)
            if self._thread is None:
                self.seen = self._seen_now()
                self._thread = threading.Thread(target=self._follow, name="kale-dashboard", daemon=True)
                self._thread.start()
            part.show(self.seen)

    def remove(self, part: Watches) -> None:
        """Tell a part no more; the thread ends with the last one."""
        with self.lock:
            self._parts.discard(part)
            if not self._parts:
                self.close()

    def folder_of(self, step: str, point: int | None) -> Path | None:
        """Return the folder of a job of the run that is shown, or a copy of it here that grows with it; None before the first run."""
        if self.seen.status is None:
            return None
        folder = self._there(step, point)
        return folder if self._copies is None else self._copies.folder(str(folder))

    def places_of_tables(self, step: str, point: int | None) -> list[Path]:
        """Return the folders, or copies of them here, where tables may be that a job writes: its own and its workflow's."""
        if self.seen.status is None:
            return []
        folders = [self._there(step, point), Path(self.seen.status["workflow_folder"])]
        return folders if self._copies is None else [self._copies.folder(str(folder), has_tables=True) for folder in folders]

    def _there(self, step: str, point: int | None) -> Path:
        """Return the folder of a job on the run's host."""
        assert self.seen.status is not None
        folder = Path(self.seen.status["folder"]) / "steps" / step
        return folder if point is None else folder / str(point)

    @property
    def texts(self) -> Texts:
        """What looks through the logs in folders that :meth:`folder_of` names."""
        return pieces if self._copies is None else self._copies

    def close(self) -> None:
        """End the threads."""
        self._is_closed = True
        self._wake.set()
        if self._copies is not None:
            self._copies.close()

    def select(self, steps: Iterable[str], point: int | None = None) -> None:
        """Make these the selected steps, and one point of the only one of them."""
        with self.lock:
            self.selected, self.point = list(steps), point
            self.show()

    def choose(self, run: str) -> None:
        """Show another run."""
        self._run = run or None
        self.refresh()

    @property
    def client(self) -> Client:
        """The manager for what is shown, by the thread that asks: never starts one."""
        return self._client

    def look(self) -> Seen:
        """Return the run as it is now; raises KaleError."""
        return self._look(self.book.client)

    def refresh(self) -> None:
        """Look now, after something was done."""
        self._take(self._seen_now())

    def follow_newest(self) -> None:
        """Show the newest run again, as after a submit."""
        self._run = None
        self.refresh()

    def show(self) -> None:
        """Have every part show what was seen last."""
        with self.lock:
            for tell in [*(part.show for part in self._parts), *filter(None, [self.after])]:
                try:
                    tell(self.seen)
                except Exception:  # one part's mistake must not stop the others, nor print into another cell
                    _log.exception("%s failed", tell)

    def _follow(self) -> None:
        try:
            while not self._is_closed:
                try:
                    self._follow_events()
                except ManagerUnavailable as exc:
                    self._tell(f"{exc} What is shown is from {time.strftime('%H:%M:%S', time.localtime(self.seen.at))}.")
                except KaleError as exc:
                    self._tell(str(exc))
                self._wake.wait(_TICK_S)
        except Exception:  # the thread's edge
            _log.exception("the dashboard is no longer kept up to date")
        finally:
            self._client.close()

    def _follow_events(self) -> None:
        with self._client.events(since=self._newest_seq()) as stream:
            while not self._is_closed and self._parts:
                started = time.monotonic()
                self._take(self._look(self._client))
                self._pause(stream, time.monotonic() - started)

    def _newest_seq(self) -> int:
        runs = self._client.runs(None, 1)
        return int(self._client.status(str(runs[0]["run"]))["seq"]) if runs else 0

    def _pause(self, stream: EventStream, cost: float) -> None:
        shown = time.monotonic()
        until = shown + max(_BETWEEN_S, 4 * cost)
        stream.next(_TICK_S if not self._is_busy else _BETWEEN_S)
        while (left := until - time.monotonic()) > 0:
            stream.next(left)

    @property
    def _is_busy(self) -> bool:
        """Whether something that no event tells of may move: a log, metrics, samples."""
        return self.seen.status is not None and self.seen.status["state"] not in _FINAL

    def _tell(self, problem: str) -> None:
        with self.lock:
            old = self.seen
            self.seen = Seen(graph=old.graph, status=old.status, workflow=old.workflow, runs=old.runs, problem=problem, at=old.at)
            self.show()

    def _take(self, seen: Seen) -> None:
        with self.lock:
            self.seen = seen
            self.show()

    def _seen_now(self) -> Seen:
        try:
            return self.look()
        except KaleError as exc:
            return Seen(graph=self.seen.graph, problem=str(exc))

    def _look(self, client: Client) -> Seen:
        runs = tuple(str(run["run"]) for run in self.book.scope.runs(client, _RUNS_SHOWN))
        run = self._run or (runs[0] if runs else "")
        if not run:
            declared = self.book.declared()
            return Seen(graph=_graph_of(declared), workflow=declared, runs=("",))
        try:
            status = client.status(run)
        except UnknownRunError:
            self._run = None
            raise
        workflow, edges = self._workflow_of(client, status)
        listed = runs if run in runs else (run, *runs)
        return Seen(graph=graph_of_status(status, edges), status=status, workflow=workflow, runs=listed)

    def _workflow_of(self, client: Client, status: dict[str, Any]) -> tuple[Workflow | None, tuple[tuple[str, str], ...]]:
        run = str(status["run"])
        if run not in self._workflows:
            workflow = self.book.submitted.get(run) or _read(client, str(status["folder"]))
            self._workflows[run] = workflow, _edges(workflow, list(status["steps"]))
        return self._workflows[run]


def _read(client: Client, folder: str) -> Workflow | None:
    from kale_magic.formats import native

    try:
        return native.read(mirror.run_folder(client, folder, "workflow.yaml") / "workflow.yaml")
    except KaleError:  # removed, or of a later version: the run can be watched all the same
        return None


def _edges(workflow: Workflow | None, steps: list[str]) -> tuple[tuple[str, str], ...]:
    if workflow is None:
        return ()
    try:
        plan = dataflow.resolve(workflow, wanted=steps)
    except WorkflowError:  # a run of some steps alone was given what the whole workflow lacks
        return tuple((parent, name) for name, step in workflow.steps.items() for parent in step.after)
    return tuple((parent, name) for name, step in plan.steps.items() for parent in step.parents)


def _graph_of(workflow: Workflow | None) -> Graph:
    if workflow is None or not workflow.steps:
        return Graph((), (), workflow.name if workflow else "")
    try:
        return graph_of_plan(workflow, dataflow.resolve(workflow))
    except WorkflowError:
        graph = graph_of_plan(workflow, dataflow.Plan({}, ()))
        return Graph(graph.nodes, _edges(workflow, list(workflow.steps)), graph.title)
