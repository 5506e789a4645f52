"""Write a workflow, or a finished run of it, as WfFormat (https://github.com/wfcommons/WfFormat, schema 1.5).

WfFormat describes: tasks, files, sizes, and with a run times, cores, memory and machines. It holds no code, so it can be
analysed and simulated, not run. A sweep is one task for each point. Read back by :mod:`kale_magic.formats.wfformat_read`.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kale_magic.formats.losses import losses
from kale_magic.model import dataflow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kale_magic.model.dataflow import Plan
    from kale_magic.model.step import Step
    from kale_magic.model.workflow import Workflow

SCHEMA_VERSION = "1.5"


def dump(workflow: Workflow, run_folder: Path | None = None) -> str:
    """Return the JSON text.

    Parameters
    ----------
    workflow : Workflow
        As declared; with a run, as that run has it.
    run_folder : Path, optional
        ``.kale/runs/RUN`` of a run that has ended; its ``result.json`` files give times, sizes and machines.

    Raises
    ------
    WorkflowError
        The steps don't fit together.
    """
    plan = dataflow.resolve(workflow)
    results = _results(workflow, run_folder) if run_folder is not None else {}
    instance: dict[str, Any] = {"name": workflow.name}
    if workflow.description:
        instance["description"] = workflow.description
    started = [result["started_at"] for result in results.values()]
    if started:
        instance["createdAt"] = min(started)
    instance |= {
        "schemaVersion": SCHEMA_VERSION,
        "runtimeSystem": {"name": "Kale", "version": _version()},
        "workflow": {"specification": _specification(workflow, plan, results)},
    }
    if results:
        instance["workflow"]["execution"] = _execution(workflow, results)
    return json.dumps(instance, indent=1, ensure_ascii=False) + "\n"


def warnings(workflow: Workflow) -> list[str]:
    """Return what WfFormat can't hold."""
    return ["WfFormat holds no code and no parameters: it is for analysis and simulation", *losses(workflow, {"cpus", "notebook", "input", "read"}, "WfFormat")]


def task_ids(step: Step) -> list[str]:
    """Return the id of each of a step's jobs: its name, or ``NAME.POINT``."""
    return [f"{step.name}.{number}" for number in range(step.point_count)] if step.is_sweep else [step.name]


def _specification(workflow: Workflow, plan: Plan, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    children = plan.children()
    tasks, sizes = [], dict[str, int]()
    for name in plan.order:
        step = workflow.steps[name]
        planned = plan.steps[name]
        parents = [task for parent in planned.parents for task in task_ids(workflow.steps[parent])]
        after = [task for child in children[name] for task in task_ids(workflow.steps[child])]
        taken = [f"{task}/{item.output}" for item in planned.bindings for task in task_ids(workflow.steps[item.producer])]
        for task in task_ids(step):
            index = results.get(task, {}).get("outputs", {})
            made = [f"{task}/{output}" for output in step.outputs]
            sizes |= {file: int(index.get(output, {}).get("bytes", 0)) for file, output in zip(made, step.outputs, strict=True)}
            tasks.append({
                "name": name, "id": task, "parents": parents, "children": after,
                "inputFiles": list(dict.fromkeys(taken)), "outputFiles": made,
            })  # fmt: skip
    return {"tasks": tasks, "files": [{"id": file, "sizeInBytes": size} for file, size in sizes.items()]}


def _execution(workflow: Workflow, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    begin = min(_time(result["started_at"]) for result in results.values())
    end = max(_time(result["ended_at"]) for result in results.values())
    cores = {task: step.resources.cpus or 1 for step in workflow.steps.values() for task in task_ids(step)}
    nodes = dict.fromkeys(result["node"] for result in results.values() if result.get("node"))
    found: dict[str, Any] = {
        "makespanInSeconds": round((end - begin).total_seconds(), 3),
        "executedAt": begin.isoformat(),
        "tasks": [_task(task, result, cores[task]) for task, result in results.items()],
    }
    if nodes:
        found["machines"] = [{"system": "linux", "nodeName": node} for node in nodes]
    return found


def _task(task: str, result: dict[str, Any], cores: int) -> dict[str, Any]:
    runtime = (_time(result["ended_at"]) - _time(result["started_at"])).total_seconds()
    items = {
        "id": task,
        "runtimeInSeconds": round(runtime, 3),
        "executedAt": result["started_at"],
        "coreCount": cores,
        "avgCPU": round(100 * result["cpu_s"] / runtime, 2) if result.get("cpu_s") is not None and runtime > 0 else None,
        "writtenBytes": sum(int(item.get("bytes", 0)) for item in result.get("outputs", {}).values()),
        "memoryInBytes": result.get("peak_rss_bytes"),
        "machines": [result["node"]] if result.get("node") else None,
    }
    return {key: value for key, value in items.items() if value is not None}


def _results(workflow: Workflow, folder: Path) -> dict[str, dict[str, Any]]:
    """Return the result of each job that has one, by task."""
    found = {}
    for task, path in _result_files(workflow, folder):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # a job that never began
        if result.get("started_at") and result.get("ended_at"):
            found[task] = result
    return found


def _result_files(workflow: Workflow, folder: Path) -> Iterator[tuple[str, Path]]:
    for step in workflow.steps.values():
        place = folder / "steps" / step.name
        for number, task in enumerate(task_ids(step)):
            yield task, (place / str(number) if step.is_sweep else place) / "result.json"


def _time(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _version() -> str:
    from kale_magic.version import __version__

    return __version__
