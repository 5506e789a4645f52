"""The points of a sweep as the cache knows them: which are the same by their parameters, and in words what is with the others. Pure.

A point is known by all its parameters, swept or not, and never by its number: so points may be added, taken away and put
in another order, and a step that was run for one set of parameters counts as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kale_magic.model.literals import to_literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from kale_magic.model.step import Step

NEW = "never ran with these parameters"
_MOST_GROUPS = 4
_MOST_SPANS = 6


def keys_of(step: Step) -> list[tuple[tuple[str, str], ...]]:
    """Return the key of each point, in point order: names and literals of its parameters; of a step that is no sweep, one."""
    constant = {name: to_literal(value, name) for name, value in step.params.items()}
    written: dict[tuple[str, int], str] = {}  # each value of an axis is in many points of a product

    def literal(name: str, value: object) -> str:
        key = name, id(value)
        if key not in written:
            written[key] = to_literal(value, name)
        return written[key]

    return [tuple(sorted((constant | {name: literal(name, value) for name, value in point.items()}).items())) for point in step.points()]


def group(reasons: Mapping[int, str]) -> dict[str, list[int]]:
    """Return the points by the reason for which they run, in order."""
    found: dict[str, list[int]] = {}
    for point in sorted(reasons):
        found.setdefault(reasons[point], []).append(point)
    return found


def spans(points: Iterable[int]) -> str:
    """Return numbers as ``3, 5-9 and 20 more``."""
    runs: list[list[int]] = []
    for number in points:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs[:_MOST_SPANS])
    more = sum(b - a + 1 for a, b in runs[_MOST_SPANS:])
    return f"{shown} and {more} more" if more else shown


def words(step: Step, reasons: Mapping[int, str], cached: Mapping[int, str]) -> str:
    """Return in one line what is with the points of a sweep of which some are cached; ``cached`` has the run of each."""
    groups = group(reasons)
    parts = []
    for reason, points in list(groups.items())[:_MOST_GROUPS]:
        one = f" ({_label(step, points[0])})" if len(points) == 1 else ""
        parts.append(f"point{'s' * (len(points) > 1)} {spans(points)}{one} {reason}")
    if len(groups) > _MOST_GROUPS:
        parts.append(f"{sum(len(points) for points in list(groups.values())[_MOST_GROUPS:])} points for other reasons")
    return f"{'; '.join(parts)}; {len(cached)} of {len(reasons) + len(cached)} cached {since(cached.values())}"


def since(runs: Iterable[str]) -> str:
    """Return in which runs points were computed."""
    known = sorted(dict.fromkeys(runs))
    return f"since {known[0]}" if len(known) == 1 else f"since {', '.join(known[:2])}" + (f" and {len(known) - 2} more runs" if known[2:] else "")


def _label(step: Step, point: int) -> str:
    return ", ".join(f"{name}={to_literal(value)}" for name, value in step.points()[point].items())[:80]


def folders(folder: str, count: int | None, elsewhere: Mapping[int, str]) -> Sequence[str]:
    """Return the folder of each job of a step, some of which may be in those of earlier runs."""
    return [folder] if count is None else [elsewhere.get(number) or f"{folder}/{number}" for number in range(count)]
