"""What jobs measure of themselves and what they use, as charts that are drawn here and sent when they changed.

A drawing has at most 600 points a line, so it costs the page the same however long a job has run; it is made at most
twice a second, and takes at most a tenth of the time.
"""

from __future__ import annotations

import time
from collections import deque
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from traitlets import Dict, Unicode

from kale_magic.api import files
from kale_magic.api.plots import Source, of_metrics, of_table
from kale_magic.api.report import last_image
from kale_magic.errors import KaleError, UsageError
from kale_magic.model.address import describe_point
from kale_magic.render.chart import chart_svg
from kale_magic.render.words import escape
from kale_magic.widgets._page import script
from kale_magic.widgets.jobs import JobPart
from kale_magic.widgets.viewmodel import usage
from kale_magic.widgets.viewmodel.focus import Job

if TYPE_CHECKING:
    from kale_magic.widgets.desk import Seen

_BETWEEN_S = 0.5
_SHARE = 10
_METRICS = "metrics"
_ROW = "row"
_MOST_POINTS = 20
_MOST_FILES = 50
_MOST_ROWS = 200_000
_HISTORY = 600
_HOST_S = 1.0  # between two looks at this host
_SHOWN = 12


class Charts(JobPart):
    """A part that draws."""

    _esm = script("job", "charts")
    part = Unicode("").tag(sync=True)
    html = Unicode("").tag(sync=True)
    choice = Dict().tag(sync=True)

    def __init__(self, *args: Any, **options: Any) -> None:
        self._next = 0.0
        super().__init__(*args, **options)

    def begin(self, _: Job | None, __: Path | None) -> None:
        """Draw another job."""
        self._next = 0.0
        self.html = self.draw()

    def go_on(self, _: Seen) -> None:
        """Draw it anew, now and then."""
        started = time.monotonic()
        if started < self._next:
            return
        self.html = self.draw()
        now = time.monotonic()
        self._next = now + max(_BETWEEN_S, _SHARE * (now - started))

    def draw(self) -> str:
        """Return the charts as HTML."""
        raise NotImplementedError

    def static(self) -> str:
        """Return the charts for the saved notebook."""
        return f"<div><b>{escape(self.job.get('label'))}</b></div><div>{self.html}</div>"


class Plots(Charts):
    """Metrics of the selected jobs, sweep curves together; or columns of a CSV, text or JSONL file that grows."""

    title = "Plots"

    def __init__(self, *args: Any, **options: Any) -> None:
        self._file, self._x = _METRICS, _ROW
        super().__init__(*args, **options)
        self.part = "plots"

    def draw(self) -> str:
        """Return a chart for each metric, and the last image."""
        names = self._files()
        if self._file not in names:
            self._file = _METRICS
        if self._file == _METRICS:
            self.choice = {"files": list(names), "file": _METRICS, "columns": [], "x": ""}
            return self._metrics()
        try:
            series = table_of(names[self._file])
        except KaleError as exc:
            return escape(str(exc))
        columns = [_ROW, *series]
        x = self._x if self._x in columns else _ROW
        self.choice = {"files": list(names), "file": self._file, "columns": columns, "x": x}
        lines = {name: over(series, name, x) for name in series if name != x}
        return chart_svg(lines, title=self._file, x=x)

    def asked(self, message: dict[str, Any]) -> str | None:
        """Turn to a file, or to another column."""
        if message.get("t") == "file":
            self._file = str(message.get("file"))
        elif message.get("t") == "x":
            self._x = str(message.get("x"))
        with self.desk.lock:
            self.html = self.draw()
        return None

    def _metrics(self) -> str:
        found: dict[str, dict[str, list[tuple[float, float]]]] = {}
        for job in self._jobs():
            folder = self.desk.folder_of(*job)
            if folder is not None:
                for name, line in of_metrics([Source(label="", folder=folder)], ()).items():
                    found.setdefault(name, {})[self._words(job)] = line
        drawn = [chart_svg(lines, title=name, x="step") for name, lines in islice(found.items(), _SHOWN)]
        image = last_image(self.folder) if self.folder is not None else ""
        if image:
            drawn.append(f'<img src="{escape(image)}" alt="last image of {escape(self.shown.label if self.shown else "")}">')
        return "".join(drawn) or "It has measured nothing: <code>from kale_magic.inside import metric; metric(energy=e, step=i)</code>"

    def _words(self, job: Job) -> str:
        """Return a job's name for people: a point by its parameters."""
        workflow = self.desk.seen.workflow
        step = workflow.steps.get(job.step) if workflow is not None else None
        if job.point is None or step is None or not step.is_sweep:
            return job.label
        return f"{job.step}[{describe_point(step.points()[job.point])}]"

    def _jobs(self) -> list[Job]:
        """Return the jobs that are drawn: all points of the selected sweeps."""
        status = self.desk.seen.status
        chosen = self.desk.selected or ([self.shown.step] if self.shown else [])
        if status is None or self.shown is None:
            return []
        if self.desk.point is not None and len(chosen) == 1:
            return [self.shown]
        found = []
        for name in chosen:
            points = (status["steps"].get(name) or {}).get("points") or {}
            found += [Job(name, int(number)) for number in islice(points, _MOST_POINTS)] if points else [Job(name, None)]
        return found

    def _files(self) -> dict[str, Path]:
        found = {_METRICS: Path()}
        status = self.desk.seen.status
        folders = [self.folder, Path(status["workflow_folder"]) if status else None]
        for folder in folders:
            if folder is not None and folder.is_dir():
                tables = (path for path in sorted(folder.iterdir()) if path.suffix in {".csv", ".tsv", ".dat", ".jsonl"})
                own = (path for path in tables if path.name not in {"metrics.jsonl", "resources.jsonl", "events.jsonl"})
                for path in islice(own, _MOST_FILES):
                    found.setdefault(path.name, path)
        return found


class Resources(Charts):
    """What a job uses, what its node uses, and what this host uses."""

    title = "Resources"

    def __init__(self, *args: Any, **options: Any) -> None:
        self._host: deque[dict[str, float]] = deque(maxlen=_HISTORY)
        psutil.cpu_percent()  # which measures from one call to the next
        super().__init__(*args, **options)
        self.part = "resources"

    def draw(self) -> str:
        """Return the charts."""
        samples = files.samples(self.folder) if self.folder is not None else []
        if not self._host or time.time() - self._host[-1]["at"] > _HOST_S:
            self._host.append(_sample())
        drawn = [chart_svg(lines, title=title, x="seconds since it began") for title, lines in usage.charts(samples).items()]
        drawn += [chart_svg(lines, title=title, x="seconds ago") for title, lines in usage.host_charts(self._host).items()]
        return "".join(drawn)


def table_of(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Return the columns of a table as lines over the row's number; of JSONL, the numbers of its objects.

    Raises
    ------
    UsageError
        It can't be read.
    """
    if path.suffix != ".jsonl":
        return of_table(path, None, ())
    try:
        text = files.log(path.parent, path.name, _MOST_ROWS)
    except OSError as exc:
        raise UsageError(f"{path.name} can't be read: {exc.strerror or exc}.") from exc
    found: dict[str, list[tuple[float, float]]] = {}
    for number, item in enumerate(files.lines_of(text)):
        for name, value in item.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                found.setdefault(name, []).append((float(number), float(value)))
    return found


def over(series: dict[str, list[tuple[float, float]]], name: str, x: str) -> list[tuple[float, float]]:
    """Return a column over another one, row by row, in the order of the rows."""
    if x not in series:
        return series[name]
    across = dict(series[x])
    return [(across[row], value) for row, value in series[name] if row in across]


def _sample() -> dict[str, float]:
    network = psutil.net_io_counters()
    return {
        "at": time.time(),
        "cpu_percent": psutil.cpu_percent(),
        "memory_percent": psutil.virtual_memory().percent,
        "net_received_bytes": network.bytes_recv if network else 0,
        "net_sent_bytes": network.bytes_sent if network else 0,
    }
