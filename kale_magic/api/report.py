"""The report of a run: reads what its jobs left and writes one HTML page. Called by ``%kale_report`` and ``jupyter kale report``."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_magic.api import edits, files, mirror
from kale_magic.api.lineage import lineage
from kale_magic.api.plots import Source, of_metrics
from kale_magic.errors import KaleError, UsageError, WorkflowError
from kale_magic.formats import native
from kale_magic.model import dataflow
from kale_magic.model.address import describe_point
from kale_magic.render.report import JobFiles, report_html
from kale_proxy import pack

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kale_magic.client import Client
    from kale_magic.model.workflow import Workflow

_TAIL = 60  # lines of each log
_MOST_IMAGE = 2_000_000  # characters
_MOST_NOTEBOOK = 64 << 20
_MOST_JOBS = 500
_MOST_TAIL = 16 << 10  # bytes of each, of a run on a login host
_AT_ONCE = 200
_CHANGED_SHOWN = 10
_LOGS = ("stdout.log", "stderr.log")
_OF_A_JOB = ("metrics.jsonl", "step.ipynb")
_READ = ("workflow.yaml", "environment.json", "steps/*/points-*.jsonl", *(f"steps/{part}{name}" for part in ("*/", "*/*/") for name in _OF_A_JOB))
_FINAL = frozenset({"completed", "failed", "cancelled"})


def write_report(client: Client, status: Mapping[str, Any], file: Path) -> None:
    """Write the report of a run.

    Parameters
    ----------
    client : Client
        The manager; if it is that of a login host, the files are fetched from there.
    status : mapping
        The run, as the manager answers.
    file : Path
        What to write; a file that is there is replaced.

    Raises
    ------
    UsageError
        It can't be written, or what it is made of can't be fetched.
    """
    folder = mirror.run_folder(client, str(status["folder"]), *_READ)
    there, origin, tails = str(status["folder"]), str(folder), None
    status = {**status, "folder": str(folder)}
    if client.host:
        origin, tails = f"{client.host}:{there}", _tails(client, there, status)
    page = report(status, origin, tails)
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        part.write_text(page, encoding="utf-8")
        part.replace(file)
    except OSError as exc:
        part.unlink(missing_ok=True)
        raise UsageError(f"{file} can't be written: {exc.strerror or exc}.") from exc


def report(status: Mapping[str, Any], origin: str = "", tails: Mapping[Path, str] | None = None) -> str:
    """Return the report of a run as HTML.

    Parameters
    ----------
    status : mapping
        The run; ``folder`` is what is read.
    origin : str
        The folder that the page names, if that is another one.
    tails : mapping of Path to str, optional
        The ends of its logs by their paths in ``folder``, if they are not there.
    """
    folder = Path(str(status["folder"]))
    workflow = _workflow(folder)
    jobs = [_files_of(label, path, tails) for label, path in islice(_jobs(status, workflow), _MOST_JOBS)]
    now = None if status["state"] in _FINAL else datetime.now(UTC)
    return report_html(status, workflow, jobs, edges=_edges(workflow, list(status["steps"])), origin=_origin(status, folder, origin), packages=lineage(folder).get("packages"), now=now)


def _workflow(folder: Path) -> Workflow | None:
    try:
        return native.read(folder / "workflow.yaml")
    except KaleError:  # removed, or of a later version
        return None


def _edges(workflow: Workflow | None, steps: list[str]) -> list[tuple[str, str]]:
    if workflow is None:
        return []
    try:
        plan = dataflow.resolve(workflow, wanted=steps)
    except WorkflowError:  # a run of some steps alone was given what the whole lacks
        return [(parent, name) for name, step in workflow.steps.items() for parent in step.after]
    return [(parent, name) for name, step in plan.steps.items() for parent in step.parents]


def _jobs(status: Mapping[str, Any], workflow: Workflow | None) -> Iterator[tuple[str, Path]]:
    for name, step in status["steps"].items():
        folder = Path(str(status["folder"])) / "steps" / name
        declared = workflow.steps.get(name) if workflow is not None else None
        points = declared.points() if declared is not None and declared.is_sweep else []
        for number in step.get("points") or ():
            words = describe_point(points[int(number)]) if int(number) < len(points) else number
            yield f"{name}[{words}]", folder / number
        if not step.get("points"):
            yield name, folder


def _tails(client: Client, there: str, status: Mapping[str, Any]) -> dict[Path, str]:
    """Return the ends of the logs of a run on a login host: they alone are brought, not the logs."""
    folder = Path(str(status["folder"]))
    jobs = [path for _, path in islice(_jobs(status, _workflow(folder)), _MOST_JOBS)]
    names = [str((path / name).relative_to(folder)) for path in jobs for name in _LOGS]
    found: dict[Path, str] = {}
    for start in range(0, len(names), _AT_ONCE):
        asked = [{"name": name, "at": 0, "most": _MOST_TAIL} for name in names[start : start + _AT_ONCE]]
        for name, part in client.read(there, asked).items():
            found[folder / name] = base64.b64decode(part["data"]).decode("utf-8", "replace")
    return found


def _end(file: Path, tails: Mapping[Path, str] | None) -> str:
    if tails is None or file not in tails:  # of points that share their files, the log is in those
        return _settled(files.log(file.parent, file.name, _TAIL))
    return _settled("".join(tails[file].splitlines(keepends=True)[-_TAIL:]))


def _files_of(label: str, folder: Path, tails: Mapping[Path, str] | None) -> JobFiles:
    stdout, stderr = (_end(folder / name, tails) for name in _LOGS)
    return JobFiles(
        label=label,
        stdout=stdout,
        stderr=stderr,
        metrics=of_metrics([Source(label="", folder=folder)], ()),
        image=last_image(folder),
        edited=tuple(edits.told(folder)),
    )


def last_image(folder: Path) -> str:
    """Return the last image that a job displayed as a data URL, from its executed notebook; empty if there is none."""
    file = folder / "step.ipynb"
    try:
        if file.stat().st_size > _MOST_NOTEBOOK:
            return ""
        cells = json.loads(file.read_text(encoding="utf-8")).get("cells") or []
    except OSError:
        cells = [{"outputs": pack.displayed(folder)}]
    except ValueError:
        return ""
    outputs = [output for cell in cells for output in cell.get("outputs") or ()]
    for output in reversed(outputs):
        for kind in ("image/png", "image/jpeg"):
            data = (output.get("data") or {}).get(kind)
            if isinstance(data, str) and len(data) < _MOST_IMAGE:
                return f"data:{kind};base64,{''.join(data.split())}"
    return ""


def _settled(text: str) -> str:
    """Return text as a terminal leaves it: of a line that was written over, the last form."""
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))


def _origin(status: Mapping[str, Any], folder: Path, shown: str) -> dict[str, str]:
    environment = lineage(folder)
    try:
        digest = hashlib.sha256((folder / "workflow.yaml").read_bytes()).hexdigest()
    except OSError:
        digest = ""
    nodes = sorted({str(node) for step in status["steps"].values() for node in _nodes(step)})
    rows = {
        "run": status.get("run"),
        "folder": shown or folder,
        "workflow.yaml (SHA-256)": digest,
        "submitted": status.get("submitted_at"),
        "ended": status.get("ended_at"),
        "executor": status.get("executor"),
        "nodes": ", ".join(nodes),
        "interpreter": environment.get("python"),
        "Kale": environment.get("kale_version"),
        "submitted on": environment.get("submitted_on"),
        "rerun of": environment.get("rerun_of"),
        "repository": _git(environment.get("git") or {}),
        "modules": ", ".join(environment.get("modules") or ()),
        "variables handed on": ", ".join(environment.get("kept") or ()),
        "variables left out": ", ".join(environment.get("stripped") or ()),
    }
    return {key: str(value) for key, value in rows.items() if value}


def _git(state: Mapping[str, Any]) -> str:
    """Return the state of the workflow's repository in words."""
    if not state.get("commit"):
        return ""
    changed = state.get("changed") or []
    files_changed = f", with {len(changed)} changed file{'s' * (len(changed) != 1)}: {', '.join(changed[:_CHANGED_SHOWN])}" if changed else ", nothing changed"
    return f"{state['commit']} ({state.get('branch')}){files_changed}{' ...' if len(changed) > _CHANGED_SHOWN else ''}"


def _nodes(step: Mapping[str, Any]) -> list[str]:
    found = [step.get("node"), *(point.get("node") for point in (step.get("points") or {}).values())]
    return [str(node) for node in found if node]
