"""The files that an export brings along so that other engines can run its steps without Kale.

Owns a step's JSON file, the names of the files with its code, and which data and modules of the workflow's folder go along.
The runner that reads them is ``runner/kale_step.py``. Called by the exporters of CWL, Snakemake and FireWorks.
"""

from __future__ import annotations

import ast
import fnmatch
import glob
import json
import os
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any

from kale_magic.errors import FormatError, UsageError
from kale_magic.model import dataflow
from kale_magic.model.literals import encode_value
from kale_magic.model.step import Step, StepKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from kale_magic.model.dataflow import Plan
    from kale_magic.model.workflow import Workflow

RUNNER = "kale_step.py"
VALUES = "kale_values.py"
COMMON = "kale_common.py"
_SUFFIX = {StepKind.PYTHON: ".py", StepKind.SHELL: ".sh", StepKind.SCRIPT: ".sh", StepKind.NOTEBOOK: ".ipynb"}
_KERNELS = {"ir": ".R", "python3": ".py", "bash": ".sh"}


@dataclass(frozen=True, slots=True)
class Project:
    """A workflow with what its steps need around them.

    ``sources`` are files of the workflow's folder that steps read and no step makes, by step; ``modules`` those that
    Python steps and notebooks import. Both are relative to ``folder``. ``notebooks`` has the text of each step's that is one.
    """

    workflow: Workflow
    plan: Plan
    folder: Path
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    notebooks: Mapping[str, str] = field(default_factory=dict)

    def steps(self) -> Iterator[Step]:
        """Yield the steps, parents first."""
        return (self.workflow.steps[name] for name in self.plan.order)

    def files_of(self, step: Step) -> tuple[str, ...]:
        """Return the files of the workflow's folder that a step needs."""
        return (*self.sources[step.name], *(self.modules if step.kind in {StepKind.PYTHON, StepKind.NOTEBOOK} else ()))

    def copies(self) -> list[str]:
        """Return all files of the workflow's folder that go along."""
        return list(dict.fromkeys(path for step in self.steps() for path in self.files_of(step)))

    def code(self, step: Step) -> str:
        """Return the text of the file with a step's code."""
        return self.notebooks.get(step.name, step.code)

    def has_common(self, step: Step) -> bool:
        """Whether the common code is put before a step."""
        return step.kind is StepKind.PYTHON and bool(self.workflow.common)

    def makers(self, step: Step) -> list[Step]:
        """Return the steps before this one that make files which it reads."""
        before = [self.workflow.steps[name] for name in self.plan.order[: self.plan.order.index(step.name)]]
        return [other for other in before if step.files_in and _overlap(step.files_in, other.files_out)]


def project_of(workflow: Workflow, folder: Path) -> Project:
    """Resolve a workflow and find the files it needs; raises WorkflowError if the steps don't fit together."""
    if not workflow.steps:
        raise FormatError(f"Workflow {workflow.name} has no steps to export.", "Declare one with %%kale_step NAME.")
    plan = dataflow.resolve(workflow)
    made = [pattern for step in workflow.steps.values() for pattern in step.files_out]
    sources = {step.name: tuple(_sources(step, made, folder)) for step in workflow.steps.values()}
    notebooks = {step.name: _notebook(step, folder) for step in workflow.steps.values() if step.kind is StepKind.NOTEBOOK}
    return Project(workflow, plan, folder, sources, tuple(_modules(workflow, notebooks, folder)), notebooks)


def _notebook(step: Step, folder: Path) -> str:
    """Return the text of the notebook that a step is, without its outputs; raises UsageError if it can't be read."""
    path = folder / (step.notebook or "")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        for cell in data["cells"]:
            if cell["cell_type"] == "code":
                cell |= {"outputs": [], "execution_count": None}
    except OSError as exc:
        raise UsageError(f"Step {step.name}: its notebook {path} can't be read: {exc.strerror or exc}.") from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise UsageError(f"Step {step.name}: {path} is no notebook of format 4.") from exc
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def _sources(step: Step, made: list[str], folder: Path) -> Iterator[str]:
    for pattern in step.files_in:
        for path in sorted(glob.glob(pattern, root_dir=folder, recursive=True)):
            if (folder / path).is_file() and not any(fnmatch.fnmatch(path, other) for other in made):
                yield path


def _overlap(wanted: tuple[str, ...], made: tuple[str, ...]) -> bool:
    return any(one == other or fnmatch.fnmatch(other, one) or fnmatch.fnmatch(one, other) for one in wanted for other in made)


def _modules(workflow: Workflow, notebooks: Mapping[str, str], folder: Path) -> Iterator[str]:
    """Yield the Python files of the workflow's folder that its code imports."""
    codes = [*workflow.common.values(), *(step.code for step in workflow.steps.values() if step.kind is StepKind.PYTHON)]
    codes += ["".join(cell["source"]) for text in notebooks.values() for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    names = dict.fromkeys(name for code in codes if "import" in code for name in _imported(code))
    for name in names:
        if (folder / f"{name}.py").is_file():
            yield f"{name}.py"
        elif (folder / name / "__init__.py").is_file():
            yield from sorted(glob.glob(f"{name}/**/*.py", root_dir=folder, recursive=True))


def _imported(code: str) -> Iterator[str]:
    try:
        tree = ast.parse(code)
    except SyntaxError:  # IPython's own lines
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def code_name(step: Step) -> str:
    """Return the name of the file with a step's code."""
    return step.name + (_SUFFIX.get(step.kind) or _KERNELS.get(step.kernel or "", ".txt"))


def describe(step: Step) -> dict[str, Any]:
    """Return what the runner is told of a step, whatever the engine: all but its parameters and where values come from."""
    asked = step.resources
    items: dict[str, Any] = {
        "name": step.name,
        "kind": step.kind.value,
        "kernel": step.kernel,
        "makes": list(step.outputs),
        "files_in": list(step.files_in),
        "files_out": list(step.files_out),
        "env": dict(asked.env),
        "modules": list(asked.modules),
        "setup": list(asked.setup),
        "cpus": asked.cpus,
    }
    return {key: value for key, value in items.items() if value not in (None, [], {})}


def step_file(project: Project, step: Step) -> dict[str, Any]:
    """Return a step's JSON file, for engines whose steps share a folder."""
    data = {**describe(step), "code": code_name(step)}
    if project.has_common(step):
        data["common"] = f"../{COMMON}"
    data["params"] = {name: encode_value(value, f"{name} of step {step.name}") for name, value in step.params.items()}
    if step.each:
        data["each"] = {
            axis.name: [encode_value(value, f"{axis.name} of step {step.name}") for value in axis.values] for axis in step.each
        }
        data["zip"] = step.is_zipped
    data["takes"] = {}
    for binding in project.plan.steps[step.name].bindings:
        item: dict[str, Any] = {"step": binding.producer, "output": binding.output}
        if binding.gather:
            item["points"] = project.workflow.steps[binding.producer].point_count
        data["takes"][binding.name] = item
    return data


def shared_files(project: Project) -> dict[str, str]:
    """Return the files of a project whose steps share its folder: runner, common code, and two files for each step."""
    files = runner_files()
    if project.workflow.common:
        files[COMMON] = project.workflow.common_code()
    for step in project.steps():
        files[f"steps/{step.name}.json"] = json.dumps(step_file(project, step), indent=1, ensure_ascii=False) + "\n"
        files[f"steps/{code_name(step)}"] = project.code(step)
    return files


def runner_files() -> dict[str, str]:
    """Return the two files that run a step, by name."""
    runner = resources.files("kale_magic.formats").joinpath("runner", RUNNER).read_text(encoding="utf-8")
    values = resources.files("kale_proxy").joinpath("values.py").read_text(encoding="utf-8")
    return {RUNNER: runner, VALUES: values}


def write_folder(target: Path, files: Mapping[str, str], copies: Mapping[str, Path]) -> None:
    """Write an export's files; those that are there with the same content are left, so that engines see no change.

    Raises
    ------
    UsageError
        ``target`` is a file, or something in it can't be written.
    """
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is a file, and this format needs a folder.", "Name a folder, which is made.")
    try:
        for name, text in files.items():
            _write_if_new(target / name, text.encode())
        for name, source in copies.items():
            if source.resolve() != (target / name).resolve():
                _write_if_new(target / name, source.read_bytes())
    except OSError as exc:
        raise UsageError(f"{exc.filename or target} can't be written: {exc.strerror or exc}.") from exc


def _write_if_new(path: Path, data: bytes) -> None:
    try:
        if path.stat().st_size == len(data) and path.read_bytes() == data:
            return
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)
