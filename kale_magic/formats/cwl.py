"""Write a workflow as CWL v1.2 (https://www.commonwl.org/v1.2/): a folder, or one file that holds all.

Each step becomes a command-line tool that runs ``kale_step.py``, a sweep a scatter over its parameters, a value a File.
Parameters are inputs of the workflow, ``STEP.NAME``, so that a job file can replace them. No JavaScript is needed.
"""

from __future__ import annotations

import json
import math
import os
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kale_magic.formats._cwl_types import array, is_literal, is_literal_column, typed, typed_column
from kale_magic.formats._yaml_write import write
from kale_magic.formats.losses import losses, needs
from kale_magic.formats.project import COMMON, RUNNER, VALUES, Project, code_name, describe, runner_files

if TYPE_CHECKING:
    from pathlib import Path

    from kale_magic.model.step import Step

HOLDS = frozenset({"cpus", "memory", "walltime", "markdown", "notebook", "no_cache"})
MAIN = "workflow.cwl"
_PLAIN = re.compile(r"[\w.+,:@^-]+")
_SUFFIXES = (".json", ".npy", ".pkl")


def folder_files(project: Project, *, keeps_stderr: bool = False) -> dict[str, str]:
    """Return the files of the folder form: ``workflow.cwl``, and in ``steps`` a tool and the code of each step.

    ``keeps_stderr``: each step's stderr goes to a file, and not to the engine's own.
    """
    writer = _Writer(project, is_folder=True, keeps_stderr=keeps_stderr)
    files = {MAIN: _text(writer.main()), **runner_files()}
    if project.workflow.common:
        files[COMMON] = project.workflow.common_code()
    for step in project.steps():
        files[f"steps/{step.name}.cwl"] = _text({"cwlVersion": "v1.2", **writer.tool(step)})
        files[f"steps/{code_name(step)}"] = project.code(step)
    return files


def one_file(project: Project, target: Path) -> str:
    """Return the text of the one-file form; data files stay where they are, named relative to ``target``."""
    return _text(_Writer(project, is_folder=False, beside=target.resolve().parent).main())


def warnings(project: Project, *, is_folder: bool = True) -> list[str]:
    """Return what CWL can't hold, what must be installed, and which data the one file leaves outside."""
    found = losses(project.workflow, HOLDS, "CWL") + needs(project.workflow)
    if not is_folder and (copies := project.copies()):
        names = ", ".join(copies[:6]) + ", ..." * (len(copies) > 6)
        found.append(f"one file of CWL can't hold {names}, and names them where they are: a folder as FILE takes them along")
    if odd := [path for path in project.copies() if not all(map(_PLAIN.fullmatch, path.split("/")))]:
        found.append(f"the name {odd[0]!r} is refused by cwltool unless it is given --relax-path-checks")
    return found


def _text(document: dict[str, Any]) -> str:
    return "#!/usr/bin/env cwl-runner\n" + write(document)


class _Writer:
    def __init__(self, project: Project, *, is_folder: bool, beside: Path | None = None, keeps_stderr: bool = False) -> None:
        self.project = project
        self.is_folder = is_folder
        self.beside = beside
        self.keeps_stderr = keeps_stderr
        self.source_ids = {path: f"kale_source.{number}" for number, path in enumerate(project.copies())}

    def main(self) -> dict[str, Any]:
        """Return the workflow, with its tools inside if it is to be one file."""
        workflow = self.project.workflow
        inputs = {**self.own_inputs(), **self.source_inputs()}
        outputs: dict[str, Any] = {}
        for step in self.project.steps():
            for name, value in step.params.items():
                kind, default = typed(value)
                inputs[f"{step.name}.{name}"] = {"type": kind, "default": default}
            for axis in step.each:
                column, values = typed_column(axis.values)
                inputs[f"{step.name}.{axis.name}"] = {"type": array(column), "default": values}
            made = [(name, "File") for name in step.outputs] + [("kale_files", "Directory")] * bool(step.files_out)
            for name, item in made:
                outputs[f"{step.name}.{name}"] = {"type": array(item) if step.each else item, "outputSource": f"{step.name}/{name}"}
        return {
            "cwlVersion": "v1.2",
            "class": "Workflow",
            "label": workflow.name,
            **_doc(workflow.description, workflow.markdown.get("")),
            "requirements": {"ScatterFeatureRequirement": {}, "MultipleInputFeatureRequirement": {}},
            "inputs": inputs,
            "outputs": outputs,
            "steps": {step.name: self.step(step) for step in self.project.steps()},
        }

    def own_inputs(self) -> dict[str, Any]:
        """Return the inputs by which all tools of the one file share the runner and the common code."""
        if self.is_folder:
            return {}
        texts = runner_files()
        if self.project.workflow.common:
            texts[COMMON] = self.project.workflow.common_code()
        return {_own(name): _file_input(_literal_file(name, text)) for name, text in texts.items()}

    def source_inputs(self) -> dict[str, Any]:
        """Return the inputs for data and modules of the workflow's folder."""
        found = {}
        for path, name in self.source_ids.items():
            location = path if self.beside is None else os.path.relpath(self.project.folder / path, self.beside)
            found[name] = {"doc": path, **_file_input({"class": "File", "location": quote(location)})}
        return found

    def step(self, step: Step) -> dict[str, Any]:
        """Return a step of the workflow: where its inputs come from, and its tool."""
        sources: dict[str, Any] = {} if self.is_folder else {_own(name): _own(name) for name in self.shared(step)}
        names = [*step.params, *(axis.name for axis in step.each)]
        sources |= {name: f"{step.name}.{name}" for name in names}
        sources |= {item.name: f"{item.producer}/{item.output}" for item in self.project.plan.steps[step.name].bindings}
        for producer in self.sweeps(step):
            sources |= {f"{producer.name}.{axis.name}": f"{producer.name}.{axis.name}" for axis in producer.each}
        for name, before in (
            ("kale_after", [f"{parent}/kale_log" for parent in self.waits_for(step)]),
            ("kale_files", [f"{maker.name}/kale_files" for maker in self.project.makers(step)]),
        ):
            if before:
                sources[name] = {"source": before, "linkMerge": "merge_flattened"}
        sources |= {self.source_ids[path]: self.source_ids[path] for path in self.project.files_of(step)}
        scatter: dict[str, Any] = {}
        if step.each:
            method = "dotproduct" if step.is_zipped else "flat_crossproduct"
            scatter = {"scatter": [axis.name for axis in step.each], "scatterMethod": method}
        return {
            "run": f"steps/{step.name}.cwl" if self.is_folder else self.tool(step),
            **scatter,
            "in": sources,
            "out": [*step.outputs, *(["kale_files"] if step.files_out else []), "kale_log"],
        }

    def tool(self, step: Step) -> dict[str, Any]:
        """Return the command-line tool of a step."""
        outputs: dict[str, Any] = {}
        point = ".*" if step.is_sweep else ""
        for name in step.outputs:
            globs = [f"outputs/{step.name}.{name}{point}{suffix}" for suffix in _SUFFIXES]
            outputs[name] = {"type": "File", "outputBinding": {"glob": globs}}
        if step.files_out:
            outputs["kale_files"] = {"type": "Directory", "outputBinding": {"glob": f"{step.name}.files{point}"}}
        return {
            "class": "CommandLineTool",
            "label": step.name,
            **_doc(step.description, self.project.workflow.markdown.get(step.name)),
            "baseCommand": ["python3", RUNNER, "kale.json"],
            "requirements": self.requirements(step),
            "inputs": self.tool_inputs(step),
            "outputs": {**outputs, "kale_log": "stdout"},
            "stdout": f"{step.name}.stdout.log",
            **({"stderr": f"{step.name}.stderr.log"} if self.keeps_stderr else {}),
        }

    def tool_inputs(self, step: Step) -> dict[str, Any]:
        """Return a tool's inputs: files of ours, variables, values of other steps, and what only orders."""
        inputs: dict[str, Any] = {}
        for name in self.shared(step):
            inputs[_own(name)] = _file_input({"class": "File", "location": f"../{name}"}) if self.is_folder else "File"
        name = code_name(step)
        code = {"class": "File", "location": name} if self.is_folder else _literal_file(name, self.project.code(step))
        inputs["kale_code"] = _file_input(code)
        # as text, since readers of CWL take "name" and the like for their own words at any depth
        told = json.dumps(self.described(step), ensure_ascii=False)
        inputs["kale_told"] = {"doc": "What the runner is told of the step.", "type": "string", "default": told}
        inputs |= {self.source_ids[path]: "File" for path in self.project.files_of(step)}
        inputs |= {name: typed(value)[0] for name, value in step.params.items()}
        inputs |= {axis.name: typed_column(axis.values)[0] for axis in step.each}
        for item in self.project.plan.steps[step.name].bindings:
            inputs[item.name] = array("File") if item.gather else "File"
        for producer in self.sweeps(step):
            inputs |= {f"{producer.name}.{axis.name}": array(typed_column(axis.values)[0]) for axis in producer.each}
        if self.waits_for(step):
            inputs["kale_after"] = {"doc": "Steps that end before this one.", "type": array("File")}
        if self.project.makers(step):
            inputs["kale_files"] = {"doc": "Files that steps before this one made.", "type": array("Directory")}
        return inputs

    def described(self, step: Step) -> dict[str, Any]:
        """Return what the runner is told of a step, beyond the values themselves."""
        literals = [name for name, value in step.params.items() if is_literal(value)]
        literals += [axis.name for axis in step.each if is_literal_column(axis.values)]
        sweeps = {
            producer.name: {
                "axes": [axis.name for axis in producer.each],
                "zip": producer.is_zipped,
                "literals": [axis.name for axis in producer.each if is_literal_column(axis.values)],
            }
            for producer in self.sweeps(step)
        }
        items = {
            "axes": [axis.name for axis in step.each],
            "variables": [*step.params, *(axis.name for axis in step.each)],
            "literals": literals,
            "takes": {item.name: item.producer for item in self.project.plan.steps[step.name].bindings},
            "sweeps": sweeps,
        }
        return describe(step) | {key: value for key, value in items.items() if value}

    def requirements(self, step: Step) -> dict[str, Any]:
        """Return what a tool asks for, and the files that stand in its folder."""
        listing: list[Any] = [{"entryname": "kale.json", "entry": "$(inputs)"}]
        listing += [f"$(inputs.{_own(name)})" for name in (RUNNER, VALUES)]
        for path in self.project.files_of(step):
            listing.append({"entryname": path, "entry": f'$(inputs["{self.source_ids[path]}"])'})
        found: dict[str, Any] = {"InitialWorkDirRequirement": {"listing": listing}}
        asked = step.resources
        wanted: dict[str, Any] = {}
        if asked.cpus:
            wanted["coresMin"] = asked.cpus
        if asked.memory_bytes:
            wanted["ramMin"] = math.ceil(asked.memory_bytes / (1 << 20))
        if wanted:
            found["ResourceRequirement"] = wanted
        if asked.walltime_s:
            found["ToolTimeLimit"] = {"timelimit": asked.walltime_s}
        if step.no_cache:
            found["WorkReuse"] = {"enableReuse": False}
        return found

    def shared(self, step: Step) -> list[str]:
        """Return the files of ours that a step's tool takes, beside its code."""
        return [RUNNER, VALUES, *([COMMON] if self.project.has_common(step) else [])]

    def sweeps(self, step: Step) -> list[Step]:
        """Return the sweeps whose values a step gathers."""
        names = dict.fromkeys(item.producer for item in self.project.plan.steps[step.name].bindings if item.gather)
        return [self.project.workflow.steps[name] for name in names]

    def waits_for(self, step: Step) -> list[str]:
        """Return the parents that no value comes from: their logs are taken as the sign that they have ended."""
        planned = self.project.plan.steps[step.name]
        givers = {item.producer for item in planned.bindings}
        return [name for name in planned.parents if name not in givers]


def _doc(*texts: str | None) -> dict[str, str]:
    doc = "\n\n".join(text.strip() for text in texts if text)
    return {"doc": doc} if doc else {}


def _own(name: str) -> str:
    return name.removesuffix(".py")


def _file_input(default: dict[str, Any]) -> dict[str, Any]:
    return {"type": "File", "default": default}


def _literal_file(name: str, text: str) -> dict[str, Any]:
    return {"class": "File", "basename": name, "contents": text}
