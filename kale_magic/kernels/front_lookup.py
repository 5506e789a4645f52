"""What the kernel ``kale`` asks the manager: which steps there are, and which one a person means. Blocking."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

from kale_magic.api.find import Scope, find_run, find_step, one_job, refuse_without_kernel, where_in
from kale_magic.api.gate import asked, go_on
from kale_magic.api.visits import Visits
from kale_magic.errors import UnknownStepError, UsageError
from kale_magic.model.states import StepState
from kale_magic.render.tables import table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kale_magic.api.find import Asks, Target
    from kale_magic.client import Client

_RUNS = 1000
_SHOWN = 100
_RUNNING = frozenset(state.value for state in StepState if state.is_live)
_FINAL = frozenset(state.value for state in StepState if state.is_final)


class Row(NamedTuple):
    """A line of ``%kale_tasks``: a step, a point of a sweep, or the points of a sweep that wait."""

    run: str
    step: str
    state: str
    node: str
    note: str
    is_one: bool = True

    @property
    def is_running(self) -> bool:
        """Whether it has begun."""
        return self.state in _RUNNING


def find_target(client: Asks, text: str) -> Target:
    """Return the step that a person means; raises UsageError and its kind with a sentence for each mistake."""
    target = one_job(client, find_step(client, text, Scope(), is_acting=True))
    refuse_without_kernel(target)
    return target


def let_go_on(client: Client, text: str, values: Mapping[str, object], answer: str | None) -> str:
    """Open a gate, or answer what a step's code asks; return what to tell the person.

    Raises
    ------
    UsageError
        It waits for nobody, or for something else than was given.
    """
    target = one_job(client, find_step(client, text, Scope(), is_acting=True))
    with contextlib.closing(Visits(client)) as visits:
        if answer is None and target.live is not None and asked(visits, target)["kind"] == "input":
            raise UsageError(f"{target} {target.reason or 'asks for an answer'}.", f"Write %kale_continue {target} --answer TEXT.")
        return f"{target} {go_on(visits, target, values, answer=answer)}."


def rows(client: Asks) -> list[Row]:
    """Return the steps of live runs that are not over, those that run first."""
    live = [run for run in client.runs(None, _RUNS) if run.get("state") == "running"]
    found = [row for run in live for row in _rows_of(client.status(str(run["run"])))]
    return sorted(found, key=lambda row: not row.is_running)


def running(client: Asks, run: str | None = None) -> list[Target]:
    """Return the steps that have a kernel now, in the order of runs and steps; of one run if one is given.

    Raises
    ------
    UsageError
        There are none.
    UnknownRunError
        There is no such run.
    """
    wanted = find_run(client, run, Scope()) if run is not None else None
    found = []
    for row in rows(client):
        if row.is_running and wanted in {None, row.run}:
            target = _where(client, row)
            if target is not None and target.kernel is not None and target.kind not in {"shell", "script"}:
                found.append(target)
    if not found:
        where = f" of {wanted}" if wanted else ""
        raise UsageError(f"No step{where} that has a kernel is running.", "%kale_tasks lists what waits.")
    return found


def tasks(client: Asks) -> dict[str, Any]:
    """Return the table of ``%kale_tasks``, as a mime bundle."""
    found = rows(client)
    if not found:
        return {"text/plain": "No step is running or waiting. Start some with %kale_submit in a notebook, or: jupyter kale run"}
    lines = []
    for row in found[:_SHOWN]:
        note = row.note
        if row.is_running and row.is_one and (target := _where(client, row)) is not None and target.kind in {"shell", "script"}:
            note = f"a {target.kind} step: it has no kernel"
        lines.append((row.run, row.step, row.state, row.node, note))
    bundle = table(("run", "step", "state", "node", "note"), lines)
    if len(found) > _SHOWN:
        bundle["text/plain"] += f"\n... and {len(found) - _SHOWN} more"
        bundle["text/html"] += f"<div>... and {len(found) - _SHOWN} more</div>"
    return bundle


def _where(client: Asks, row: Row) -> Target | None:
    step, _, point = row.step.partition("[")
    try:
        return where_in(client, row.run, step, int(point.rstrip("]")) if point else None)
    except UnknownStepError:
        return None


def _rows_of(status: dict[str, Any]) -> Iterator[Row]:
    run = str(status["run"])
    for name, step in status.get("steps", {}).items():
        points = step.get("points")
        if not points:
            if step.get("state") not in _FINAL:
                yield _row(run, name, step)
            continue
        for number, point in points.items():
            if point.get("state") in _RUNNING:
                yield _row(run, f"{name}[{number}]", point)
        waiting = sum(n for state, n in step.get("counts", {}).items() if state not in _FINAL | _RUNNING)
        if waiting:
            yield Row(run, name, "waiting", "", f"{waiting} points", is_one=False)


def _row(run: str, name: str, step: dict[str, Any]) -> Row:
    state = str(step.get("state"))
    return Row(run, name, state, str(step.get("node") or ""), "" if state in _RUNNING else str(step.get("reason") or ""))
