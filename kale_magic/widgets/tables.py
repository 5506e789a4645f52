"""What a plot is made of, as columns of equal length: metrics of a job, and files that a job writes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kale_magic.api import files, npy
from kale_magic.api.plots import of_table
from kale_magic.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    Table = dict[str, list[float]]

ROW, STEP = "row", "step"
SUFFIXES = frozenset({".csv", ".tsv", ".dat", ".jsonl", ".npy"})
OWN = frozenset({"metrics.jsonl", "resources.jsonl", "events.jsonl"})
_MOST_ROWS = 200_000
_MOST_COLUMNS = 40


def read(path: Path) -> Table:
    """Return the columns of a table, and the number of each row; what is no number is nan.

    Raises
    ------
    UsageError
        It can't be read.
    """
    if path.suffix == ".npy":
        found = npy.columns_of(path, _MOST_ROWS // 10)
        return {**found, ROW: list(map(float, range(len(next(iter(found.values()), [])))))}
    if path.suffix == ".jsonl":
        try:
            text = files.log(path.parent, path.name, _MOST_ROWS)
        except OSError as exc:
            raise UsageError(f"{path.name} can't be read: {exc.strerror or exc}.") from exc
        return of_items(files.lines_of(text))
    series = of_table(path, None, (), most=_MOST_COLUMNS)
    length = 1 + max((int(points[-1][0]) for points in series.values() if points), default=-1)
    table = {name: [math.nan] * length for name in series}
    for name, points in series.items():
        for row, value in points:
            table[name][int(row)] = value
    return {**table, ROW: list(map(float, range(length)))} if table else {}


def of_items(items: Iterable[Mapping[str, object]]) -> Table:
    """Return the numbers of objects as columns."""
    rows = list(items)
    names = dict.fromkeys(name for item in rows for name, value in item.items() if _is_number(value))
    found = {name: [_number(item.get(name)) for item in rows] for name in list(names)[:_MOST_COLUMNS]}
    return {**found, ROW: list(map(float, range(len(rows))))} if found else {}


def of_metrics(folder: Path) -> Table:
    """Return what a job has recorded by ``metric``, with the ``step`` of each record: given, or counted."""
    rows = files.metrics(folder)
    found = of_items({**item, STEP: item[STEP] if _is_number(item.get(STEP)) else number} for number, item in enumerate(rows))
    found.pop(ROW, None)
    return found if len(found) > 1 else {}


def pairs(table: Table, x: str, y: str) -> list[tuple[float, float]]:
    """Return one column over another, rows without the second left out."""
    return [(across, down) for across, down in zip(table[x], table[y], strict=True) if not math.isnan(down)]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
