"""What of a workflow another format can't hold, one sentence for each thing; called by the exporters and ``check``."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING

from kale_magic.model.step import Step, StepKind

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from kale_magic.model.workflow import Workflow

_SHOWN = 6
_NEEDS_KALE = re.compile(r"^\s*(?:from|import)\s+kale_magic\b", re.MULTILINE)
_ASKS = re.compile(r"(?<![\w.'\"])input\(")
# A command of its own: a read of a pipe or of a redirected loop stands elsewhere in its line, and one of a file says so.
_READS = re.compile(r"^\s*(?:if\s+|then\s+)?read\b(?![^\n#]*<)", re.MULTILINE)

# What a step can ask for beyond code, edges and values. The key is what an exporter says it holds.
_FEATURES: dict[str, tuple[str, Callable[[Step], object]]] = {
    "gate": ("--gate", lambda step: step.is_gate),
    "input": ("input()", lambda step: step.kind in {StepKind.PYTHON, StepKind.KERNEL} and _ASKS.search(step.code)),
    "read": ("read from a person", lambda step: step.kind is StepKind.SHELL and _READS.search(step.code)),
    "notebook": ("--notebook", lambda step: step.notebook),
    "no_cache": ("--no-cache", lambda step: step.no_cache),
    "nodes": ("--nodes", lambda step: (step.resources.nodes or 1) > 1),
    "ntasks": ("--ntasks, as MPI ranks", lambda step: (step.resources.ntasks or 1) > 1),
    "cpus": ("--cpus", lambda step: step.resources.cpus),
    "gpus": ("--gpus", lambda step: step.resources.gpus),
    "memory": ("--memory", lambda step: step.resources.memory_bytes),
    "walltime": ("--walltime", lambda step: step.resources.walltime_s),
    "queue": ("--queue", lambda step: step.resources.queue),
    "account": ("--account", lambda step: step.resources.account),
    "qos": ("--qos", lambda step: step.resources.qos),
    "constraint": ("--constraint", lambda step: step.resources.constraint),
    "reservation": ("--reservation", lambda step: step.resources.reservation),
    "native": ("--native", lambda step: step.resources.native),
    "container": ("--container", lambda step: step.resources.container),
    "retries": ("--retries", lambda step: step.retries),
    "executor": ("--executor", lambda step: step.executor),
    "tags": ("--tags", lambda step: step.tags),
    "idle": ("the kernel that stays open", lambda step: step.idle_s is not None),
    "hold": ("--hold and --hold-on-failure", lambda step: (step.hold_s, step.hold_on_failure_s) != (None, None)),
    "warn": ("--warn", lambda step: step.warn_s),
    "script": ("the #SBATCH and #PBS lines", lambda step: step.kind is StepKind.SCRIPT),
}
_INSTEAD = {
    "gate": "nobody is asked, they go on by themselves with their --params",
    "input": "nobody answers, and the step fails",
    "read": "nobody answers, and it reads end of file",
    "container": "they run on the machine itself",
}
# What every exporter holds; a field that is neither here nor above is a feature that no export knows yet.
_HELD = frozenset({
    "name", "code", "kind", "kernel", "description", "after", "inputs", "outputs", "params", "each", "is_zipped", "files_in", "files_out",
    "is_gate", "is_gate_release",
    "first_line", "resources", "memory_bytes", "walltime_s", "modules", "env", "setup", "idle_s", "hold_s", "hold_on_failure_s", "warn_s",
})  # fmt: skip


def losses(workflow: Workflow, holds: Collection[str], title: str) -> list[str]:
    """Return what a format leaves out of a workflow.

    Parameters
    ----------
    workflow : Workflow
        As declared.
    holds : collection of str
        Keys of what the format can say: resources by their name, ``retries``, ``tags``, ``markdown`` and so on.
    title : str
        The format's name for people.
    """
    found = []
    for key, (what, asks) in _FEATURES.items():
        if key not in holds and (steps := [step.name for step in workflow.steps.values() if asks(step)]):
            found.append(f"{title} can't hold {what} ({_listed(steps)}): {_INSTEAD.get(key, 'left out')}")
    for name, steps in _unknown(workflow).items():
        found.append(f"{title} can't hold --{name.removeprefix('is_').removesuffix('_s').replace('_', '-')} ({_listed(steps)}): left out")
    if "markdown" not in holds and workflow.markdown:
        found.append(f"{title} can't hold Markdown ({_listed([name or 'workflow' for name in workflow.markdown])}): left out")
    if workflow.executor and workflow.executor != "local" and "executor" not in holds:
        found.append(f"{title} can't hold the executor {workflow.executor}: choose it where it is run")
    return found


def _unknown(workflow: Workflow) -> dict[str, list[str]]:
    """Return the steps that use each feature which is not in the tables here."""
    found: dict[str, list[str]] = {}
    for step in workflow.steps.values():
        for part in (step, step.resources):
            for item in fields(part):
                default = item.default if item.default_factory is MISSING else item.default_factory()
                if item.name not in _HELD and item.name not in _FEATURES and getattr(part, item.name) != default:
                    found.setdefault(item.name, []).append(step.name)
    return found


def needs(workflow: Workflow) -> list[str]:
    """Return what must be installed where an exported project runs, beyond Python and what the code imports openly."""
    found = []
    for step in workflow.steps.values():
        if step.kind is StepKind.PYTHON and _NEEDS_KALE.search(step.code):
            found.append(f"step {step.name} imports kale_magic: pip install kale-magic where it runs")
        if step.kind is StepKind.NOTEBOOK:
            found.append(f"step {step.name} is a notebook: its kernel and nbclient must be installed where it runs")
        if step.kind is StepKind.KERNEL:
            found.append(f"step {step.name} runs in the kernel {step.kernel}: it and nbclient must be installed where it runs")
    if _NEEDS_KALE.search(workflow.common_code()):
        found.append("the common code imports kale_magic: pip install kale-magic where it runs")
    return found


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{'step' if len(names) == 1 else 'steps'} {shown}{f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''}"
