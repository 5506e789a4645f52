"""The points of a sweep as a table: parameters, last metrics, scalar results, state; of any step, one row.

Rows are plain dicts, so that nothing need be installed; :func:`frame` makes a pandas DataFrame of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kale_magic.api import files
from kale_magic.api.find import points_of
from kale_magic.api.rerun import workflow_of
from kale_magic.errors import UsageError
from kale_magic.render.view import parse_time
from kale_proxy import pack, values

if TYPE_CHECKING:
    from pathlib import Path

    from kale_magic.api.find import Asks, Target

_SCALARS = (int, float, str, bool, type(None))
_LAST_LINES = 50  # of metrics, in which the last value of each is looked for
_SCALAR_BYTES = 4096
_NOT_METRICS = frozenset({"at", "step", "progress", "of", "text"})


def rows(client: Asks, target: Target) -> list[dict[str, Any]]:
    """Return a dict for each job: ``point`` (of a sweep), its parameters, ``state``, ``seconds``, metrics, scalar outputs.

    A name that two of them share keeps its parameter; the metric or output is then ``metric_NAME`` or ``output_NAME``.
    """
    status = client.status(target.run)
    step = status["steps"][target.step]
    points = points_of(client, target.run, target.step)
    params = workflow_of(client, status).steps[target.step].params
    if not points:
        return [_row(dict(params), target.files, step)]
    chosen = range(len(points)) if target.point is None else [target.point]
    base = target.files if target.point is None else target.files.parent
    return [_row({"point": number, **points[number], **params}, base / str(number), step["points"][str(number)]) for number in chosen]


def frame(client: Asks, target: Target) -> Any:
    """Return :func:`rows` as a DataFrame, its index the point.

    Raises
    ------
    UsageError
        pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as exc:
        raise UsageError("A table is a pandas DataFrame, and pandas is not installed.", "pip install pandas, or use rows().") from exc
    table = pd.DataFrame(rows(client, target))
    return table.set_index("point") if "point" in table else table


def _row(found: dict[str, Any], folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    found = {**found, "state": job["state"], "seconds": _seconds(job)}
    for kind, items in (("metric", _metrics(folder)), ("output", _outputs(folder))):
        for name, value in items.items():
            found[f"{kind}_{name}" if name in found else name] = value
    return found


def _metrics(folder: Path) -> dict[str, Any]:
    """Return the last value of each metric."""
    found: dict[str, Any] = dict(pack.metrics(folder) or {})
    if found:
        return found
    for line in files.lines_of(files.log(folder, "metrics.jsonl", _LAST_LINES)):
        found |= {name: value for name, value in line.items() if name not in _NOT_METRICS}
    return found


def _outputs(folder: Path) -> dict[str, Any]:
    """Return the outputs that are one number or text."""
    found = {}
    for name, info in files.saved(folder).items():
        if str(info.get("file", "")).endswith(".json") and info.get("bytes", 0) <= _SCALAR_BYTES and "shape" not in info:
            value = values.load(folder / "outputs", name)
            if isinstance(value, _SCALARS):
                found[name] = value
    return found


def _seconds(job: dict[str, Any]) -> float | None:
    start, end = parse_time(job.get("started_at")), parse_time(job.get("ended_at"))
    return None if start is None or end is None else round((end - start).total_seconds(), 3)
