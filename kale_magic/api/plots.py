"""What is to be plotted of a step: its metrics, or columns of a file that it writes, as lines of points.

Reads files only. Called by ``%kale_plot``.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kale_magic.api import files
from kale_magic.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Series = dict[str, list[tuple[float, float]]]
_OWN = frozenset({"at", "step"})
_MOST_LINES = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One job: what its lines are called (empty: by the metric alone) and where its files are."""

    label: str
    folder: Path


def of_metrics(sources: Sequence[Source], names: Sequence[str]) -> Series:
    """Return a line for each metric (of each job), x being ``step`` where it was given, else a count.

    Parameters
    ----------
    sources : sequence of Source
        The jobs.
    names : sequence of str
        Metrics; all that are numbers if empty.
    """
    found: Series = {}
    for source in sources:
        for number, item in enumerate(files.metrics(source.folder)):
            x = _number(item.get("step", number))
            for name in names or [key for key in item if key not in _OWN]:
                y = _number(item.get(name)) if name in item else None
                if y is None or x is None:
                    continue
                label = f"{source.label} {name}" if source.label else name
                found.setdefault(label, []).append((x, y))
    return dict(list(found.items())[:_MOST_LINES])


def of_table(path: Path, x: str | None, ys: Sequence[str], most: int = 8) -> Series:
    """Return a line for each column of a text table (commas, semicolons, tabs or spaces; the first line names columns); of the first ``most`` if none is named.

    Raises
    ------
    UsageError
        There is no such file or column.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise UsageError(f"{path} can't be read: {exc.strerror or exc}.") from exc
    lines = [line for line in text.splitlines() if line.strip()]
    if not text.endswith("\n"):
        lines = lines[:-1]  # it is being written
    if not lines:
        return {}
    rows = _rows(lines)
    heads = [head.strip().lstrip("#").strip() for head in rows[0]]
    for name in (*ys, *([x] if x else [])):
        if name not in heads:
            raise UsageError(f"{path.name} has no column {name!r}.", f"It has: {', '.join(heads)}.")
    chosen = list(ys) or [head for head in heads if head != x][:most]
    found: Series = {}
    for number, row in enumerate(rows[1:]):
        cells = dict(zip(heads, row, strict=False))
        across = _number(cells.get(x)) if x else float(number)
        for name in chosen:
            down = _number(cells.get(name))
            if across is not None and down is not None:
                found.setdefault(name, []).append((across, down))
    return found


def _rows(lines: list[str]) -> list[list[str]]:
    for sign in (",", ";", "\t"):
        if sign in lines[0]:
            return [row for row in csv.reader(lines, delimiter=sign) if row]
    return [line.lstrip("# ").split() for line in lines]


def _number(value: Any) -> float | None:
    """Return a number; None for what is none, nan where a metric was not finite."""
    if value is None:
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
