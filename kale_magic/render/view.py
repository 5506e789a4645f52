"""What the pictures are made of: nodes and edges, read from a workflow's plan or from the ``status`` object of a run.

Owns the reading of those two forms, so that the drawing modules see one; unknown or missing fields of a
status are data, never an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kale_magic.model.states import StepState
from kale_magic.render.words import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kale_magic.model.dataflow import Plan
    from kale_magic.model.step import Step
    from kale_magic.model.workflow import Workflow

DECLARED = "declared"  # of a step that no run has taken up yet
_DONE = (StepState.COMPLETED.value, StepState.CACHED.value)
STATES = (DECLARED, *(state.value for state in StepState))


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One step of a picture.

    ``counts`` says how many points of a sweep are in which state, and is empty for a step that is no
    sweep; ``note`` is a few characters beside the state, ``detail`` a sentence for who asks more.
    """

    name: str
    state: str = DECLARED
    counts: Mapping[str, int] = field(default_factory=dict)
    note: str = ""
    detail: str = ""

    @property
    def is_sweep(self) -> bool:
        """Whether the step has several points, so that it is drawn as a stack."""
        return bool(self.counts)

    @property
    def total(self) -> int:
        """Number of jobs: the points of a sweep, else 1."""
        return sum(self.counts.values()) or 1

    @property
    def done(self) -> int:
        """How many of them ended well."""
        if not self.counts:
            return int(self.state in _DONE)
        return sum(self.counts.get(state, 0) for state in _DONE)

    @property
    def tally(self) -> str:
        """``2/3`` for a sweep that a run has taken up, ``3 points`` before, empty for a plain step."""
        if not self.counts:
            return ""
        return f"{self.total} points" if self.state == DECLARED else f"{self.done}/{self.total}"


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in order of declaration, and edges as pairs of names, producer first."""

    nodes: tuple[Node, ...]
    edges: tuple[tuple[str, str], ...] = ()
    title: str = ""


def graph_of_plan(workflow: Workflow, plan: Plan) -> Graph:
    """Return the picture of a workflow that was declared and not (yet) run."""
    nodes = tuple(_declared(step) for step in workflow.steps.values())
    edges = tuple((parent, name) for name, planned in plan.steps.items() for parent in planned.parents)
    return Graph(nodes, edges, workflow.name)


def graph_of_status(status: Mapping[str, Any], edges: Iterable[tuple[str, str]] = ()) -> Graph:
    """Return the picture of a run.

    Parameters
    ----------
    status : mapping
        The object that the manager answers to ``status``.
    edges : iterable of (producer, consumer)
        From the plan of the workflow; edges that the status itself has (``parents`` of a step) are added.
    """
    steps: Mapping[str, Mapping[str, Any]] = status.get("steps") or {}
    found = dict.fromkeys(edges)
    found.update(dict.fromkeys((parent, name) for name, step in steps.items() for parent in step.get("parents") or ()))
    known = tuple(edge for edge in found if edge[0] in steps and edge[1] in steps)
    return Graph(tuple(node_of_status(name, step) for name, step in steps.items()), known, str(status.get("run") or ""))


def node_of_status(name: str, step: Mapping[str, Any]) -> Node:
    """Return one step of a ``status`` object as a node."""
    return Node(
        name=name,
        state=str(step.get("state") or StepState.WAITING.value),
        counts=counts_of(step),
        detail=reason_of(step),
    )


def counts_of(step: Mapping[str, Any]) -> dict[str, int]:
    """Return how many points of a sweep are in which state; empty for a step that is no sweep."""
    if "points" not in step:
        return {}
    if found := step.get("counts"):  # of a long sweep not all of its points may be there
        return dict(found)
    counts: dict[str, int] = {}
    for point in step["points"].values():
        state = str(point.get("state") or StepState.WAITING.value)
        counts[state] = counts.get(state, 0) + 1
    return counts


def reason_of(step: Mapping[str, Any]) -> str:
    """Return why a step is in its state, as one sentence: its reason, else its error, else that of its first bad point."""
    if reason := step.get("reason"):
        return str(reason)
    if error := step.get("error"):
        return error_line(error)
    for number, point in (step.get("points") or {}).items():
        if point.get("state") in {StepState.FAILED.value, StepState.LOST.value} and (inner := reason_of(point)):
            return f"point {number}: {inner}"
    return ""


def told(state: str, reason: object) -> str:
    """Return ``STATE: reason`` as one line, the state not said twice; the state alone where there is no reason."""
    text = one_line(reason or "").removeprefix(f"{state}: ")
    return f"{state}: {text}" if text and text != state else state


def error_line(error: Mapping[str, Any] | str) -> str:
    """Return ``NameError: name 'x' is not defined`` of an error object of a status."""
    if isinstance(error, str):
        return error
    kind, value = str(error.get("ename") or ""), str(error.get("evalue") or "")
    return f"{kind}: {value}" if kind and value else kind or value


def tracebacks(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return ``(STEP or STEP[N], traceback with its ANSI colours)`` for everything in a run that failed with one."""
    found = []
    for name, step in (status.get("steps") or {}).items():
        whole = [] if step.get("points") else [(name, step)]
        parts = [(f"{name}[{number}]", point) for number, point in (step.get("points") or {}).items()]
        for label, item in whole + parts:
            error = item.get("error")
            lines = error.get("traceback") if isinstance(error, dict) else None
            if lines:
                found.append((label, lines if isinstance(lines, str) else "\n".join(map(str, lines))))
    return found


def elapsed_s(item: Mapping[str, Any], now: datetime | None = None) -> float | None:
    """Return how long a run, step or point took, or has been running at ``now``; None if it has not started."""
    start = parse_time(item.get("started_at") or item.get("submitted_at"))
    end = parse_time(item.get("ended_at"))
    if start is None:
        starts = [t for point in (item.get("points") or {}).values() if (t := parse_time(point.get("started_at")))]
        start = min(starts, default=None)
    if start is None or (end is None and now is None):
        return None
    return max(0.0, ((end or now or start) - start).total_seconds())


def parse_time(text: object) -> datetime | None:
    """Return an ISO 8601 time as aware UTC; None for none, or for what is no time."""
    if not isinstance(text, str) or not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def format_duration(seconds: float | None) -> str:
    """Return ``0.4 s``, ``12 s``, ``3:05`` or ``1:02:03``; empty for None."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _declared(step: Step) -> Node:
    resources = step.resources
    asked = [
        f"{amount} {word}" if amount == 1 else f"{amount} {word}s"
        for amount, word in ((resources.nodes, "node"), (resources.cpus, "cpu"), (resources.gpus, "gpu"))
        if amount
    ]
    kind = "" if step.kind == "python" else step.kernel or step.kind.value
    counts = {DECLARED: len(step.points())} if step.is_sweep else {}
    first = step.description.strip().splitlines()
    return Node(
        name=step.name, counts=counts, note=", ".join(filter(None, [kind, *asked])), detail=first[0] if first else ""
    )
