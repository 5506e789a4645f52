"""Which actions a dashboard offers for what is selected, and why the others are off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_OVER = frozenset({"completed", "cached", "failed", "cancelled", "declared"})
_BAD = frozenset({"failed", "cancelled", "lost"})
_RUNS = frozenset({"running"})


def offered(states: Mapping[str, str], selected: Sequence[str], *, can_submit: bool) -> list[dict[str, Any]]:
    """Return the buttons: name, label, whether it is on, a tip, and whether it asks back.

    Parameters
    ----------
    states : mapping of str to str
        State of each step of the run or workflow.
    selected : sequence of str
        Steps; none means the whole workflow.
    can_submit : bool
        Whether the workflow is known here.
    """
    meant = [states[name] for name in selected if name in states] if selected else list(states.values())
    is_bad = any(state in _BAD for state in meant)
    is_open = any(state not in _OVER for state in meant)
    runs = [state for state in meant if state in _RUNS]
    return [
        _button("run", "Run these" if selected else "Run all", can_submit and bool(states), "submit a new run"),
        _button("from", "Run from here", can_submit and bool(selected), "submit these steps and all that waits for them"),
        _button("again", "Rerun failed", can_submit and is_bad, "submit what failed or was cancelled, and all that waits for it"),
        _button("pause", "Pause", bool(selected and runs), "hold the code still between two lines; the kernel stays open to visitors"),
        _button("resume", "Resume", bool(selected) and any(state == "paused" for state in meant), "let the code go on; end the look at what was stopped"),
        _button("continue", "Continue", any(state == "gated" for state in meant), "let go on what waits for a person at a gate"),
        _button("stop", "Stop", bool(selected and runs), "interrupt the code; the kernel stays for a look"),
        _button("cancel", "Cancel", is_open, "end these" if selected else "end the run", sharp=True),
        _button("open", "Open notebook", len(selected) == 1 and bool(runs), "a notebook in the step's own kernel"),
    ]


def what(selected: Sequence[str]) -> str:
    """Return what the buttons are about, in words."""
    if not selected:
        return "nothing selected: the whole workflow"
    return ", ".join(selected) if len(selected) < 4 else f"{len(selected)} steps selected"


def failed(states: Mapping[str, str], selected: Sequence[str]) -> list[str]:
    """Return the steps that ``Rerun failed`` begins with."""
    return [name for name, state in states.items() if state in _BAD and (not selected or name in selected)]


def _button(name: str, label: str, on: bool, tip: str, *, sharp: bool = False) -> dict[str, Any]:
    return {"name": name, "label": label, "on": on, "tip": tip, "sharp": sharp}
