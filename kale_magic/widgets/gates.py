"""Steps that wait for a person, as the dashboard sees them: what they ask, and the answer on its way to them.

What a step asks is known to its own agent; it is asked once a question, in a thread, since the step may be on another host.
An answer is a message of the page: it is in no trait, so in no saved state, and a secret one is kept nowhere.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

from kale_magic.api import gate
from kale_magic.api.find import Target, one_job, where_in
from kale_magic.api.visits import Visits
from kale_magic.dsl.options import parse
from kale_magic.errors import KaleError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kale_magic.widgets.desk import Desk

GATED = "gated"


class Questions:
    """What gated steps ask, for a panel that is drawn again and again.

    Parameters
    ----------
    desk : Desk
        Told when an answer has come.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._key: tuple[object, ...] = ()
        self._found: dict[str, Any] = {}

    def of(self, step: str, point: int | None, job: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``id``, ``kind`` (gate or input), ``prompt``, ``password`` of what a job asks; empty while nothing is known."""
        if job.get("state") != GATED:
            self._key = ()
            return {}
        run = self._desk.seen.run
        key = (run, step, point, job.get("attempt"), job.get("reason"))
        if key != self._key:
            self._key, self._found = key, {}
            threading.Thread(target=self._ask, args=(key, run, step, point), name="kale-gate", daemon=True).start()
        return self._found

    def _ask(self, key: tuple[object, ...], run: str, step: str, point: int | None) -> None:
        client = self._desk.book.follower()
        try:
            with contextlib.closing(Visits(client)) as visits:
                found = _asked(visits, one_job(client, where_in(client, run, step, point)))
        except KaleError as exc:  # it has gone on meanwhile, or can't be reached
            found = {"kind": "none", "prompt": str(exc)}
        finally:
            client.close()
        with self._desk.lock:
            if key == self._key:
                self._found = {**found, "id": repr(key)}
                self._desk.show()


def _asked(visits: Visits, target: Target) -> dict[str, Any]:
    if target.live is None and target.reach is None:  # nothing is allocated for it yet
        return {"kind": "gate", "prompt": ""}
    found = gate.asked(visits, target)
    return {"kind": found["kind"], "prompt": str(found.get("prompt") or ""), "password": bool(found.get("password"))}


def go_on(desk: Desk, steps: Sequence[str], *, values: str = "", answer: str | None = None) -> str:
    """Let steps go on that wait for a person, all waiting points of a sweep; return what came of it.

    Parameters
    ----------
    desk : Desk
        Which run, and which point is selected.
    steps : sequence of str
        Those of them that are gated are meant.
    values : str
        ``x=3 name='Cu'``: variables that the code finds.
    answer : str, optional
        What ``input()`` in the step returns.

    Raises
    ------
    UsageError
        None waits, or one asks a question and there is no answer.
    """
    decided = parse("continue", f"STEP --set {values}").set if values.strip() else {}
    said = []
    with contextlib.closing(Visits(desk.book.client)) as visits:
        for target in _gated(desk, steps):
            if answer is None and (asked := _asked(visits, target))["kind"] == "input":
                raise UsageError(f"{target.label} asks: {asked['prompt'].strip() or 'input'}", "Answer it in the step's panel.")
            said.append(f"{target.label} {gate.go_on(visits, target, dict(decided), answer=answer)}")
    desk.refresh()
    return f"{'; '.join(said)}."


def _gated(desk: Desk, steps: Sequence[str]) -> list[Target]:
    client, status = desk.book.client, desk.seen.status or {}
    found = []
    for step in steps:
        item = (status.get("steps") or {}).get(step) or {}
        points = item.get("points") or {}
        chosen: list[int | None] = [desk.point] if desk.point is not None and len(steps) == 1 else [*map(int, points)] or [None]
        found += [(step, point) for point in chosen if (item if point is None else points.get(str(point), {})).get("state") == GATED]
    if not found:
        raise UsageError("None of these waits for a person.")
    return [one_job(client, where_in(client, desk.seen.run, step, point)) for step, point in found]
