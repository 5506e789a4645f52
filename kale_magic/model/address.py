"""How a person names a step, a point of its sweep, or a step of one run: ``RUN/STEP[SELECTOR]``.

Owns the grammar and the choice of a point; which runs and steps exist is the caller's business.
Used by the magics, the command line and the Python API.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NamedTuple

from kale_magic.errors import UnknownStepError, UsageError
from kale_magic.model.stepname import STEP_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ADDRESS = re.compile(r"(?:(?P<run>[^/\[\]]*)/)?(?P<step>[^/\[\]]*)(?:\[(?P<selector>.*)\])?", re.DOTALL)
_SHOWN_POINTS = 8


class Address(NamedTuple):
    """A step as a person wrote it: ``run`` and ``selector`` are None where they were left out."""

    run: str | None
    step: str
    selector: str | None = None

    def __str__(self) -> str:
        """Return the text that :func:`parse_address` reads back."""
        run = f"{self.run}/" if self.run is not None else ""
        selector = f"[{self.selector}]" if self.selector is not None else ""
        return f"{run}{self.step}{selector}"


def parse_address(text: str) -> Address:
    """Read ``fit``, ``fit[2]``, ``fit[metal=Al]`` or any of them after ``RUN/``.

    Raises
    ------
    UsageError
        The text has none of these forms.
    """
    match = _ADDRESS.fullmatch(text.strip())
    run = match["run"] if match else None
    if match is None or not STEP_NAME.fullmatch(match["step"]) or (run is not None and not _RUN.fullmatch(run)):
        raise UsageError(f"{text!r} does not name a step.", "Write fit, fit[2], fit[metal=Al] or RUN/fit.")
    selector = match["selector"]
    if selector is not None and not selector.strip():
        raise UsageError(f"{text!r} names no point between its brackets.", "Write fit[2] or fit[metal=Al].")
    return Address(run, match["step"], selector.strip() if selector is not None else None)


def resolve_point(selector: str, points: Sequence[Mapping[str, object]], *, step: str = "the step") -> int:
    """Return the number of the one point that ``selector`` means.

    Parameters
    ----------
    selector : str
        ``2`` (``-1`` is the last), or ``metal=Al``, or ``metal=Al,temperature=300``.
    points : sequence of mapping
        The swept parameters of each point in point order, as :meth:`kale_magic.model.step.Step.points`
        returns them; a value may also be the ``repr`` of a value.
    step : str
        The step's name, for the message.

    Raises
    ------
    UsageError
        The selector can't be read, or names a parameter that is not swept, or means several points.
    UnknownStepError
        No point is meant.
    """
    if re.fullmatch(r"[+-]?\d+", selector):
        number = int(selector)
        if -len(points) <= number < len(points):
            return number % len(points)
        raise UnknownStepError(f"{step} has no point {number}.", _there_are(step, points))
    wanted = dict(_assignments(selector, step))
    swept = list(points[0]) if points else []
    for name in wanted:
        if name not in swept:
            known = f"It sweeps {', '.join(swept)}." if swept else f"It is no sweep: write {step}."
            raise UsageError(f"{step} has no swept parameter {name!r}.", known)
    found = [n for n, point in enumerate(points) if all(_is_same(text, point[name]) for name, text in wanted.items())]
    if not found:
        raise UnknownStepError(f"{step} has no point with {selector}.", _there_are(step, points))
    if len(found) > 1:
        candidates = ", ".join(f"{step}[{describe_point(points[n])}]" for n in found[:_SHOWN_POINTS])
        more = ", ..." if len(found) > _SHOWN_POINTS else ""
        raise UsageError(f"{step}[{selector}] means {len(found)} points.", f"Say which: {candidates}{more}")
    return found[0]


def describe_point(point: Mapping[str, object]) -> str:
    """Return ``metal=Al,T=300``: a selector that means this point, as :func:`resolve_point` reads it."""
    return ",".join(f"{name}={value if isinstance(value, str) else repr(value)}" for name, value in point.items())


def _there_are(step: str, points: Sequence[Mapping[str, object]]) -> str:
    if len(points) <= 1 and not any(points):
        return f"It is no sweep: write {step}."
    shown = ", ".join(f"{n} ({describe_point(point)})" for n, point in enumerate(points[:_SHOWN_POINTS]))
    return f"Its {len(points)} points: {shown}{', ...' * (len(points) > _SHOWN_POINTS)}"


def _assignments(selector: str, step: str) -> Iterator[tuple[str, str]]:
    for part in _split_commas(selector):
        name, equals, value = part.partition("=")
        if not equals or not name.strip().isidentifier() or not value.strip():
            way_out = f"Write {step}[2] or {step}[name=value]."
            raise UsageError(f"{selector!r} does not name a point of {step}.", way_out)
        yield name.strip(), value.strip()


def _split_commas(text: str) -> list[str]:
    parts, depth, quote = [""], 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += char
    return parts


def _is_same(text: str, value: object) -> bool:
    if text in (str(value), repr(value)):
        return True
    wanted, actual = _literal(text), _literal(value) if isinstance(value, str) else value
    if isinstance(wanted, int | float) and isinstance(actual, int | float):
        return math.isclose(wanted, actual, rel_tol=1e-9)
    return type(wanted) is type(actual) and wanted == actual


def _literal(text: str) -> object:
    import ast  # for a point's values alone

    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
