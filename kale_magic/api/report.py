"""The report of a run: reads what its jobs left and writes one HTML page. Called by ``%kale_report`` and ``jupyter kale report``."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_magic.api import edits, files, mirror
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
_OF_A_JOB = ("stdout.log", "stderr.log", "metrics.jsonl", "step.ipynb")
_READ = ("workflow.yaml", "environment.json", *(f"steps/{part}{name}" for part in ("*/", "*/*/") for name in _OF_A_JOB))
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
    page = report({**status, "folder": str(folder)}, origin=f"{client.host}:{status['folder']}" if client.host else str(folder))
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        part.write_text(page, encoding="utf-8")
        part.replace(file)
    except OSError as exc:
        part.unlink(missing_ok=True)
        raise UsageError(f"{file} can't be written: {exc.strerror or exc}.") from exc


def report(status: Mapping[str, Any], origin: str = "") -> str:
    """Return the report of a run as HTML; ``origin`` is the folder that it names, if that is not the one it reads."""
    folder = Path(str(status["folder"]))
    workflow = _workflow(folder)
    jobs = [_files_of(label, path) for label, path in _jobs(status, workflow)][:_MOST_JOBS]
    now = None if status["state"] in _FINAL else datetime.now(UTC)
    return report_html(status, workflow, jobs, edges=_edges(workflow, list(status["steps"])), origin=_origin(status, folder, origin), now=now)


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


def _files_of(label: str, folder: Path) -> JobFiles:
    return JobFiles(
        label=label,
        stdout=_settled(files.log(folder, "stdout.log", _TAIL)),
        stderr=_settled(files.log(folder, "stderr.log", _TAIL)),
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
    try:
        environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        environment = {}
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
        "variables handed on": ", ".join(environment.get("kept") or ()),
        "variables left out": ", ".join(environment.get("stripped") or ()),
    }
    return {key: str(value) for key, value in rows.items() if value}


def _nodes(step: Mapping[str, Any]) -> list[str]:
    found = [step.get("node"), *(point.get("node") for point in (step.get("points") or {}).values())]
    return [str(node) for node in found if node]
