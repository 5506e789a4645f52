"""Read a CWL workflow of command-line tools (v1.0 to v1.2) as a workflow of Python steps that run the tools.

Each step of the workflow becomes a step whose cell calls ``cwl_step`` with the tool as data; what runs tools stands in the common
blocks ``cwl`` and ``cwl_run`` (``runner/kale_cwl.py``), so the result is a workflow like any other. A scatter over values that are known becomes
a sweep, any other runs within its step. Nothing of the file is run at import; JavaScript is run by node, when the step runs.
"""

from __future__ import annotations

import keyword
import os
import pprint
import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from kale_magic.errors import FormatError
from kale_magic.formats.cwl_norm import Library, Reader, whole_formats
from kale_magic.model.literals import to_literal
from kale_magic.model.resources import Resources
from kale_magic.model.step import Axis, Step, clean_code
from kale_magic.model.stepname import STEP_NAME
from kale_magic.model.workflow import Workflow

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kale_magic.formats._yaml_read import Document

_JOB_NEEDS = "cwl:requirements"  # of a job file; they win over the process's own
_TAKEN = frozenset({"tool", "outputs", "json", "os", "re"})


def load(text: str, path: Path, job: Mapping[str, Any] | None = None, process: str = "") -> Workflow:
    """Return the workflow of a CWL document.

    Parameters
    ----------
    text : str
        The document.
    path : Path
        Its file; others that it names are read from the same folder.
    job : mapping, optional
        Values of its inputs; those of ``default`` if not given.
    process : str
        The process of its ``$graph`` that is meant; ``main`` if not given.

    Raises
    ------
    FormatError
        It can't be read, or has what is not kept here; the message names line and column.
    """
    library = Library(path.parent)
    try:
        document = library.add(path.name, text)
        reader = Reader(library, document, path.parent.resolve())
        return _Importer(reader, reader.process(process), dict(job or {})).workflow(path.stem)
    except RecursionError as exc:
        raise FormatError(f"{path.name} is nested too deep.") from exc


def load_job(path: Path, folder: Path | None = None) -> dict[str, Any]:
    """Return the values of a job file (YAML or JSON); its files are relative to its own folder, and named from the workflow's."""
    library = Library(path.parent)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise FormatError(f"{path} can't be read: {getattr(exc, 'strerror', None) or exc}.") from exc
    document = library.add(path.name, text)
    if not isinstance(document.data, dict):
        raise document.error("a job file gives names with values.", (0, 0))
    data: dict[str, Any] = whole_formats(document.data, document)
    if folder is not None and folder.resolve() != path.parent.resolve():
        data = _moved(data, os.path.relpath(path.parent.resolve(), folder.resolve()))
    return {key: value for key, value in data.items() if not key.startswith(("cwl:", "$")) or key == _JOB_NEEDS}


@cache
def common_blocks() -> dict[str, str]:
    """Return the code that runs tools, as common blocks by name."""
    folder = resources.files("kale_magic.formats").joinpath("runner")
    files = {"cwl": "kale_cwl.py", "cwl_run": "kale_cwl_run.py"}
    return {name: clean_code(folder.joinpath(file).read_text(encoding="utf-8")) for name, file in files.items()}


class _Importer:
    """Builds the steps of one workflow; a document with a tool alone is a workflow of one step."""

    def __init__(self, reader: Reader, process: dict[str, Any], job: dict[str, Any]) -> None:
        self.reader, self.process = reader, process
        job = whole_formats(job, reader.document)
        if _JOB_NEEDS in job:
            needs = reader.requirements({"requirements": job[_JOB_NEEDS]}, ())
            process["requirements"] = {**process["requirements"], **needs}
            process["hinted"] = [name for name in process["hinted"] if name not in needs]
        self.names: set[str] = set()
        self.variables: set[str] = {*_TAKEN, *keyword.kwlist}
        self.values: dict[str, Any] = {}
        self.places: dict[str, str] = {}
        for item in process["inputs"]:
            self.places[item["id"]] = self.variable(item["id"])
            value = job.get(item["id"], item.get("default"))
            self.values[item["id"]] = value
            self.check_files(value)

    def workflow(self, name: str) -> Workflow:
        needs = self.process["requirements"]
        script = "\n".join(needs["InlineJavascriptRequirement"].get("expressionLib") or []) if "InlineJavascriptRequirement" in needs else None
        if self.process["class"] == "Workflow":
            whole = normal_workflow(self.reader, self.process)
            steps = [self.step(step, script) for step in whole["steps"]]
            outputs = whole["outputs"]
        else:
            only = {
                "name": _step_name(self.process.get("label") or name, self.names), "run": self.process, "values": {}, "scatter": [],
                "method": "dotproduct", "when": None, "load": [], "doc": "",
                "in": [{"id": item["id"], "source": [item["id"]], "is_list": False, "merge": None} for item in self.process["inputs"]],
            }  # fmt: skip
            self.process["name"] = only["name"]
            steps = [self.step(only, script)]
            outputs = [{"id": item["id"], "source": [f"{only['name']}/{item['id']}"], "is_list": False, "merge": None} for item in self.process["outputs"]]
            self.process.pop("hinted")
        steps.append(self.last(outputs))
        return Workflow(
            name=_step_name(self.process.get("label") or name, set()),
            description=(self.process.get("doc") or "").strip().split("\n")[0],
            common=common_blocks(),
            steps={step.name: step for step in steps},
        )

    def step(self, step: dict[str, Any], script: str | None) -> Step:
        """Return the step that runs a tool."""
        self.names.add(step["name"].lower())
        tool = {**step["run"], "name": step["name"]}
        doc, _ = tool.pop("doc", ""), tool.pop("label", "")
        axes = self.axes(step)
        given, params = [], dict[str, object]()
        for item in step["in"]:
            text, used = self.source(item)
            given.append(f"    {item['id']!r}: {text},")
            params |= used
        outs = [self.place(f"{step['name']}/{item['id']}") for item in tool["outputs"]]
        rest = {} if axes else {"scatter": tuple(step["scatter"]), "method": step["method"]} if step["scatter"] else {}
        rest |= {key: value for key, value in (("values", step["values"]), ("when", step["when"]), ("load", step["load"])) if value}
        if (step["values"] or step["when"]) and script is not None:
            rest["script"] = script
        code = [
            f"tool = {pprint.pformat(tool, width=110, sort_dicts=False)}",
            "given = {" if given else "given = {}", *given, *(["}"] if given else []),
            f"made = cwl_step(tool, given{''.join(f', {key}={value!r}' for key, value in rest.items())})",
            *(f"{out} = made[{number}]" for number, out in enumerate(outs)),
        ]  # fmt: skip
        asked = tool["requirements"].get("ResourceRequirement", {})
        return Step(
            name=step["name"],
            code=clean_code("\n".join(code)),
            description=str(step.get("doc") or doc or "").strip(),
            params={key: value for key, value in params.items() if key not in {axis.name for axis in axes}},
            outputs=tuple(outs),
            each=axes,
            is_zipped=bool(axes) and step["method"] == "dotproduct" and len(axes) > 1,
            resources=Resources(cpus=_whole(asked.get("coresMin")), memory_bytes=_bytes(asked.get("ramMin"))),
        )

    def axes(self, step: dict[str, Any]) -> tuple[Axis, ...]:
        """Return a scatter as a sweep, if all it needs is known now."""
        if not step["scatter"] or step["when"] or step["method"] == "nested_crossproduct":
            return ()
        axes = []
        for name in step["scatter"]:
            item = next((one for one in step["in"] if one["id"] == name), None)
            if item is None or len(item["source"]) != 1 or item["is_list"] or item["source"][0] not in self.values:
                return ()
            values = self.values[item["source"][0]]
            if not isinstance(values, list) or not values or any(other["source"] == item["source"] for other in step["in"] if other is not item):
                return ()
            axes.append(Axis(self.places[item["source"][0]], tuple(values), to_literal(values)))
        if step["method"] == "dotproduct" and len({len(axis.values) for axis in axes}) > 1:
            return ()
        return tuple(axes)

    def source(self, item: dict[str, Any]) -> tuple[str, dict[str, object]]:
        """Return Python that gives the value of an input, and the parameters it uses."""
        texts, params = [], dict[str, object]()
        for name in item["source"]:
            texts.append(self.place(name))
            if name in self.values:
                params[self.place(name)] = self.values[name]
        if item["is_list"]:
            text = f"[{', '.join(texts)}]"
            text = f"cwl_flatten({text})" if item["merge"] == "merge_flattened" else text
        else:
            text = texts[0] if texts else "None"
        if item.get("pick"):
            text = f"cwl_pick({item['pick']!r}, {text})"
        if "default" in item:
            self.check_files(item["default"])
            default = to_literal(item["default"])
            text = default if text == "None" else f"cwl_or({text}, {default})"
        return text, params

    def last(self, outputs: list[dict[str, Any]]) -> Step:
        """Return the step that gathers the workflow's outputs."""
        lines, params = [], dict[str, object]()
        for item in outputs:
            text, used = self.source(item)
            lines.append(f"    {item['id']!r}: {text},")
            params |= used
        kinds = {item["id"]: item["type"] for item in outputs if "type" in item}
        code = ["outputs = {", *lines, "}", f"cwl_check({pprint.pformat(kinds, width=110, sort_dicts=False)}, outputs)", 'os.makedirs("cwl", exist_ok=True)', 'with open("cwl/outputs.json", "w", encoding="utf-8") as file:',
                "    json.dump(outputs, file, indent=1)", "print(json.dumps(outputs, indent=1))"]  # fmt: skip
        name = _step_name("cwl_outputs", self.names)
        return Step(name=name, code=clean_code("\n".join(code)), description="Gathers the outputs.", params=params, outputs=("outputs",))

    def place(self, name: str) -> str:
        """Return the variable of an input, or of a step's output."""
        if name not in self.places:
            self.places[name] = self.variable(name)
        return self.places[name]

    def variable(self, name: str) -> str:
        base = re.sub(r"[^A-Za-z0-9_]", "_", name)
        base = base if base[:1].isalpha() else f"v_{base}"
        found, number = base, 2
        while found in self.variables:
            found, number = f"{base}_{number}", number + 1
        self.variables.add(found)
        return found

    def check_files(self, value: Any) -> None:
        """Refuse files outside the folder."""
        if isinstance(value, list):
            for item in value:
                self.check_files(item)
        elif isinstance(value, dict):
            place = value.get("path") or value.get("location")
            if value.get("class") in {"File", "Directory"} and isinstance(place, str):
                self.reader.library.inside(place, self.reader.folder, self.reader.document, ())
            for item in value.values():
                self.check_files(item)


def normal_workflow(reader: Reader, process: dict[str, Any], path: tuple[str | int, ...] = ()) -> dict[str, Any]:
    """Return a workflow with its steps and outputs in one form, the tools of its steps inside."""
    taken: set[str] = set()
    names: dict[str, str] = {}
    for _, step in process["steps"]:
        step_id = reader.text(step.get("id"), path).rpartition("#")[2].rpartition("/")[2]
        names[step_id] = _step_name(step_id, taken)
    known = {item["id"] for item in process["inputs"]}
    steps = [_normal_step(reader, process, step, names, (*path, "steps", at)) for at, step in process["steps"]]
    made = {f"{step['name']}/{item['id']}" for step in steps for item in step["run"]["outputs"]}
    for item in process["outputs"]:
        reader.since_v1_2(item, (*path, "outputs"))
    outputs = [{**item, **_normal_source(item, item.get("outputSource"), names, reader, path)} for item in process["outputs"]]
    for item in (*outputs, *(one for step in steps for one in step["in"])):
        for source in item["source"]:
            if source not in known | made:
                raise reader.error(path, f"{item['id']} comes from {source!r}, which no step or input gives")
    _refuse_cycle(reader, steps, path)
    return {**process, "steps": steps, "outputs": outputs}


def _normal_step(reader: Reader, process: dict[str, Any], step: dict[str, Any], names: dict[str, str], path: tuple[str | int, ...]) -> dict[str, Any]:
    name = names[str(step["id"]).rpartition("#")[2].rpartition("/")[2]]
    reader.since_v1_2(step, path)
    run = {**_run_of(reader, process, step, path), "name": name}
    del run["hinted"]
    inputs, values, loads = [], dict[str, str](), []
    loading = {item["id"] for item in process["inputs"] if item.get("loadContents") or (item.get("inputBinding") or {}).get("loadContents")}
    for at, item in reader.numbered(step.get("in") or [], (*path, "in")):
        one = dict(item)
        source = one.get("source", one.get("type"))  # a map's short form is read as a type
        one_id = reader.text(one.get("id"), (*path, "in", at)).rpartition("#")[2].rpartition("/")[2]
        found = {"id": one_id, **_normal_source(one, source, names, reader, (*path, "in", at))}
        if "default" in one:
            found["default"] = one["default"]
        if "valueFrom" in one:
            values[one_id] = one["valueFrom"]
        if one.get("loadContents") or (not found["is_list"] and set(found["source"]) & loading):
            loads.append(one_id)
        inputs.append(found)
    asked = {str(item.get("id") if isinstance(item, dict) else item).rpartition("/")[2] for item in step.get("out") or []}
    there = {item["id"] for item in run["outputs"]}
    if missing := asked - there:
        raise reader.error((*path, "out"), f"the tool has no output {min(missing)!r}")
    scatter = step.get("scatter") or []
    scatter = [str(word).rpartition("/")[2] for word in (scatter if isinstance(scatter, list) else [scatter])]
    if unknown := [word for word in scatter if word not in {item["id"] for item in inputs}]:
        raise reader.error((*path, "scatter"), f"{unknown[0]!r} is no input of the step")
    own = {item["id"] for item in run["inputs"]}
    extra = [{"id": item["id"], "type": "Any"} for item in inputs if item["id"] not in own]
    if extra:  # inputs that only expressions of the step read
        run = {**run, "inputs": [*run["inputs"], *({**item, "type": ["null", "Any"]} for item in extra)]}
    doc = step.get("doc", "")
    return {
        "name": name, "run": run, "in": inputs, "values": values, "scatter": scatter, "method": step.get("scatterMethod", "dotproduct"),
        "when": step.get("when"), "load": loads, "doc": doc if isinstance(doc, str) else "\n".join(map(str, doc)),
    }  # fmt: skip


def _needs(process: dict[str, Any], own: dict[str, Any], hinted: list[str], run: dict[str, Any]) -> dict[str, Any]:
    """Return a tool's requirements: its own, then the step's, then the workflow's; hints in the same order after them."""
    layers = [(process["requirements"], process.get("hinted", [])), (own, hinted), (run["requirements"], run.get("hinted", []))]
    found: dict[str, Any] = {}
    for is_hint in (True, False):
        for needs, hints in layers:
            found |= {name: value for name, value in needs.items() if (name in hints) == is_hint}
    if "InitialWorkDirRequirement" not in run["requirements"]:
        found.pop("InitialWorkDirRequirement", None)
    return found


def _run_of(reader: Reader, around: dict[str, Any], step: dict[str, Any], at: tuple[str | int, ...]) -> dict[str, Any]:
    """Return the process of a step: inside, in the same file's ``$graph``, or in another file."""
    run, path = step.get("run"), (*at, "run")
    below: Reader
    if isinstance(run, dict) and set(run) == {"$import"}:
        run = run["$import"]
    if isinstance(run, dict):
        below = Reader(reader.library, reader.document, reader.folder, reader.depth + 1)
        below.types = reader.types
        process = below.one(run, path)
    else:
        name, _, fragment = reader.text(run, path).partition("#")
        document, folder = reader.document, reader.folder
        if name:
            document, folder = _document(reader, name, path)
        below = Reader(reader.library, document, folder, reader.depth + 1)
        process = below.process(fragment)
    process = _with_whole_defaults(process, below, reader)
    own = reader.requirements(step, at)
    process["requirements"] = _needs(around, own, reader.hinted(step, own, at), process)
    return normal_workflow(below, process, path) if process["class"] == "Workflow" else process


def _document(reader: Reader, name: str, path: tuple[str | int, ...]) -> tuple[Document, Path]:
    return reader.library.read(name, reader.folder, reader.document, path)


def _with_whole_defaults(process: dict[str, Any], below: Reader, reader: Reader) -> dict[str, Any]:
    """Return a process whose default files are named from the workflow's folder, not from the tool's."""
    if below.folder == reader.library.folder:
        return process
    shift = str(below.folder.relative_to(reader.library.folder))
    inputs = [{**item, "default": _moved(item["default"], shift)} if "default" in item else item for item in process["inputs"]]
    return {**process, "inputs": inputs}


def _moved(value: Any, shift: str) -> Any:
    """Return a value whose files are named from another folder, to which ``shift`` leads."""
    if isinstance(value, list):
        return [_moved(item, shift) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: _moved(item, shift) for key, item in value.items()}
    if value.get("class") in {"File", "Directory"}:
        places = {key: value[key] for key in ("path", "location") if isinstance(value.get(key), str)}
        found |= {key: os.path.normpath(f"{shift}/{place}") for key, place in places.items() if "://" not in place and not place.startswith("/")}
    return found


def _normal_source(item: dict[str, Any], source: Any, names: dict[str, str], reader: Reader, path: tuple[str | int, ...]) -> dict[str, Any]:
    sources = source if isinstance(source, list) else [] if source is None else [source]
    found = []
    for word in sources:
        text = reader.text(word, path).rpartition("#")[2]
        parts = text.split("/")
        step = names.get(parts[-2]) if len(parts) > 1 else None
        found.append(f"{step}/{parts[-1]}" if step is not None else parts[-1])
    merge = item.get("linkMerge")
    is_list = isinstance(source, list) and (len(source) != 1 or merge is not None or "pickValue" in item)
    return {"source": found, "is_list": is_list or (merge == "merge_nested"), "merge": merge, "pick": item.get("pickValue")}


def _refuse_cycle(reader: Reader, steps: list[dict[str, Any]], path: tuple[str | int, ...]) -> None:
    left = {step["name"]: {source.partition("/")[0] for item in step["in"] for source in item["source"] if "/" in source} for step in steps}
    while ready := [name for name, before in left.items() if not before & left.keys()]:
        for name in ready:
            del left[name]
    if left:
        raise reader.error((*path, "steps"), f"the steps {', '.join(left)} wait for each other")


def _step_name(text: str, taken: set[str]) -> str:
    base = re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_")
    base = base if base[:1].isalpha() else f"s_{base}"
    name, number = base[:64], 2
    while name.lower() in taken or not STEP_NAME.fullmatch(name):
        name, number = f"{base[:58]}_{number}", number + 1
    taken.add(name.lower())
    return name


def _whole(value: Any) -> int | None:
    return -int(-value // 1) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 1 else None


def _bytes(value: Any) -> int | None:
    found = _whole(value)
    return found << 20 if found else None
