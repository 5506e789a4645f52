"""Plots as a widget: metrics of the selected jobs, or columns of a file that grows, as lines, as dots, or in space over time."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traitlets import Dict

from kale_magic.api.report import last_image
from kale_magic.errors import KaleError, UsageError
from kale_magic.model.address import describe_point
from kale_magic.render.chart import chart_svg, chart_text
from kale_magic.render.cloud import Cloud, cloud_of, cloud_svg, cloud_text
from kale_magic.render.words import escape
from kale_magic.widgets import tables
from kale_magic.widgets._page import script
from kale_magic.widgets.charts import Charts
from kale_magic.widgets.viewmodel.cloud import NOTHING, packed
from kale_magic.widgets.viewmodel.focus import Job

if TYPE_CHECKING:
    from kale_magic.widgets.tables import Table

_METRICS = "metrics"
_MOST_POINTS = 20
_MOST_FILES = 50
_MOST_LINES = 8
_SHOWN = 12
_KINDS = {"lines": "lines", "dots": "dots", "space": "3-D over time"}
_AXES = ("x", "y", "z", "t")


class Plots(Charts):
    """Metrics of the selected jobs, sweep curves together; or columns of a CSV, text, JSONL or .npy file that grows."""

    _esm = script("job", "cloud", "charts")
    title = "Plots"
    cloud = Dict(NOTHING).tag(sync=True)

    def __init__(self, *args: Any, **options: Any) -> None:
        self._file, self._kind = _METRICS, "lines"
        self._axes: dict[str, str] = {}
        self._words: list[str] = []
        super().__init__(*args, **options)
        self.part = "plots"

    def draw(self) -> str:
        """Return a chart for each metric, and the last image; or the columns of a file."""
        files = self._files()
        if self._file not in files:
            self._file = _METRICS
        self._words = []
        try:
            found = self._measured() if self._file == _METRICS else {"": tables.read(files[self._file])}
        except KaleError as exc:
            self._offer(files, [])
            return escape(str(exc))
        columns = list(dict.fromkeys(name for table in found.values() for name in table))
        axes = self._offer(files, columns)
        if self._kind == "space":
            return self._space(found, axes)
        if self._file != _METRICS:
            return self._over(found[""], axes["x"])
        return "".join([*self._curves(found), self._image()]) or (
            "It has measured nothing: <code>from kale_magic.inside import metric; metric(energy=e, step=i)</code>"
        )

    def _offer(self, files: dict[str, Path], columns: list[str]) -> dict[str, str]:
        """Tell the page what there is to choose; return the column of each axis."""
        axes = chosen(columns, self._axes)
        if self._kind != "space":
            axes["x"] = across(columns, self._axes.get("x", ""))
        shown = {"space": _AXES, "lines": ("x",), "dots": ("x",)}[self._kind] if columns and (self._kind == "space" or self._file != _METRICS) else ()
        self.choice = {
            "files": list(files), "file": self._file, "kinds": _KINDS, "kind": self._kind,
            "columns": columns, "axes": {axis: axes[axis] for axis in shown},
        }  # fmt: skip
        return axes

    def _space(self, found: dict[str, Table], axes: dict[str, str]) -> str:
        cloud = cloud_of(found, tuple(axes.values())) if all(axes.values()) else Cloud(names=("x", "y", "z", "t"))  # type: ignore[arg-type] # there are four
        data = packed(cloud)
        if data != self.cloud:
            self.cloud = data
        self._words = [f"{self._file}: {cloud_text(cloud)}"]
        return cloud_svg(cloud, title=self._file)

    def _over(self, table: Table, x: str) -> str:
        names = [name for name in table if name not in {x, tables.ROW}][:_MOST_LINES]
        lines = {name: list(zip(table[x], table[name], strict=True)) for name in names} if x else {}
        self._words = [f"{self._file} over {x or tables.ROW}", chart_text(lines)]
        return chart_svg(lines, title=self._file, x=x, is_dotted=self._kind == "dots")

    def _curves(self, found: dict[str, Table]) -> list[str]:
        """Return a chart for each metric, with a line for each job that has it."""
        names = dict.fromkeys(name for table in found.values() for name in table if name != tables.STEP)
        drawn = []
        for name in islice(names, _SHOWN):
            lines = {label: tables.pairs(table, tables.STEP, name) for label, table in found.items() if name in table}
            self._words += [name, chart_text(lines)]
            drawn.append(chart_svg(lines, title=name, x="step", is_dotted=self._kind == "dots"))
        return drawn

    def _image(self) -> str:
        image = last_image(self.folder) if self.folder is not None else ""
        return f'<img src="{escape(image)}" alt="last image of {escape(self.shown.label if self.shown else "")}">' if image else ""

    def asked(self, message: dict[str, Any]) -> str | None:
        """Turn to a file, to another kind of picture, or to another column of an axis."""
        kind, name = message.get("t"), str(message.get("name"))
        if kind == "file":
            self._file, self._axes = name, {}
        elif kind == "kind":
            if name not in _KINDS:
                raise UsageError(f"There is no plot of {name!r}.")
            self._kind = name
        elif kind == "axis":
            self._axes = {**self.choice["axes"], str(message.get("axis")): name}  # the others stay as they are
        with self.desk.lock:
            self.html = self.draw()
        return None

    def text(self) -> str:
        """Return what is drawn as text."""
        return "\n".join([str(self.job.get("label") or ""), *self._words]) if self._words else super().text()

    def _measured(self) -> dict[str, Table]:
        """Return what each job has recorded by ``metric``, by its words."""
        found = {}
        for job in self._jobs():
            folder = self.desk.folder_of(*job)
            if folder is not None and (table := tables.of_metrics(folder)):
                found[self._label(job)] = table
        return found

    def _label(self, job: Job) -> str:
        """Return a job's name for people: a point by its parameters."""
        workflow = self.desk.seen.workflow
        step = workflow.steps.get(job.step) if workflow is not None else None
        if job.point is None or step is None or not step.is_sweep:
            return job.label
        return f"{job.step}[{describe_point(step.points()[job.point])}]"

    def _jobs(self) -> list[Job]:
        """Return the jobs that are drawn: all points of the selected sweeps."""
        status = self.desk.seen.status
        chosen_steps = self.desk.selected or ([self.shown.step] if self.shown else [])
        if status is None or self.shown is None:
            return []
        if self.desk.point is not None and len(chosen_steps) == 1:
            return [self.shown]
        found = []
        for name in chosen_steps:
            points = (status["steps"].get(name) or {}).get("points") or {}
            found += [Job(name, int(number)) for number in islice(points, _MOST_POINTS)] if points else [Job(name, None)]
        return found

    def _files(self) -> dict[str, Path]:
        found = {_METRICS: Path()}
        for folder in self.desk.places_of_tables(*self.shown) if self.shown is not None else ():
            if folder.is_dir():
                known = (path for path in sorted(folder.iterdir()) if path.suffix in tables.SUFFIXES and path.name not in tables.OWN)
                for path in islice(known, _MOST_FILES):
                    found.setdefault(path.name, path)
        return found


def across(columns: list[str], wanted: str) -> str:
    """Return the column for the horizontal axis: the one that was chosen while there is one, else what its name suggests, else the first."""
    return next((name for name in (wanted, "x", "t", "time", "frame", tables.STEP) if name in columns), columns[0] if columns else "")


def chosen(columns: list[str], wanted: dict[str, str]) -> dict[str, str]:
    """Return a column for each axis: the one that was chosen while there is one, else what its name suggests, else the next."""
    found = {axis: wanted[axis] if wanted.get(axis) in columns else "" for axis in _AXES}
    times = [name for name in ("t", "time", "frame", tables.STEP, tables.ROW) if name in columns]
    found["t"] = found["t"] or (times[0] if times else "")
    free = [name for name in columns if name not in {*found.values(), tables.ROW, tables.STEP}]
    for axis in _AXES[:3]:
        if not found[axis]:
            named = axis in free
            found[axis] = axis if named else next(iter(free), columns[0] if columns else "")
            free = [name for name in free if name != found[axis]]
    return found
