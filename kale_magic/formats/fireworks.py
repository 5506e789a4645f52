"""Write a workflow as a folder with a FireWorks workflow (https://materialsproject.github.io/fireworks).

``workflow.yaml`` is what ``fireworks.Workflow.from_file`` and ``lpad add`` load: a Firework for each step, and for each point of a
sweep. Its task goes to the project's folder (``KALE_PROJECT``, else the nearest one around the launch) and runs the step there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from kale_magic.formats.losses import losses, needs
from kale_magic.formats.project import RUNNER, Project, shared_files
from kale_magic.model.resources import format_walltime

if TYPE_CHECKING:
    from kale_magic.model.step import Step

HOLDS = frozenset({
    "nodes", "ntasks", "cpus", "gpus", "memory", "walltime", "queue", "account", "qos", "constraint", "tags", "markdown", "notebook",
})  # fmt: skip
MAIN = "workflow.yaml"
_ENTER = f'cd "${{KALE_PROJECT:-.}}" && while [ ! -e {RUNNER} ] && [ "$PWD" != / ]; do cd ..; done'


def folder_files(project: Project) -> dict[str, str]:
    """Return the files of the folder."""
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text = yaml.dump(_workflow(project), Dumper=dumper, sort_keys=False, allow_unicode=True, width=120)
    return {MAIN: text, **shared_files(project)}


def warnings(project: Project) -> list[str]:
    """Return what FireWorks can't hold, and what must be installed where it runs."""
    return losses(project.workflow, HOLDS, "FireWorks") + needs(project.workflow)


def _workflow(project: Project) -> dict[str, Any]:
    workflow = project.workflow
    ids: dict[str, list[int]] = {}
    fireworks: list[dict[str, Any]] = []
    links: dict[int, list[int]] = {}
    for step in project.steps():
        ids[step.name] = [-(len(fireworks) + number + 1) for number in range(step.point_count)]
        for number, fw_id in enumerate(ids[step.name]):
            fireworks.append(_firework(project, step, fw_id, number if step.is_sweep else None))
            links[fw_id] = []
        for parent in project.plan.steps[step.name].parents:
            for fw_id in ids[parent]:
                links[fw_id] += ids[step.name]
    notes = {"description": workflow.description, "markdown": workflow.markdown.get("", "")}
    return {
        "name": workflow.name,
        "fws": fireworks,
        "links": {fw_id: children for fw_id, children in links.items() if children},
        "metadata": {key: value for key, value in notes.items() if value},
    }


def _firework(project: Project, step: Step, fw_id: int, point: int | None) -> dict[str, Any]:
    folder = f"results/{step.name}" + (f"/{point}" if point is not None else "")
    words = f"python3 {RUNNER} steps/{step.name}.json" + (f" --point {point}" if point is not None else "")
    run = f"mkdir -p {folder} && {words} > {folder}/stdout.log 2> {folder}/stderr.log"
    spec: dict[str, Any] = {"_tasks": [{"_fw_name": "ScriptTask", "script": [f"{_ENTER} && {run}"], "use_shell": True}]}
    if queue := _queue(step):
        spec["_queueadapter"] = queue
    notes = {
        "kale_step": step.name,
        "kale_point": {name: str(value) for name, value in step.points()[point].items()} if point is not None else None,
        "description": step.description,
        "markdown": project.workflow.markdown.get(step.name),
        "tags": list(step.tags),
    }
    spec |= {key: value for key, value in notes.items() if value}
    name = step.name if point is None else f"{step.name}[{point}]"
    return {"fw_id": fw_id, "name": name, "spec": spec}


def _queue(step: Step) -> dict[str, Any]:
    """Return what a step asks for, by the names of FireWorks' template for Slurm."""
    asked = step.resources
    items = {
        "nodes": asked.nodes,
        "ntasks": asked.ntasks,
        "cpus_per_task": asked.cpus,
        "gpus": asked.gpus,
        "mem": f"{math.ceil(asked.memory_bytes / (1 << 20))}M" if asked.memory_bytes else None,
        "walltime": format_walltime(asked.walltime_s) if asked.walltime_s else None,
        "queue": asked.queue,
        "account": asked.account,
        "qos": asked.qos,
        "constraint": asked.constraint,
    }
    return {key: value for key, value in items.items() if value}
