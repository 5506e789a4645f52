"""Which job the logs, plots and resources are about, and which others a person can choose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_WANTED = ("running", "paused", "gated", "failed", "lost", "completed", "cached", "cancelled")
_MOST_STEPS = 300
_MOST_POINTS = 60


class Job(NamedTuple):
    """A step, or a point of a sweep."""

    step: str
    point: int | None

    @property
    def label(self) -> str:
        """``fit`` or ``fit[2]``."""
        return self.step if self.point is None else f"{self.step}[{self.point}]"


def focus(status: Mapping[str, Any] | None, selected: Sequence[str], point: int | None) -> Job | None:
    """Return the one job that is meant: the selected step, else what runs, else what failed, else what ended; None before a run."""
    steps: Mapping[str, Any] = (status or {}).get("steps") or {}
    chosen = [name for name in selected if name in steps]
    name = chosen[0] if chosen else _first({name: str(step.get("state")) for name, step in steps.items()})
    if name is None:
        return None
    points = steps[name].get("points") or {}
    if not points:
        return Job(name, None)
    if point is not None and chosen and str(point) in points:
        return Job(name, point)
    number = _first({key: str(job.get("state")) for key, job in points.items()})
    return Job(name, int(number if number is not None else next(iter(points))))


def jobs(status: Mapping[str, Any] | None) -> list[str]:
    """Return the labels to choose from: steps, and the points of small sweeps; what is left out is reached by the picture."""
    found = []
    for name, step in list(((status or {}).get("steps") or {}).items())[:_MOST_STEPS]:
        points = step.get("points") or {}
        found += [Job(name, int(number)).label for number in list(points)[:_MOST_POINTS]] if points else [name]
    return found


def parse(label: str) -> Job:
    """Read what :attr:`Job.label` wrote."""
    name, _, rest = label.partition("[")
    number = rest.rstrip("]")
    return Job(name, int(number) if number.isdecimal() else None)


def _first(states: Mapping[str, str]) -> str | None:
    for wanted in _WANTED:
        for name, state in states.items():
            if state == wanted:
                return name
    return next(iter(states), None)
