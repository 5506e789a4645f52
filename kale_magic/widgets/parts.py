"""The parts of a dashboard as widgets: each shows what its view model says, and hands clicks on.

Owns the traits (what a page that comes late gets) and the messages (what changed since). A trait's value that only grows
or changes in places is changed in place and told by a message, so that a change costs its own size. Called by
:mod:`kale_magic.widgets` and ``%kale_dashboard``.
"""

from __future__ import annotations

import json
import math
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

import anywidget
import ipywidgets
from traitlets import Dict, List, Unicode

from kale_magic.api import files
from kale_magic.api.run import bundle_of
from kale_magic.errors import KaleError, UsageError
from kale_magic.render.html import run_html
from kale_magic.render.view import elapsed_s, format_duration
from kale_magic.widgets import acts, gates
from kale_magic.widgets._page import script, style
from kale_magic.widgets.place import desk_here
from kale_magic.widgets.viewmodel import actions
from kale_magic.widgets.viewmodel.dag import Scene, summary
from kale_magic.widgets.viewmodel.step import Kept, panel, summary_of

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping
    from pathlib import Path

    from kale_magic.widgets.desk import Desk, Seen

_FINAL = frozenset({"completed", "failed", "cancelled"})
_REPEAT_S = 2.0  # after the last change


class Part(anywidget.AnyWidget):  # type: ignore[misc] # anywidget is not typed
    """One part: keeps what it shows, and turns a person's mistake into a line in the page.

    ``twin`` names the static output that stands for it in a saved notebook, and is hidden while this one is seen.

    Parameters
    ----------
    desk : Desk, optional
        What it shares with other parts; one of its own if none is given.
    run : str, optional
        The run; the newest one of the notebook, as they come, if none is given.
    step : str, optional
        The step to show: ``fit``, ``fit[2]`` or ``fit[metal=Al]``.
    """

    _css = style()
    twin = Unicode("").tag(sync=True)
    title: ClassVar[str] = ""

    def __init__(self, desk: Desk | None = None, *, run: str | None = None, step: str | None = None) -> None:
        super().__init__()
        if hasattr(self.comm, "_reply_subshell_for"):
            self.comm._reply_subshell_for = _as_sent
        self.desk = desk or desk_here(run, step)
        self.add_class("kale-host")
        self.on_msg(self._on_message)
        self.desk.add(self)

    @property
    def main(self) -> Part:
        """The part whose static form stands for it in a saved notebook."""
        return self

    def __repr__(self) -> str:
        return f"Kale {type(self).__name__.lower()} of {self.desk.seen.run or 'no run yet'}: needs a front end with ipywidgets"

    def show(self, seen: Seen) -> None:
        """Show the run as it is now; called by the desk."""
        raise NotImplementedError

    def heard(self, message: dict[str, Any]) -> str | None:
        """Do what a message of the page asks, and return a sentence for the person; raises KaleError."""
        raise NotImplementedError

    def is_last(self, seen: Seen) -> bool:
        """Whether what is shown stays as it is, so that the saved notebook is to have it at once."""
        return seen.status is not None and seen.status["state"] in _FINAL

    def mark(self, seen: Seen) -> Hashable:
        """Return what the static form depends on: it is written anew when this is another one."""
        return (seen.run, tuple(self.desk.selected), None if self.is_last(seen) else seen.at)

    def text(self) -> str:
        """Return what is shown as text, for where nothing else can be."""
        status = self.desk.seen.status
        return str(bundle_of(status)["text/plain"]) if status else "No run yet: start one with %kale_submit."

    def static(self) -> str:
        """Return HTML of what is shown, for the saved notebook."""
        seen = self.desk.seen
        if seen.status is None:
            return ""
        now = None if seen.status["state"] in _FINAL else datetime.now(UTC)
        return run_html(seen.status, seen.graph.edges, now=now)

    def close(self) -> None:
        """Close the widget; the desk stops when its last part has gone."""
        self.desk.remove(self)
        super().close()

    def say(self, text: str, *, is_bad: bool = False) -> None:
        """Show a sentence in the part."""
        self.send({"t": "say", "text": text, "bad": is_bad})

    def _on_message(self, _: object, message: object, __: object) -> None:
        if not isinstance(message, dict):
            return
        try:
            text = self.heard(message)
            if text is not None:
                self.say(text)
        except KaleError as exc:
            self.say(f"{exc}", is_bad=True)


class Picture(Part):
    """The workflow as a picture: states by colour and word, pan, zoom, selection."""

    _esm = script("dag")
    title = "Workflow"
    scene = Dict().tag(sync=True)
    selected = List(Unicode()).tag(sync=True)
    head = Dict().tag(sync=True)

    def __init__(self, desk: Desk | None = None, *, direction: str = "LR", run: str | None = None) -> None:
        self._direction = direction
        self._drawn: Scene | None = None
        self._is_told = False
        self._repeat_at = math.inf
        super().__init__(desk, run=run)
        self.observe(self._on_selected, "selected")

    def show(self, seen: Seen) -> None:
        """Draw anew if there are other steps, else tell what changed."""
        patch = None
        if self._drawn is not None and self._drawn.direction == self._direction:
            patch = self._drawn.update(seen.graph)
        if patch is None:
            self._drawn = Scene(seen.graph, "TB" if self._direction == "TB" else "LR")
            self.scene = self._drawn.data
        elif patch:
            self.send({"t": "patch", "rows": patch})
            self._repeat_at = time.monotonic() + _REPEAT_S
        elif time.monotonic() > self._repeat_at:
            self._tell_all()
        self.head = self._head(seen)
        cards = self._cards_of(self.desk.selected)
        if set(self.selected) != set(cards):
            self._is_told = True
            self.selected = cards
            self._is_told = False

    def _tell_all(self) -> None:
        """Tell the states of all cards: what was told while a page was still loading the script has been lost to it."""
        self._repeat_at = math.inf
        if self._drawn is not None:
            self.send({"t": "patch", "rows": list(enumerate(self._drawn.data["rows"]))})

    def heard(self, message: dict[str, Any]) -> str | None:
        """Turn the picture, show another run, or tell a page that has just come how things are."""
        if message.get("t") == "here":
            with self.desk.lock:
                self._tell_all()
        elif message.get("t") == "turn":
            self._direction = "TB" if self._direction == "LR" else "LR"
            with self.desk.lock:
                self.show(self.desk.seen)
        elif message.get("t") == "run":
            self.desk.choose(str(message.get("run") or ""))
        return None

    def _head(self, seen: Seen) -> dict[str, Any]:
        runs = {"runs": list(seen.runs), "run": seen.run}
        if seen.problem:
            return {**runs, "state": "", "text": seen.problem}
        if seen.status is None:
            text = "not run yet" if seen.graph.nodes else "no steps yet: declare one with %%kale_step NAME"
            return {**runs, "state": "", "text": text}
        took = format_duration(elapsed_s(seen.status, datetime.now(UTC)))
        return {**runs, "state": str(seen.status["state"]), "text": " · ".join(filter(None, [summary(seen.graph.nodes), took]))}

    def _on_selected(self, _: object) -> None:
        if not self._is_told:
            self.desk.select(self._steps_of(self.selected))

    def _steps_of(self, cards: list[str]) -> list[str]:
        return [step for card in cards for step in (self._drawn.members(card) if self._drawn else [card])]

    def _cards_of(self, steps: list[str]) -> list[str]:
        cards = [str(card[0]) for card in self.scene.get("cards", ())]
        wanted = set(steps)
        return [card for card in cards if wanted.issuperset(self._steps_of([card]))]


class Actions(Part):
    """The buttons under the picture: what can be done to what is selected."""

    _esm = script("actions")
    title = "Actions"
    acts = List().tag(sync=True)
    what = Unicode("").tag(sync=True)

    def show(self, seen: Seen) -> None:
        """Switch the buttons on and off."""
        self.acts = actions.offered(seen.states, self.desk.selected, can_submit=seen.workflow is not None)
        self.what = actions.what(self.desk.selected)

    def heard(self, message: dict[str, Any]) -> str | None:
        """Do what a button says."""
        return acts.act(self.desk, str(message.get("act")), self.desk.selected) if message.get("t") == "act" else None


class Step(Part):
    """The panel of the selected step."""

    _esm = script("step")
    title = "Step"
    view = Dict().tag(sync=True)

    def __init__(self, desk: Desk | None = None, *, run: str | None = None, step: str | None = None) -> None:
        desk = desk or desk_here(run, step)
        self._questions = gates.Questions(desk)
        super().__init__(desk)

    def show(self, seen: Seen) -> None:
        """Show the selected step, or the list of several."""
        chosen = self.desk.selected
        if len(chosen) != 1:
            several = {"several": summary_of(chosen, seen.states)} if chosen else {"empty": "Click a step in the picture, or go to it with Tab and the arrow keys."}
            self.view = {"name": "", "label": "", "params": [], **several}
            return
        name, point = chosen[0], self.desk.point
        item = seen.status["steps"].get(name) if seen.status else None
        kept = self._kept(item, point)
        found = panel(name, point, item, seen.workflow, kept, run=seen.run, now=datetime.now(UTC))
        job = item or {}
        if point is not None:
            job = (job.get("points") or {}).get(str(point), {})
        asked = self._questions.of(name, point, job) if point is not None or not job.get("points") else {}
        self.view = {**found, "can_submit": seen.workflow is not None, "gate": asked}

    def heard(self, message: dict[str, Any]) -> str | None:
        """Go to another step or point, run with other parameters, or change those of what runs."""
        if message.get("t") == "pick":
            point = message.get("point")
            self.desk.select([str(message.get("step"))], int(point) if point is not None else None)
        elif message.get("t") == "act" and message.get("act") in {"run", "from", "push"}:
            return acts.act(self.desk, str(message["act"]), self.desk.selected, _typed(message.get("params") or {}))
        elif message.get("t") == "continue":
            answer = message.get("answer")
            return gates.go_on(self.desk, self.desk.selected, values=str(message.get("set") or ""), answer=answer if isinstance(answer, str) else None)
        return None

    def text(self) -> str:
        """Return what the panel says as text."""
        if not self.view.get("name"):
            return super().text()
        rows = [*self.view["facts"], *self.view["swept"], *self.view["params"]]
        head = " ".join(filter(None, [self.view["label"], self.view["state"], self.view["reason"]]))
        return "\n".join([head, *(f"  {key}: {value}" for key, value in rows)])

    def static(self) -> str:
        """Return what the panel says as HTML."""
        from kale_magic.widgets.static_html import panel_html

        return panel_html(self.view) if self.view.get("name") else super().static()

    def _kept(self, item: Mapping[str, Any] | None, point: int | None) -> Kept:
        if item is None or (point is None and item.get("points")):
            return Kept()
        folder = self.desk.folder_of(self.desk.selected[0], point)
        if folder is None:
            return Kept()
        return Kept(script=files.log(folder, "job.sh", None), events=files.log(folder, "events.jsonl", 200), outputs=_index(folder))


class Dag(ipywidgets.VBox):  # type: ignore[misc] # ipywidgets is not typed
    """The picture with its buttons.

    Parameters
    ----------
    run : str, optional
        The run; the newest, as they come, if none is given.
    direction : {"LR", "TB"}
        Whether it flows to the right or down.
    """

    def __init__(self, run: str | None = None, *, direction: str = "LR", desk: Desk | None = None) -> None:
        self.desk = desk or desk_here(run)
        self.main = Picture(self.desk, direction=direction)
        super().__init__([self.main, Actions(self.desk)])

    def __repr__(self) -> str:
        return repr(self.main)


def _as_sent(_: object, subshell: str | None) -> str | None:
    """Return the subshell that the page chose for its message.

    ipykernel (7.4) would hand it to the one that spoke last, which is the main shell: a click would wait for the cell
    that computes there.
    """
    return subshell


def _typed(params: Mapping[str, object]) -> dict[str, object]:
    from kale_magic.model.literals import literal_or_text

    for name, value in params.items():
        if not isinstance(value, str) or not value.strip():
            raise UsageError(f"Parameter {name} is empty.", "Write a value, text in quotes.")
    return {name: literal_or_text(str(value)) for name, value in params.items()}


def _index(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        return files.saved(folder)
    except (OSError, json.JSONDecodeError):  # it is being written
        return {}
