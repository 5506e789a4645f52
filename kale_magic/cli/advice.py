"""What ``check`` warns of: things that run, but that a person would rather know before."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from kale_magic.model.step import Step, StepKind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kale_magic.model.dataflow import Plan
    from kale_magic.model.workflow import Workflow

_PATH = re.compile(r"(?:~|/)[\w.+-]*(?:/[\w.+-]+)+")
_EVERYWHERE = ("/dev/", "/proc/", "/sys/", "/tmp/", "/etc/", "/usr/", "/bin/", "/var/tmp/")  # noqa: S108 - not made here
_PINNED = re.compile(r"[0-9]\.[0-9]|conda|env|-py[0-9]")
_HERE = frozenset({None, "local"})


def warnings_of(workflow: Workflow, plan: Plan, folder: Path) -> list[str]:
    """Return one sentence for each thing, in order of the steps."""
    used = {(binding.producer, binding.output) for step in plan.steps.values() for binding in step.bindings}
    children = plan.children()
    made = [pattern for step in workflow.steps.values() for pattern in step.files_out]
    common = _paths(workflow.common_code())
    found = [f"the common code names {path!r}, which may not exist where the steps run" for path in common]
    for step in workflow.steps.values():
        idle = [name for name in step.outputs if (step.name, name) not in used]
        if idle and children[step.name]:  # those of a last step are the results
            found.append(f"step {step.name}: no step uses its output{'s' if len(idle) > 1 else ''} {', '.join(idle)}")
        paths = _paths(step.code, is_python=step.kind is StepKind.PYTHON)
        found += [f"step {step.name} names {path!r}, which may not exist where it runs" for path in paths]
        if (executor := step.executor or workflow.executor) not in _HERE:
            found += _unasked(step, str(executor))
        if step.kernel and not _PINNED.search(step.kernel):
            found.append(f"step {step.name}: the kernel {step.kernel} says no version, so it is what each machine has by that name")
        found += _chances(step, workflow.common_code())
        found += _missing_files(step, made, folder)
        found += _made_by_nobody_before(step, workflow, plan)
    return found


def losses_of(workflow: Workflow) -> dict[str, list[str]]:
    """Return what each format but Kale's own would lose of a workflow."""
    from kale_magic.formats import cwl, fireworks, snakemake
    from kale_magic.formats.losses import losses

    held = {"cwl": cwl.HOLDS, "snakemake": snakemake.HOLDS, "fireworks": fireworks.HOLDS}
    found = {name: losses(workflow, holds, name) for name, holds in held.items()}
    return {name: lost for name, lost in found.items() if lost}


def _unasked(step: Step, executor: str) -> Iterator[str]:
    asked = step.resources
    if asked.walltime_s is None:
        yield f"step {step.name} has no --walltime: {executor} gives it the queue's default"
    if asked.memory_bytes is None and not (asked.cpus or asked.ntasks or asked.nodes or asked.gpus) and step.kind is not StepKind.SCRIPT:
        yield f"step {step.name} asks for no cores and no memory: {executor} gives it the queue's default"


def _chances(step: Step, common: str) -> list[str]:
    from kale_magic.cli.chance import chances, shell_chances

    found = chances(step.code, common) if step.kind is StepKind.PYTHON else shell_chances(step.code)
    return [f"step {step.name} may differ from run to run: {word}" for word in found]


def _missing_files(step: Step, made: list[str], folder: Path) -> list[str]:
    return [
        f"step {step.name}: no file matches --files-in {pattern} in {folder}, and no step makes it"
        for pattern in step.files_in
        if pattern not in made and not pattern.startswith("/") and not any(folder.glob(pattern))
    ]


def _made_by_nobody_before(step: Step, workflow: Workflow, plan: Plan) -> Iterator[str]:
    """Yield the files that a step reads and another one makes for which it does not wait."""
    before, ahead = set[str](), [step.name]
    while ahead:
        parents = set(plan.steps[ahead.pop()].parents) - before
        before |= parents
        ahead += parents
    for pattern in step.files_in:
        makers = [other.name for other in workflow.steps.values() if other.name != step.name and pattern in other.files_out]
        if makers and not before & set(makers):
            yield f"step {step.name} reads {pattern}, which {makers[0]} makes, and does not wait for it: --after {makers[0]}"


def _paths(code: str, *, is_python: bool = True) -> Iterator[str]:
    """Yield absolute paths of this machine in code: string literals of Python, words of a shell."""
    seen: set[str] = set()
    for text in _texts(code) if is_python else re.split(r"[\s\"'=:;|&<>()]+", code):
        if _PATH.fullmatch(text) and not text.startswith(_EVERYWHERE) and text not in seen:
            seen.add(text)
            yield text


def _texts(code: str) -> list[str]:
    try:
        tree = ast.parse(code)
    except SyntaxError:  # a cell with %magics or !commands
        return re.findall(r"[\"']([^\"'\n]+)[\"']", code)
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
