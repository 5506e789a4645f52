"""Write a workflow as a folder with a Snakefile (https://snakemake.readthedocs.io) that ``snakemake -c2`` runs.

One rule a step, one wildcard a sweep. Values, logs and the mark that a step has ended are in ``results/STEP``; the code, and
a JSON file with the parameters, in ``steps``: who edits one of them has that step and what follows run again.
"""

from __future__ import annotations

import keyword
import math
from typing import TYPE_CHECKING, Any

from kale_magic.formats.losses import losses, needs
from kale_magic.formats.project import COMMON, RUNNER, Project, code_name, shared_files

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kale_magic.model.step import Step

HOLDS = frozenset({
    "nodes", "ntasks", "cpus", "gpus", "memory", "walltime", "queue", "account", "qos", "constraint", "reservation", "retries", "native",
    "notebook",
})  # fmt: skip
MAIN = "Snakefile"
_GLOB = frozenset("*?[")


def folder_files(project: Project) -> dict[str, str]:
    """Return the files of the folder."""
    return {MAIN: _snakefile(project), **shared_files(project)}


def warnings(project: Project) -> list[str]:
    """Return what a Snakefile can't hold, and what must be installed where it runs."""
    return losses(project.workflow, HOLDS, "a Snakefile") + needs(project.workflow)


def _snakefile(project: Project) -> str:
    workflow = project.workflow
    names = rule_names(project)
    makers = _declared_files(project)
    lines = [
        f"# Workflow {workflow.name}, exported by Kale. Run it in this folder: snakemake -c2",
        "# Values, logs and what else a step makes are in results/STEP; parameters in steps/STEP.json.",
        *(f"# {line}".rstrip() for line in workflow.description.splitlines()),
        "", "", "rule all:", "    input:",
        *(f"        {_results(step)}," for step in project.steps()),
    ]  # fmt: skip
    for step in project.steps():
        lines += ["", "", *_rule(project, step, names[step.name], makers)]
    return "\n".join(lines) + "\n"


def rule_names(project: Project) -> dict[str, str]:
    """Return the rule of each step: its name, if Python and Snakemake take that for a name of their own."""
    found: dict[str, str] = {}
    for step in project.steps():
        name = step.name.replace("-", "_")
        while name in found.values() or keyword.iskeyword(name) or keyword.issoftkeyword(name) or name in {"all", "rule"}:
            name += "_"
        found[step.name] = name
    return found


def _declared_files(project: Project) -> dict[str, str]:
    """Return the files that Snakemake can know as a rule's own, with their step: those of a plain name, made by one step."""
    found: dict[str, str] = {}
    for step in project.steps():
        for path in step.files_out if not step.is_sweep else ():
            if not _GLOB & set(path):
                found.setdefault(path, step.name)
    return found


def _rule(project: Project, step: Step, name: str, makers: dict[str, str]) -> list[str]:
    inputs = [f"steps/{step.name}.json", f"steps/{code_name(step)}", RUNNER]
    inputs += [COMMON] if project.has_common(step) else []
    inputs += [*project.files_of(step), *(path for path in step.files_in if makers.get(path, step.name) != step.name)]
    parents = [project.workflow.steps[parent] for parent in project.plan.steps[step.name].parents]
    folder = f"results/{step.name}" + ("/{point}" if step.is_sweep else "")
    outputs = [f"{folder}/index.json", *(path for path in step.files_out if makers.get(path) == step.name)]
    point = " --point {wildcards.point}" if step.is_sweep else ""
    lines = [f"rule {name}:"]
    if title := (step.description.strip().splitlines() or [""])[0]:
        lines.append(f"    {_text(title)}")
    lines += ["    input:", *(f"        {_path(path)}," for path in inputs), *(f"        {_results(parent)}," for parent in parents)]
    lines += ["    output:", *(f"        {_path(path, keeps_wildcard=step.is_sweep)}," for path in outputs)]
    lines += ["    log:", f'        out="{folder}/stdout.log",', f'        err="{folder}/stderr.log",']
    if step.is_sweep:
        lines += ["    wildcard_constraints:", r'        point=r"\d+",']
    lines += [f"    threads: {step.resources.cpus}"] if step.resources.cpus else []
    if asked := _resources(step):
        lines += ["    resources:", *(f"        {key}={value!r}," for key, value in asked.items())]
    lines += [f"    retries: {step.retries}"] if step.retries else []
    return [*lines, "    shell:", f'        "python3 {RUNNER} steps/{step.name}.json{point} > {{log.out:q}} 2> {{log.err:q}}"']


def _results(step: Step) -> str:
    """Return the files that stand for a step being done, as Python."""
    if step.is_sweep:
        return f'expand("results/{step.name}/{{point}}/index.json", point=range({step.point_count}))'
    return f'"results/{step.name}/index.json"'


def _path(path: str, *, keeps_wildcard: bool = False) -> str:
    return _text(path if keeps_wildcard else path.replace("{", "{{").replace("}", "}}"))


def _text(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)


def _resources(step: Step) -> dict[str, Any]:
    """Return resources by the names of Snakemake and of its Slurm plugin (snakemake-executor-plugin-slurm)."""
    asked = step.resources
    extra = [f"--reservation={asked.reservation}"] if asked.reservation else []
    extra += _native_options(asked.native)
    items: dict[str, Any] = {
        "mem_mb": math.ceil(asked.memory_bytes / (1 << 20)) if asked.memory_bytes else None,
        "runtime": math.ceil(asked.walltime_s / 60) if asked.walltime_s else None,
        "nodes": asked.nodes,
        "tasks": asked.ntasks,
        "gpu": asked.gpus,
        "slurm_partition": asked.queue,
        "slurm_account": asked.account,
        "qos": asked.qos,
        "constraint": asked.constraint,
        "slurm_extra": " ".join(extra),
    }
    return {key: value for key, value in items.items() if value}


def _native_options(native: Iterable[str]) -> list[str]:
    return [line.removeprefix("#SBATCH").strip() for line in native if line.startswith("#SBATCH")]
